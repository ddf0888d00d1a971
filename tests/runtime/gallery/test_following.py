"""Readers follow a writer within the stated bound, without failing a query."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import GalleryError
from runtime.gallery import Gallery, Settings, follower
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


# Follows a gallery as a user who may read it and nothing else; answers each line with what it holds.
BYSTANDER = """
import os, sys
import numpy.testing  # here, as the user it becomes may not read Python's own files
from pathlib import Path
from tests.runtime.gallery.synthetic import held, reopen
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
with reopen(Path(sys.argv[1])) as gallery:
    for line in sys.stdin:
        gallery.refresh()
        print(*sorted(held(gallery)), flush=True)
"""


def test_a_reader_that_may_not_write_there_follows_too() -> None:
    with tempfile.TemporaryDirectory() as place:  # not the test's own folder, which nobody else may enter
        Path(place).chmod(0o755)
        folder = Path(place) / "g"
        create(folder, range(12)).close()
        folder.chmod(0o755 if os.geteuid() == 0 else 0o555)
        command = [sys.executable, "-c", BYSTANDER, str(folder)]
        root = Path(__file__).parents[3]
        with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdin is not None
            assert reader.stdout is not None

            def seen() -> set[int]:
                print(file=reader.stdin, flush=True)
                return {int(number) for number in reader.stdout.readline().split()}  # type: ignore[union-attr]

            assert seen() == set(range(12))
            folder.chmod(0o755)
            with reopen(folder, writable=True) as gallery:
                gallery.remove(identity="Person Nr 00000")
            assert seen() == set(range(4, 12))
            with reopen(folder, writable=True) as gallery:
                add(gallery, range(100, 140))
                gallery.compact()
            assert seen() == {*range(4, 12), *range(100, 140)}
            reader.stdin.close()
        assert reader.returncode == 0


def test_compacted_segments_are_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the vectors of erased people stay in memory, and their space on the disk taken."""
    monkeypatch.setattr(follower, "_GRACE_SECONDS", 0.05)
    with create(tmp_path / "g", range(20)) as writer, reopen(tmp_path / "g") as reader:
        assert held(reader) == set(range(20))
        writer.remove(identity="Person Nr 00000")
        reader.refresh()
        writer.compact()
        reader.refresh()
        time.sleep(0.1)
        writer.refresh()
        reader.refresh()
        maps = Path("/proc/self/maps").read_text().splitlines()
        assert [line for line in maps if str(tmp_path) in line and "deleted" in line] == []


def test_a_graph_that_fails_to_load_is_not_tried_at_every_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    with create(tmp_path / "g", range(60)) as writer:
        writer.fold()
    with reopen(tmp_path / "g") as reader:
        monkeypatch.setattr(follower, "read_graph", fail)
        reader.warm_up()
        for _ in range(5):
            reader.search(images([0]).cls, 1)
        assert caplog.text.count("MemoryError") == 2  # once a space


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
