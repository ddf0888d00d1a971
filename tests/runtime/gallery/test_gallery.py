import math
import multiprocessing
import os
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import GalleryError, GalleryMismatchError
from runtime.gallery import Gallery, GalleryReader, NewEntry, Settings
from tests.runtime.gallery.synthetic import (
    BINDING,
    DIMENSION,
    PATCHES,
    SMALL,
    add,
    create,
    held,
    identity_of,
    images,
    reopen,
)


def test_what_was_added_is_there_after_reopening(tmp_path: Path) -> None:
    with create(tmp_path / "g", range(50)) as gallery:
        assert held(gallery) == set(range(50))
    with reopen(tmp_path / "g") as gallery:
        reader: GalleryReader = gallery
        assert len(reader) == 50
        assert held(gallery) == set(range(50))
        assert gallery.verify().problems == ()


def test_same_image_twice_is_one_entry_and_is_said(tmp_path: Path) -> None:
    with create(tmp_path / "g", range(5)) as gallery:
        again = add(gallery, [3, 7, 7])
        assert again.added == (6,)
        assert again.duplicates == ((0, 4), (2, 6))
        assert again.conflicts == ()
        other = images([2])
        renamed = [NewEntry("someone else", content_hash="hash-00002")]
        result = gallery.add(renamed, other.cls, other.descriptor, other.patches)
        assert (result.added, result.duplicates, result.conflicts) == ((), ((0, 3),), (0,))
        assert gallery.entries([3])[0].identity == "Person Nr 00000"


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        ({"identity": "Person Nr 00001"}, {0, 1, 2, 3, 8, 9, 10, 11}),
        ({"camera": "camera-0"}, {1, 2, 4, 5, 7, 8, 10, 11}),
        ({"entries": [1, 12]}, set(range(1, 11))),
        ({"identity": "Person Nr 00001", "camera": "camera-0"}, {0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11}),
        ({"identity": "nobody"}, set(range(12))),
        ({"before": datetime(2000, 1, 1, tzinfo=timezone.utc)}, set(range(12))),
        ({"before": datetime(2900, 1, 1)}, set()),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_remove_by(tmp_path: Path, conditions: dict[str, object], left: set[int]) -> None:
    with create(tmp_path / "g", range(12)) as gallery:
        gallery.remove(**conditions)  # type: ignore[arg-type]
        assert held(gallery) == left
    with reopen(tmp_path / "g") as gallery:
        assert held(gallery) == left
        assert gallery.verify().problems == ()


def test_removed_ids_are_never_given_again(tmp_path: Path) -> None:
    with create(tmp_path / "g", range(4)) as gallery:
        gallery.remove(entries=[4])
        gallery.compact()
    with reopen(tmp_path / "g", writable=True) as gallery:
        assert add(gallery, [9]).added == (5,)


def test_entries_expire_by_themselves_and_leave_with_compact(tmp_path: Path) -> None:
    with create(tmp_path / "g", range(3)) as gallery:
        batch = images([7])
        soon = [NewEntry("guest", expires_at=time.time() + 0.2)]
        gallery.add(soon, batch.cls, batch.descriptor, batch.patches)
        assert len(gallery) == 4
        time.sleep(0.25)
        gallery.refresh()
        assert len(gallery) == 3
        gallery.compact()
        assert gallery.info().removed_not_compacted == 0
        assert [line.action for line in gallery.audit()] == ["add", "add", "expire", "compact"]


def test_who_has_expired_can_be_enrolled_again(tmp_path: Path) -> None:
    batch = images(range(4))
    end = time.time() + 2
    soon = [replace(record, expires_at=end) for record in batch.records]
    with create(tmp_path / "g") as gallery:
        first = gallery.add(soon, batch.cls, batch.descriptor, batch.patches).added
        assert gallery.holder_of("hash-00000") == (first[0], identity_of(0))
        time.sleep(max(0.0, end - time.time()) + 0.01)
        assert gallery.holder_of("hash-00000") is None
        again = add(gallery, range(4))
        assert len(again.added) == 4
        assert again.duplicates == ()
        assert held(gallery) == set(range(4))


