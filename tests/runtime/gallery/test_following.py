"""Readers follow a writer within the stated bound, without failing a query."""

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import GalleryError
from runtime.gallery import Gallery, Settings
from tests.runtime.gallery.synthetic import BINDING, DIMENSION, add, create, held, images, reopen

PROMPT = Settings(segment_entries=16, index_from=40, fold_after=20, refresh_seconds=0.05)


def test_search_follows_by_itself_once_its_view_is_too_old(tmp_path: Path) -> None:
    with (
        create(tmp_path / "g", range(20)) as writer,
        Gallery.open(tmp_path / "g", BINDING, settings=PROMPT) as reader,
    ):
        assert reader.search(images([3]).cls, 1).entries.tolist() == [[4]]
        writer.remove(entries=[4])
        time.sleep(PROMPT.refresh_seconds)
        assert 4 not in reader.search(images([3]).cls, 20).entries
        add(writer, [40])
        time.sleep(PROMPT.refresh_seconds)
        assert reader.search(images([40]).cls, 1).entries.tolist() == [[21]]


def test_default_bound_is_a_second(tmp_path: Path) -> None:
    assert Settings().refresh_seconds == 1.0


def test_reader_keeps_up_with_compaction_under_it(tmp_path: Path) -> None:
    with create(tmp_path / "g", range(100)) as writer, reopen(tmp_path / "g") as reader:
        reader.warm_up()
        before = reader.snapshot()
        writer.remove(entries=range(10, 60))
        writer.compact()
        found = before.nearest("cls", images([12]).cls, 1)  # files are gone, the mapping is not
        assert found.entries.tolist() == [[13]]
        assert reader.refresh()
        assert held(reader) == set(range(9)) | set(range(59, 100))


def query_until(stop: threading.Event, reader: Gallery, removed_at: dict[int, float], problems: list[str]) -> None:
    """Query at full load; note failures, and answers from entries removed longer ago than the bound."""
    queries = np.random.default_rng(0).standard_normal((50, DIMENSION)).astype(np.float32)
    asked = 0
    while not stop.is_set():
        query, start = queries[asked % 50 : asked % 50 + 1], time.monotonic()
        try:
            found = reader.search(query, 8).entries[0]
            reader.tokens(found)
            reader.entries([*found.tolist(), *reader.rank(query, 5).entries[0].tolist()])
        except Exception as error:  # whatever it is, it is a failed query
            problems.append(repr(error))
        limit = start - reader.settings.refresh_seconds
        problems += [f"entry {id_} is late" for id_ in found.tolist() if removed_at.get(id_, np.inf) < limit]
        asked += 1


def test_no_query_fails_and_none_is_late_while_a_writer_works(tmp_path: Path) -> None:
    removed_at: dict[int, float] = {}
    problems: list[str] = []
    stop = threading.Event()
    with (
        create(tmp_path / "g", range(60)) as writer,
        Gallery.open(tmp_path / "g", BINDING, settings=PROMPT) as reader,
    ):
        threads = [threading.Thread(target=query_until, args=(stop, reader, removed_at, problems)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for turn in range(30):
            ids = add(writer, range(100 + 10 * turn, 110 + 10 * turn)).added
            for id_ in writer.remove(entries=ids[:8]):
                removed_at[id_] = time.monotonic()
            if turn % 10 == 9:
                writer.compact()
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []


def test_gallery_on_read_only_media(tmp_path: Path) -> None:
    create(tmp_path / "g", range(10)).close()
    for path in (tmp_path / "g").iterdir():
        path.chmod(0o444)
    (tmp_path / "g").chmod(0o555)
    try:
        with reopen(tmp_path / "g") as gallery:
            assert held(gallery) == set(range(10))
    finally:
        (tmp_path / "g").chmod(0o755)


def test_another_gallery_in_its_place_is_said(tmp_path: Path) -> None:
    """As by `index build --overwrite`: whom the new one lacks the old files would still name."""
    with create(tmp_path / "g", range(5)), reopen(tmp_path / "g") as reader:
        assert held(reader) == set(range(5))
        create(tmp_path / "new", range(2)).close()
        (tmp_path / "g").rename(tmp_path / "old")
        (tmp_path / "new").rename(tmp_path / "g")
        with pytest.raises(GalleryError, match="was replaced or removed while in use: start again"):
            reader.refresh()
        shutil.rmtree(tmp_path / "g")
        with pytest.raises(GalleryError, match="was replaced or removed while in use: start again"):
            reader.refresh()
