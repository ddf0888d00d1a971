from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import GalleryError
from runtime.gallery import NewEntry
from tests.runtime.gallery.synthetic import DIMENSION, add, create, images, reopen

QUERIES = np.random.default_rng(99).standard_normal((5, DIMENSION)).astype(np.float32)


def brute_force(vectors: NDArray[np.float32], ids: NDArray[np.int64], count: int) -> tuple[Any, Any]:
    """Nearest by cosine in float64, ties by id."""
    wide, queries = vectors.astype(np.float64), QUERIES.astype(np.float64)
    cosine = (queries @ wide.T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(wide, axis=1)
    cosine = cosine.astype(np.float32)
    order = np.array([np.lexsort((ids, -row))[:count] for row in cosine])
    return ids[order], np.take_along_axis(cosine, order, 1)


@pytest.mark.parametrize("size", [1, 7, 39, 500], ids=lambda n: f"{n} entries")
@pytest.mark.parametrize("space", ["cls", "descriptor"])
def test_answers_are_exact_and_in_order(tmp_path: Path, size: int, space: str) -> None:
    with create(tmp_path / "g", range(size)) as gallery:
        gallery.warm_up()
        gone = range(3, size, 5)
        if len(gone):
            gallery.remove(entries=gone)
        left = np.array([id_ for id_ in range(1, size + 1) if id_ not in gone])
        batch = images(left - 1)
        ask = gallery.search if space == "cls" else gallery.rank
        for count in (1, 10, size):
            found = ask(QUERIES, count)
            ids, cosine = brute_force(batch.cls if space == "cls" else batch.descriptor, left, count)
            np.testing.assert_array_equal(found.entries, ids)
            np.testing.assert_allclose(found.cosine, cosine, rtol=0, atol=1e-7)
            assert found.entries.dtype == np.int64
            assert found.cosine.dtype == np.float32


def test_hnsw_is_used_and_stays_right_while_entries_come_and_go(tmp_path: Path) -> None:
    create(tmp_path / "g", range(600)).close()
    with reopen(tmp_path / "g") as gallery, reopen(tmp_path / "g", writable=True) as writer:
        gallery.warm_up()
        assert set(gallery.snapshot().graphs) == {"cls", "descriptor"}
        add(writer, range(600, 615))  # too few to be taken into HNSW
        writer.remove(entries=range(1, 200))
        gallery.refresh()
        assert gallery.snapshot().graphs["cls"].last_entry == 600
        found = gallery.search(QUERIES, 10)
        ids, _ = brute_force(images(range(199, 615)).cls, np.arange(200, 616), 10)
        np.testing.assert_array_equal(found.entries, ids)


def test_without_its_hnsw_a_gallery_answers_exactly_and_the_writer_makes_it_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create(tmp_path / "g", range(100)).close()
    for path in (tmp_path / "g").glob("*.graph"):
        path.unlink()
    expected, _ = brute_force(images(range(100)).cls, np.arange(1, 101), 4)
    with reopen(tmp_path / "g") as gallery:
        gallery.warm_up()
        assert "searching exactly" in caplog.text
        np.testing.assert_array_equal(gallery.search(QUERIES, 4).entries, expected)
        assert not gallery.verify().clean
    with reopen(tmp_path / "g", writable=True) as gallery:
        gallery.fold()
        assert gallery.verify().clean
        gallery.warm_up()
        assert len(gallery.snapshot().graphs["cls"]) == 100


def test_equal_vectors_are_ordered_by_id(tmp_path: Path) -> None:
    batch = images([0])
    with create(tmp_path / "g") as gallery:
        records = [NewEntry("x", content_hash=str(k)) for k in range(30)]
        cls, descriptor = np.repeat(batch.cls, 30, axis=0), np.repeat(batch.descriptor, 30, axis=0)
        gallery.add(records, cls, descriptor, np.repeat(batch.patches, 30, axis=0))
        np.testing.assert_array_equal(gallery.search(QUERIES, 12).entries, np.tile(np.arange(1, 13), (5, 1)))


def test_the_index_grows_without_a_cap(tmp_path: Path) -> None:
    with create(tmp_path / "g") as gallery:
        for start in range(0, 400, 25):
            add(gallery, range(start, start + 25))
        assert gallery.info().indexed["cls"] >= 375
        report = gallery.verify()
        assert report.clean
        assert min(report.recall.values()) > 0.95


@pytest.mark.parametrize(
    "queries",
    [np.ones((2, 3)), np.zeros((1, DIMENSION)), np.full((1, DIMENSION), np.nan), np.ones(DIMENSION)],
    ids=["dimension", "zero", "nan", "one vector"],
)
def test_bad_queries(tmp_path: Path, queries: NDArray[np.float64]) -> None:
    with create(tmp_path / "g", range(3)) as gallery, pytest.raises(GalleryError):
        gallery.search(queries.astype(np.float32), 2)


def test_removed_ids_end_the_query_under_way_and_no_other(tmp_path: Path) -> None:
    with create(tmp_path / "g", range(20)) as writer, reopen(tmp_path / "g") as reader:
        found = reader.search(images([4]).cls, 1).entries[0]
        view = reader.snapshot()
        writer.remove(entries=found.tolist())
        add(writer, [50])
        assert reader.refresh()
        assert found[0] not in reader.search(images([4]).cls, 20).entries
        assert reader.entries([int(found[0]), 21])[0].id == found[0]  # the query may end
        assert view.tokens(found).cls.shape == (1, DIMENSION)
        assert not reader.refresh()


def test_unknown_ids_are_an_error(tmp_path: Path) -> None:
    with create(tmp_path / "g", range(3)) as gallery:
        with pytest.raises(GalleryError, match="entry 4 is not in the gallery"):
            gallery.entries([4])
        with pytest.raises(GalleryError, match="entry 4 is not in the gallery"):
            gallery.tokens(np.array([4]))
