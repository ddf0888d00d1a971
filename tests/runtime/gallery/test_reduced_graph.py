"""HNSW over fewer coordinates than the vectors have."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import GalleryError
from runtime.gallery import Gallery, NewEntry, graph, graph_file
from tests.runtime.gallery.synthetic import BINDING, SMALL

DIMENSION, COORDINATES = 64, 16
SETTINGS = replace(SMALL, segment_entries=256, index_coordinates=COORDINATES)


def vectors(first: int, count: int, side: int = 0) -> NDArray[np.float32]:
    """(count, D) of five images a person, nearly all of it within 7 directions; other ones for each `side`."""
    directions = np.linalg.qr(np.random.default_rng(1).standard_normal((DIMENSION, DIMENSION)))[0]
    images = []
    for k in range(first, first + count):
        person = np.random.default_rng([2, k // 5]).standard_normal(7)
        image = np.random.default_rng([3, k])
        inside = (person + 0.5 * image.standard_normal(7)) @ directions[7 * side : 7 * side + 7]
        images.append(inside + 0.05 * image.standard_normal(DIMENSION))
    return np.array(images, np.float32)


def add(gallery: Gallery, cls: NDArray[np.float32], mark: str) -> None:
    facts = [NewEntry(f"{mark}{k // 5}", content_hash=f"{mark}-{k}") for k in range(len(cls))]
    gallery.add(facts, cls, cls[:, ::-1])


def reopen(folder: Path, writable: bool = False, whole: bool = False) -> Gallery:
    settings = replace(SETTINGS, index_coordinates=DIMENSION) if whole else SETTINGS
    gallery = Gallery.open(folder, BINDING, writable, settings=settings)
    gallery.warm_up()
    return gallery


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Gallery.create(tmp_path / "g", BINDING, DIMENSION, 0, settings=SETTINGS) as gallery:
        add(gallery, vectors(0, 600), "a")
    return tmp_path / "g"


def basis_of(gallery: Gallery) -> NDArray[np.float32]:
    """(D, R), with R of 0 where vectors are whole."""
    gallery.warm_up()
    basis = gallery.snapshot().graphs["cls"].basis
    return np.empty((DIMENSION, 0), np.float32) if basis is None else basis


def recall(gallery: Gallery, asked: NDArray[np.float32]) -> float:
    """Share of the exact nearest 10; what HNSW found must have the cosines that exact search gives it."""
    view = gallery.snapshot()
    found, exact = view.nearest("cls", asked, 10), view.nearest("cls", asked, 10, exact=True)
    for query in range(len(asked)):
        _, here, there = np.intersect1d(found.entries[query], exact.entries[query], return_indices=True)
        np.testing.assert_array_equal(found.cosine[query, here], exact.cosine[query, there])
    return float(np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found.entries, exact.entries, strict=True)]))


def test_long_vectors_are_reduced_and_answers_scored_by_the_whole_ones(folder: Path) -> None:
    with reopen(folder) as gallery:
        for space in ("cls", "descriptor"):
            held = gallery.snapshot().graphs[space]
            assert held.index.dim == COORDINATES
            assert held.basis is not None
            np.testing.assert_allclose(held.basis.T @ held.basis, np.eye(COORDINATES), atol=1e-5)
        assert recall(gallery, vectors(10_000, 50)) > 0.97


def test_vectors_that_no_basis_carries_stay_whole(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((300, DIMENSION)).astype(np.float32)
    with Gallery.create(tmp_path / "g", BINDING, DIMENSION, 0, settings=SETTINGS) as gallery:
        add(gallery, noise, "noise")
        assert not basis_of(gallery).size
        assert gallery.snapshot().graphs["cls"].index.dim == DIMENSION


def test_adding_removing_compacting_and_verifying_go_on(folder: Path) -> None:
    with reopen(folder, writable=True) as gallery:
        before = basis_of(gallery)
        add(gallery, vectors(600, 100), "b")
        gallery.fold()
        np.testing.assert_array_equal(before, basis_of(gallery))  # extended, not built anew
        assert gallery.info().indexed == {"cls": 700, "descriptor": 700}
        gallery.remove(entries=range(1, 120))
        assert recall(gallery, vectors(10_000, 50)) > 0.97
        assert gallery.verify().clean
        gallery.compact()
        assert gallery.info().indexed == {"cls": 581, "descriptor": 581}
        report = gallery.verify()
        assert report.clean
        assert min(report.recall.values()) > 0.97
        assert not np.array_equal(before, basis_of(gallery))  # nothing is left of those that were removed


def test_a_basis_that_later_entries_outgrow_is_learnt_anew(folder: Path) -> None:
    with reopen(folder, writable=True) as gallery:
        first = basis_of(gallery)
        other = vectors(0, 100, side=1)
        add(gallery, other, "other")
        gallery.fold()
        units = other / np.linalg.norm(other, axis=1, keepdims=True)
        assert graph.carried(units, first) < graph.LEAST_CARRIED
        assert not np.array_equal(first, basis_of(gallery))
        assert recall(gallery, vectors(10_000, 30, side=1)) > 0.97


def test_a_gallery_of_whole_vectors_opens_and_stays_so_until_built_anew(folder: Path) -> None:
    with reopen(folder, writable=True, whole=True) as gallery:
        gallery.remove(entries=range(1, 200))
        gallery.compact()
        assert not basis_of(gallery).size
    with reopen(folder, writable=True) as gallery:
        add(gallery, vectors(600, 30), "b")
        gallery.fold()
        assert not basis_of(gallery).size
        assert recall(gallery, vectors(10_000, 30)) > 0.97
        gallery.remove(entries=range(200, 400))
        gallery.fold()
        assert basis_of(gallery).size


def test_a_damaged_basis_is_seen_and_repaired(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = next(folder.glob("cls-*.graph"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # the basis is the end of the file
    path.write_bytes(content)
    with reopen(folder) as gallery:
        assert "does not match its checksum; searching exactly" in caplog.text
        assert recall(gallery, vectors(10_000, 10)) == 1
    with reopen(folder, writable=True) as gallery:
        assert gallery.verify(repair=True).clean
        assert basis_of(gallery).size


def with_basis(content: bytes, change: Callable[[NDArray[np.float32]], object]) -> bytes:
    size = 4 * DIMENSION * COORDINATES
    basis = np.frombuffer(content[-size:], np.float32).reshape(DIMENSION, COORDINATES).copy()
    change(basis)
    return content[:-size] + basis.tobytes()


def with_header(content: bytes, **values: object) -> bytes:
    (length,) = struct.unpack_from("<I", content, 8)
    header = {**json.loads(content[12 : 12 + length]), **values}
    text = json.dumps({name: value for name, value in header.items() if value is not None}).encode()
    return content[:8] + struct.pack("<I", len(text)) + text + content[12 + length :]


@pytest.mark.parametrize(
    "harm",
    [
        lambda c: with_basis(c, lambda b: b.fill(np.nan)),
        lambda c: with_basis(c, lambda b: b.fill(np.inf)),
        lambda c: with_basis(c, lambda b: b.fill(0)),
        lambda c: with_basis(c, lambda b: np.multiply(b, 1e30, out=b)),
        lambda c: with_basis(c, lambda b: b.__setitem__((slice(None), 0), b[:, 1])),
        lambda c: with_header(c, coordinates=-1),
        lambda c: with_header(c, coordinates=DIMENSION + 1) + bytes(4 * DIMENSION * (DIMENSION + 1 - COORDINATES)),
        lambda c: with_header(c, coordinates=None),
        lambda c: with_header(c, coordinates="many"),
        lambda c: c[:-4],
    ],
    ids=["nan", "infinite", "zero", "huge", "twice the same", "negative", "too many", "none", "text", "cut"],
)
def test_hostile_bases_are_refused(folder: Path, harm: Callable[[bytes], bytes]) -> None:
    content = next(folder.glob("cls-*.graph")).read_bytes()
    assert graph_file.parse(content, "cls", DIMENSION).basis is not None
    with pytest.raises(GalleryError, match="the HNSW links of cls are damaged"):
        graph_file.parse(harm(content), "cls", DIMENSION)


def test_files_from_before_vectors_could_be_reduced_are_read() -> None:
    whole = graph.empty(100, DIMENSION, None, SETTINGS)
    graph.extend(whole, np.arange(1, 101), vectors(0, 100))
    old = with_header(graph_file.to_bytes(whole, "cls"), coordinates=None)
    assert graph_file.parse(old, "cls", DIMENSION).basis is None


def test_the_same_vectors_give_the_same_basis() -> None:
    units = vectors(0, 200) / np.linalg.norm(vectors(0, 200), axis=1, keepdims=True)
    first, second = graph.learn_basis(units, COORDINATES), graph.learn_basis(units.copy(), COORDINATES)
    assert first is not None
    np.testing.assert_array_equal(first, second)
