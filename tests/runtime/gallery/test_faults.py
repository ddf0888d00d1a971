"""The disk fails under a writer: it says so, the gallery is as before or after, and goes on once the disk is well."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from runtime.errors import GalleryError
from runtime.gallery import Gallery
from runtime.gallery.disk import Disk
from tests.runtime.gallery.synthetic import add, create, held, reopen

Change = Callable[[Gallery], object]
CHANGES: dict[str, tuple[Change, set[int]]] = {
    "add": (lambda g: add(g, range(60, 90)), set(range(90))),
    "remove": (lambda g: g.remove(identity="Person Nr 00003"), set(range(60)) - set(range(12, 16))),
    "compact": (lambda g: g.compact(), set(range(60))),
}


def error_of(change: Change, gallery: Gallery) -> str | None:
    """Make a change; return what its error says, or None where there was none."""
    try:
        change(gallery)
    except GalleryError as error:
        return str(error)
    return None


class FailingDisk(Disk):
    """Lets so many calls of one kind pass, then fails that call and every one after it."""

    def __init__(self, kind: str, passing: int, code: int) -> None:
        self.kind, self.left, self.code, self.failed, self.healed = kind, passing, code, 0, False

    def _count(self, kind: str) -> None:
        if self.healed or kind != self.kind:
            return
        self.left -= 1
        if self.left < 0:
            self.failed += 1
            raise OSError(self.code, os.strerror(self.code))

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        try:
            self._count("write")
        except OSError:
            os.pwrite(fd, data[: len(data) // 2], offset)  # a full disk takes what still fits
            raise
        return super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        self._count("sync")
        super().sync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._count("rename")
        super().rename(source, target)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("kind", "code"), [("write", errno.ENOSPC), ("sync", errno.EIO), ("rename", errno.EACCES)], ids=lambda v: str(v)
)
def test_every_failing_call(tmp_path: Path, change: str, kind: str, code: int) -> None:
    make, after = CHANGES[change]
    before, failures = set(range(60)), 0
    for passing in range(40):
        disk = FailingDisk(kind, 1000, code)
        with create(tmp_path / str(passing), range(60), disk) as gallery:
            if change == "compact":
                gallery.remove(entries=range(1, 20))
                before = after = set(range(19, 60))
            disk.left = passing
            said = error_of(make, gallery)
            assert said is None or (str(gallery.folder) in said and "\n" not in said)
            failed = disk.failed
            failures += failed > 0
            disk.healed = True
            gallery.refresh()
            assert held(gallery) in (before, after)
        with reopen(tmp_path / str(passing)) as gallery:
            assert held(gallery) in (before, after)
            # A half-written note and missing links are told, and put right by the next writer.
            told = {problem.where for problem in gallery.verify(recall_queries=3).problems}
            assert told <= ({"graphs", "head"} if failed else set())
        with reopen(tmp_path / str(passing), writable=True) as gallery:
            make(gallery)
            gallery.fold()
            assert held(gallery) == after
            assert gallery.verify(recall_queries=3).problems == ()
        if not failed:
            break
    else:
        pytest.fail("the change never came to an end")
    # Removing is a matter of the database alone: no call of ours can fail it but the note's, which it does without.
    assert failures > (0 if change != "remove" else -1)


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Lets no file of this process grow beyond a size: pwrite and SQLite alike get EFBIG, as they get ENOSPC."""
    old_limit, old_handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, old_limit[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
    signal.signal(signal.SIGXFSZ, old_handler)


@pytest.mark.parametrize("room", range(0, 120_000, 8_000), ids=lambda n: f"{n} bytes")
def test_files_that_cannot_grow(tmp_path: Path, full_disk: Callable[[int], None], room: int) -> None:
    with create(tmp_path / "g", range(60)) as gallery:
        full_disk(room)
        acknowledged = set(range(60))
        for number in range(60, 90, 3):
            if error_of(partial(add, numbers=range(number, number + 3)), gallery) is None:
                acknowledged |= {number, number + 1, number + 2}
        assert held(gallery) == acknowledged
        full_disk(resource.RLIM_INFINITY)
    with reopen(tmp_path / "g", writable=True) as gallery:
        assert held(gallery) == acknowledged
        add(gallery, range(60, 90))
        gallery.fold()
        assert held(gallery) == set(range(90))
        assert gallery.verify(recall_queries=3).problems == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    script = "import sys; from tests.runtime.gallery.test_faults import fill; fill(sys.argv[1])"
    command = f'mount -t tmpfs -o size=1m tmpfs "{mount}" && "{sys.executable}" -c "{script}" "{mount}/g"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, timeout=120)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "full, and well again" in done.stdout


def fill(name: str) -> None:
    """Add to a gallery until its disk is full."""
    folder = Path(name)
    acknowledged: set[int] = set()
    with create(folder) as gallery:
        for number in range(5000):
            if error_of(partial(add, numbers=[number]), gallery):
                break
            acknowledged.add(number)
        else:
            raise AssertionError("the disk never was full")
        assert held(gallery) == acknowledged
    with reopen(folder, writable=True) as gallery:
        assert held(gallery) == acknowledged
        assert gallery.verify(recall_queries=3).clean
    print(f"{len(acknowledged)} entries: full, and well again")
