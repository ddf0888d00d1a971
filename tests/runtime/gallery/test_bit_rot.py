"""Bytes flip on the disk: repaired from the truth, or reported with the entry; never a wrong answer, never a crash."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import GalleryError
from runtime.gallery import Gallery
from tests.runtime.gallery.synthetic import DIMENSION, add, create, identity_of, images, number_of, reopen

SIZE = 60
QUERIES = images(range(1000, 1004)).cls
FLIPS = 200


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery with full segments, HNSW, removed entries, an audit log, and changes that are in the WAL alone."""
    work = tmp_path_factory.mktemp("sound")
    with create(work / "g", range(SIZE)) as gallery:
        gallery.remove(identity=identity_of(9), reason="asked for")
        add(gallery, range(SIZE, SIZE + 5))
        # Copied while it is open: closing would fold the WAL into the database.
        shutil.copytree(work / "g", work / "copy")
    assert (work / "copy" / "gallery.db-wal").stat().st_size > 0
    shutil.copytree(work / "copy", work / "tried")
    with reopen(work / "tried") as gallery:
        assert gallery.verify().clean
    shutil.copytree(work / "g", work / "closed")
    return work


TRUTH = (set(range(SIZE)) - set(range(8, 12))) | set(range(SIZE, SIZE + 5))


def exact(numbers: set[int], count: int) -> list[list[int]]:
    """The images nearest to the queries among those left, best first."""
    left = np.array(sorted(numbers))
    vectors = images(left).cls.astype(np.float64)
    cosine = QUERIES.astype(np.float64) @ vectors.T / np.linalg.norm(vectors, axis=1)
    return [left[row][:count].tolist() for row in np.argsort(-cosine, axis=1)]


def check_answers(gallery: Gallery) -> set[int]:
    """Every answer is that of a gallery of the entries it still has; return the images of those."""
    gallery.search(QUERIES, len(gallery))  # touches every vector
    for _ in range(len(gallery)):
        view = gallery.snapshot()
        try:
            tokens = view.tokens(view.rows.ids)
            break
        except GalleryError:  # names the damaged entry, and leaves it out from now on
            continue
    else:
        raise AssertionError("damaged entries are not left out")
    numbers = [number_of(entry.source) for entry in view.entries(view.rows.ids.tolist())]
    expected = images(numbers)
    np.testing.assert_array_equal(tokens.cls, expected.cls)
    np.testing.assert_array_equal(tokens.patches, expected.patches)
    assert [view.rows.texts[i][0] for i in range(len(view))] == [record.identity for record in expected.records]
    found = gallery.search(QUERIES, 5).entries
    by_id = dict(zip(view.rows.ids.tolist(), numbers, strict=True))
    assert [[by_id[id_] for id_ in row] for row in found.tolist()] == exact(set(numbers), 5)
    assert gallery.rank(np.ones((1, DIMENSION), np.float32), 3).entries.shape == (1, 3)
    return set(numbers)


def flip_once(sound: Path, work: Path, seed: int) -> tuple[str, str]:
    """Flip a byte of a copy of the gallery; return the file and what became of it."""
    rng = np.random.default_rng(seed)
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(sound / ("copy" if seed % 2 else "closed"), work)
    for lock in ("write.lock", "write.holder"):
        (work / lock).unlink(missing_ok=True)
    files = sorted(path for path in work.iterdir() if path.stat().st_size)
    victim = files[seed // 2 % len(files)]
    content = bytearray(victim.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    victim.write_bytes(content)
    return victim.name, judge(work)


def judge(work: Path) -> str:
    try:
        with reopen(work) as gallery:
            gallery.warm_up()
            kept = check_answers(gallery)
            report = gallery.verify(recall_queries=5)
            assert kept <= TRUTH
            # An entry that is no longer an answer is named, and nothing goes missing in silence.
            missing = {number + 1 for number in TRUTH - kept}
            assert missing <= {problem.entry for problem in report.problems}
            if not report.problems:
                assert kept == TRUTH
                return "harmless"
    except GalleryError:
        return "refused"
    with reopen(work, writable=True, salvage=True) as gallery:
        try:
            repaired = gallery.verify(repair=True, recall_queries=5)
        except GalleryError:
            return "reported"
        still = check_answers(gallery)
        assert still <= TRUTH
        assert len(repaired.lost) == len(TRUTH - still)
        if not repaired.clean:
            return "reported"
        assert gallery.verify(recall_queries=5).clean
    return "repaired"


@pytest.mark.parametrize("part", range(4))
def test_two_hundred_flips(sound: Path, tmp_path: Path, part: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    outcomes: dict[str, dict[str, int]] = {}
    for seed in range(part * FLIPS // 4, (part + 1) * FLIPS // 4):
        name, outcome = flip_once(sound, tmp_path / "g", seed)
        kind = name.split("-0")[0]
        outcomes.setdefault(kind, {}).setdefault(outcome, 0)
        outcomes[kind][outcome] += 1
    print(outcomes)
    for kind in ("vectors", "tokens"):  # every byte of a record counts, save those of removed entries
        assert set(outcomes.get(kind, {})) <= {"repaired", "harmless"}
        assert outcomes.get(kind, {"repaired": 1}).get("repaired", 0) > 0


def test_damaged_records_are_named_on_the_spot_and_by_verify(
    sound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = tmp_path / "g"
    shutil.copytree(sound / "closed", work)
    path = work / "vectors-000001.bin"
    content = bytearray(path.read_bytes())
    content[2 * 2 * DIMENSION * 4 + 5] ^= 1  # the record of entry 3
    path.write_bytes(content)
    with reopen(work) as gallery:
        assert 3 not in gallery.search(images([2]).cls, 10).entries
        assert "entry 3 is damaged: its vectors do not match their checksum" in caplog.text
        assert [problem.entry for problem in gallery.verify().problems if problem.entry] == [3]
    with reopen(work, writable=True) as gallery:
        report = gallery.verify(repair=True)
        assert report.clean
        assert report.lost == ((3, identity_of(2), images([2]).records[0].source),)
        assert gallery.audit()[-1].entries == "3"
        add(gallery, [2])
        assert len(gallery) == len(TRUTH)


@pytest.mark.parametrize("name", ["vectors-000002.bin", "tokens-000002.bin"])
@pytest.mark.parametrize("how", ["cut off", "missing"])
def test_lost_data_file(sound: Path, tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
    work = tmp_path / "g"
    shutil.copytree(sound / "closed", work)
    path = work / name
    content = path.read_bytes()
    path.unlink()
    if how == "cut off":
        path.write_bytes(content[: len(content) // 2])
    with reopen(work) as gallery:
        assert "entry 32 is damaged: its record is cut off" in caplog.text
        lost = 8 if how == "cut off" else 16
        assert len(gallery) == len(TRUTH) - lost
        assert len({problem.entry for problem in gallery.verify().problems if problem.entry}) == lost


def test_database_without_its_newest_changes_is_refused(sound: Path, tmp_path: Path) -> None:
    work = tmp_path / "g"
    shutil.copytree(sound / "copy", work)
    (work / "gallery.db-wal").write_bytes(b"")
    with pytest.raises(GalleryError, match=r"gallery\.db is damaged"):
        reopen(work)