def test_endless_time_to_live_is_none(tmp_path: Path) -> None:
    batch = images(range(8))
    with create(tmp_path / "g") as gallery:
        gallery.add(
            [replace(record, expires_at=math.inf) for record in batch.records],
            batch.cls, batch.descriptor, batch.patches,
        )  # fmt: skip
        gallery.remove(identity=identity_of(0))
        gallery.compact()
        assert held(gallery) == set(range(4, 8))
        for never in (math.nan, -math.inf):
            one = replace(batch.records[0], expires_at=never)
            with pytest.raises(GalleryError, match="expires at"):
                gallery.add([one], batch.cls[:1], batch.descriptor[:1], batch.patches[:1])


def test_a_cut_segment_is_told_when_compacting(tmp_path: Path) -> None:
    create(tmp_path / "g", range(12)).close()
    path = tmp_path / "g" / "vectors-000001.bin"
    os.truncate(path, path.stat().st_size - 10)
    with reopen(tmp_path / "g", writable=True) as gallery:
        gallery.remove(entries=[1])
        with pytest.raises(GalleryError, match=r"is cut off, nothing was rewritten; run .* verify --repair"):
            gallery.compact()
        gallery.verify(repair=True)
        gallery.compact()
        assert held(gallery) == set(range(1, 11))


def test_words_and_numbers_that_no_gallery_can_hold(tmp_path: Path) -> None:
    with create(tmp_path / "g", range(4)) as gallery:
        with pytest.raises(GalleryError, match="is not Unicode text"):
            gallery.remove(entries=[1], reason="caf\udce9")
        with pytest.raises(GalleryError, match="no entry of so large a number"):
            gallery.remove(entries=[10**20])
        assert held(gallery) == set(range(4))


def test_a_name_within_another_is_taken_out_of_the_audit_log_too(tmp_path: Path) -> None:
    batch = images([0, 4])
    records = [replace(one, identity=name) for one, name in zip(batch.records, ("Ann", "Ann Lee"), strict=True)]
    with create(tmp_path / "g") as gallery:
        gallery.add(records, batch.cls, batch.descriptor, batch.patches, reason="asked by Ann Lee")
        gallery.remove(entries=[1, 2])
        assert gallery.audit()[0].reason == "asked by [removed identity]"


def test_empty_gallery_opens_and_says_so_when_searched(tmp_path: Path) -> None:
    create(tmp_path / "g").close()
    with reopen(tmp_path / "g") as gallery:
        assert len(gallery) == 0
        assert gallery.verify().clean
        with pytest.raises(GalleryError, match="is empty: add images with `fpc-deploy index add"):
            gallery.search(np.ones((1, DIMENSION), np.float32), 5)


def test_gallery_of_another_bundle_names_what_differs(tmp_path: Path) -> None:
    create(tmp_path / "g", range(3)).close()
    other = BINDING.model_copy(update={"model_hash": "b" * 64, "precision": "int8"})
    with pytest.raises(GalleryMismatchError, match=r"model_hash .*precision \(fp32 against int8\)"):
        Gallery.open(tmp_path / "g", other)


def test_gallery_without_patches(tmp_path: Path) -> None:
    batch = images(range(5))
    with Gallery.create(tmp_path / "g", BINDING, DIMENSION, 0) as gallery:
        gallery.add(batch.records, batch.cls, batch.descriptor)
        gallery.remove(entries=[2])
        gallery.compact()
        found = gallery.tokens(np.array([5, 1]))
        assert found.patches is None
        np.testing.assert_array_equal(found.cls, batch.cls[[4, 0]])
        assert gallery.verify().clean
    assert not list((tmp_path / "g").glob("tokens*"))


def test_tokens_come_in_the_order_asked_for(tmp_path: Path) -> None:
    with create(tmp_path / "g", range(40)) as gallery:
        ids = np.array([33, 1, 40, 17, 2])
        found, expected = gallery.tokens(ids), images(ids - 1)
        np.testing.assert_array_equal(found.cls, expected.cls)
        np.testing.assert_array_equal(found.patches, expected.patches)


