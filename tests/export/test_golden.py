"""The authors' own answers (`official_11.npz`), reproduced by the exported graphs and the runtime that deploys them."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.write import ExportOptions, export_bundle
from runtime.bundle import Bundle
from runtime.encoder import Encoder, Features
from runtime.gallery import Gallery, NewEntry
from runtime.matching import Consolidator, Matcher, Neighbours
from tests.paths import GOLDEN

pytestmark = pytest.mark.slow

Arrays = dict[str, NDArray[np.float32]]
REFERENCE = "onnxruntime"
"""Multiplies in float32; `auto` may take bfloat16, which moves tokens by more than is asked for here."""
CAMERAS = tuple(f"c{number}" for number in range(1, 9))


@pytest.fixture(scope="module")
def official() -> Arrays:
    with np.load(GOLDEN / "official_11.npz", allow_pickle=False) as answers:
        return dict(answers)


@pytest.fixture(scope="module")
def seeded() -> Iterator[ModuleType]:
    """The script that rebuilds checkpoint and crops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(GOLDEN))
        patch.setattr(sys, "dont_write_bytecode", True)  # the folder is not ours to write to
        yield importlib.import_module("seeded_checkpoint")


@pytest.fixture(scope="module")
def state(seeded: ModuleType) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in seeded.seeded_state_dict().items()}


@pytest.fixture(scope="module")
def bundle(state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("golden")
    torch.save(state, folder / "fpc.pth")
    return export_bundle(folder / "fpc.pth", folder / "bundle", ExportOptions(camera_names=CAMERAS))


@pytest.fixture(scope="module")
def query(bundle: Bundle, seeded: ModuleType) -> Features:
    crops, cameras = seeded.query_crops()
    return Encoder(bundle, sparse=True, engine=REFERENCE).encode(crops, cameras)


@pytest.fixture(scope="module")
def dense(bundle: Bundle, seeded: ModuleType) -> Features:
    crops, cameras = seeded.gallery_crops()
    encoder = Encoder(bundle, sparse=False, engine=REFERENCE)
    parts = [encoder.encode(crops[at : at + 15], cameras[at : at + 15]) for at in range(0, len(crops), 15)]
    return Features(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("cls", "patches", "descriptor"))
    )


@pytest.fixture(scope="module")
def gallery(bundle: Bundle, dense: Features, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """The real gallery, which keeps patches in float16; entry ids are the row numbers plus the first id."""
    gallery = Gallery.create(tmp_path_factory.mktemp("gallery") / "g", bundle.binding, 768, 242)
    gallery.add([NewEntry(f"{row}", source=f"{row}") for row in range(120)], dense.cls, dense.descriptor, dense.patches)
    return gallery


@pytest.fixture(scope="module")
def neighbours(bundle: Bundle, query: Features, gallery: Gallery) -> Neighbours:
    settings = bundle.manifest.matching
    found = gallery.search(query.cls, settings.refine)
    return Matcher(bundle, settings, REFERENCE).refine(query, found.entries, found.cosine, gallery)


def rows(gallery: Gallery, entries: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of the golden arrays for each entry id."""
    return np.array([[int(entry.identity) for entry in gallery.entries(list(map(int, ids)))] for ids in entries])


def test_sparse_tokens_and_descriptor(query: Features, official: Arrays) -> None:
    tokens = np.concatenate([query.cls[:, None], query.patches], axis=1)
    assert np.abs(tokens - official["sparse_tokens"]).max() < 1e-4
    assert np.abs(query.descriptor - official["sparse_descriptor"]).max() < 1e-4


def test_kept_patches_are_the_same_at_every_block(query: Features, official: Arrays) -> None:
    places = np.tile(np.arange(242), (4, 1))
    for block in (3, 6, 9):  # indices into the tokens alive at that block
        places = np.take_along_axis(places, official[f"kept_block{block}"].astype(np.int64), 1)
    assert query.kept is not None
    assert [set(row) for row in query.kept] == [set(row) for row in places]


def test_dense_tokens_and_descriptors(dense: Features, official: Arrays) -> None:
    assert np.abs(dense.cls - official["dense_cls"]).max() < 1e-4
    assert np.abs(dense.patches[:4] - official["dense_patches_first4"]).max() < 1e-4
    assert np.abs(dense.descriptor - official["gallery_descriptor"]).max() < 1e-4


def test_neighbours_by_cosine_and_combined(
    query: Features, gallery: Gallery, neighbours: Neighbours, official: Arrays
) -> None:
    by_cosine = rows(gallery, gallery.search(query.cls, 10).entries)
    np.testing.assert_array_equal(by_cosine, official["neighbours_cosine"])
    combined = rows(gallery, neighbours.entries)
    assert [set(row) for row in combined] == [set(row) for row in official["neighbours_combined"]]


def test_consolidated_descriptor_and_final_similarity(
    bundle: Bundle, query: Features, gallery: Gallery, neighbours: Neighbours, official: Arrays
) -> None:
    descriptor = Consolidator(bundle, REFERENCE).consolidate(query, neighbours)
    reference = official["consolidated_descriptor"]
    cosine = (descriptor * reference).sum(1) / np.linalg.norm(descriptor, axis=1) / np.linalg.norm(reference, axis=1)
    assert cosine.min() >= 0.99999
    ranked = gallery.rank(descriptor, 120)
    similarity = np.empty((4, 120), np.float32)
    np.put_along_axis(similarity, rows(gallery, ranked.entries), ranked.cosine, 1)
    assert np.abs(similarity - official["final_similarity"]).max() < 1e-4


def test_transreid_naming_gives_the_same_descriptors(
    state: dict[str, torch.Tensor], seeded: ModuleType, official: Arrays, tmp_path: Path
) -> None:
    """The published weights under TransReID's names: the global branch is the same function."""
    names = {"b1.0.": "base.blocks.11.", "b1.1.": "base.norm."}
    renamed = {key: value for key, value in state.items() if not key.startswith(("rec_", "b1."))}
    for ours, theirs in names.items():
        renamed |= {key.replace(ours, theirs): value for key, value in state.items() if key.startswith(ours)}
    torch.save(renamed, tmp_path / "transreid.pth")
    bundle = export_bundle(tmp_path / "transreid.pth", tmp_path / "bundle")
    assert (bundle.manifest.model.source_format, bundle.has("decoder")) == ("transreid", False)
    crops, cameras = seeded.gallery_crops()
    dense = Encoder(bundle, sparse=False, engine=REFERENCE).encode(crops[:4], cameras[:4])
    assert np.abs(dense.descriptor - official["gallery_descriptor"][:4]).max() < 1e-4
    crops, cameras = seeded.query_crops()
    sparse = Encoder(bundle, sparse=True, engine=REFERENCE).encode(crops, cameras)
    assert np.abs(sparse.descriptor - official["sparse_descriptor"]).max() < 1e-4