@pytest.mark.parametrize("wrong", ["shape", "nan", "zero", "patches", "overflow", "identity", "surrogate"])
def test_bad_input_adds_nothing(tmp_path: Path, wrong: str) -> None:
    batch = images(range(3))
    records, cls, patches = batch.records, batch.cls.copy(), batch.patches.astype(np.float32)
    if wrong == "shape":
        cls = cls[:, :-1]
    elif wrong == "nan":
        cls[1, 3] = np.nan
    elif wrong == "zero":
        cls[1] = 0
    elif wrong == "patches":
        patches = patches[:, :-1]
    elif wrong == "overflow":
        patches[0, 0, 0] = 1e6
    elif wrong == "identity":
        records = [*records[:2], NewEntry("")]
    elif wrong == "surrogate":
        records = [*records[:2], NewEntry("x", source="\udcff")]
    with create(tmp_path / "g", range(10, 12)) as gallery:
        with pytest.raises(GalleryError):
            gallery.add(records, cls, batch.descriptor, patches)
        assert held(gallery) == {10, 11}


def test_folder_in_use_is_not_made_a_gallery(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(GalleryError, match="exists already"):
        create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_reader_cannot_write(tmp_path: Path) -> None:
    create(tmp_path / "g", range(3)).close()
    with reopen(tmp_path / "g") as gallery, pytest.raises(GalleryError, match="opened for reading"):
        gallery.remove(entries=[1])


def _hold(folder: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with reopen(folder, writable=True):
        ready.set()
        time.sleep(60)


def test_second_writer_is_told_who_holds_the_gallery_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    create(tmp_path / "g", range(3)).close()
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "g", ready))
    holder.start()
    try:
        assert ready.wait(30)
        impatient = Settings(lock_seconds=0.1)
        with pytest.raises(GalleryError, match=f"being written by process {holder.pid} of "):
            Gallery.open(tmp_path / "g", writable=True, settings=impatient)
        with reopen(tmp_path / "g") as reader:
            assert len(reader) == 3
    finally:
        holder.kill()
        holder.join()
    with reopen(tmp_path / "g", writable=True) as gallery:
        add(gallery, [5])
        assert held(gallery) == {0, 1, 2, 5}


def test_audit_says_who_when_how_many_and_why(tmp_path: Path) -> None:
    with create(tmp_path / "g", range(8)) as gallery:
        gallery.remove(identity="Person Nr 00001", actor="token-7", reason="Person Nr 00001 asked to be erased")
        first, second = gallery.audit()
        assert (first.action, first.count, first.entries) == ("add", 8, "1-8")
        assert (second.actor, second.action, second.count, second.entries) == ("token-7", "remove", 4, "5-8")
        assert second.reason == "[removed identity] asked to be erased"
        assert datetime.fromisoformat(second.at).tzinfo is not None


def test_info(tmp_path: Path) -> None:
    with create(tmp_path / "g", range(50)) as gallery:
        gallery.remove(identity="Person Nr 00000")
        info = gallery.info()
        assert (info.entries, info.identities, info.cameras, info.removed_not_compacted) == (46, 12, 3, 4)
        assert (info.dimension, info.patches_per_entry, info.segments) == (DIMENSION, PATCHES, 4)
        assert dict(info.indexed) == {"cls": 50, "descriptor": 50}
        assert info.bytes == sum(path.stat().st_size for path in (tmp_path / "g").iterdir())


def test_compact_gives_space_back(tmp_path: Path) -> None:
    with create(tmp_path / "g", range(64)) as gallery:
        gallery.remove(entries=range(1, 60))
        done = gallery.compact()
        assert done.bytes_after < done.bytes_before / 2
        assert held(gallery) == {59, 60, 61, 62, 63}
        assert gallery.info().segments == 1
        assert len(list((tmp_path / "g").glob("tokens-*"))) == 1
        assert SMALL.segment_entries == 16
