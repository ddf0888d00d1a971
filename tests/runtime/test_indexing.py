import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.bundle import Bundle
from runtime.encoder import Encoder
from runtime.errors import GalleryError, SourceError
from runtime.gallery import Gallery, NewEntry
from runtime.images import read_image, resize
from runtime.indexing import add_images, build_gallery


def pictures(folder: Path, count: int, first: int = 0) -> Path:
    """Noise, in the naming of Market-1501: three of a person, by two cameras."""
    folder.mkdir(exist_ok=True)
    for k in range(first, first + count):
        pixels = np.random.default_rng(k).integers(0, 256, (70, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k // 3:04d}_c{k % 2 + 1}s1_{k:06d}_00.png")
    return folder


def test_entries_hold_what_the_dense_encoder_says(tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", 5)
    cameras = ["till", "?", "", "door", "yard"]
    lines = [f"{path},person,{camera}" for path, camera in zip(sorted(source.iterdir()), cameras, strict=True)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    result = build_gallery(tiny_bundle, tmp_path / "list.csv", tmp_path / "g", batch=2)
    assert result.added == (1, 2, 3, 4, 5)
    size = tiny_bundle.manifest.preprocessing
    crops = np.stack([resize(read_image(path), size.height, size.width) for path in sorted(source.iterdir())])
    # The names that the bundle was exported with, in its order; "?" and "" are unknown.
    assert tiny_bundle.manifest.cameras.names == ("door", "till", "yard")
    expected = Encoder(tiny_bundle, sparse=False).encode(crops, np.array([1, 3, 3, 0, 2]))
    with Gallery.open(tmp_path / "g", tiny_bundle.binding) as gallery:
        tokens = gallery.tokens(np.arange(1, 6))
        assert tokens.patches is not None
        np.testing.assert_allclose(tokens.cls, expected.cls, atol=1e-4)
        np.testing.assert_allclose(tokens.patches, expected.patches, atol=1e-2)
        assert gallery.rank(expected.descriptor, 1).entries[:, 0].tolist() == [1, 2, 3, 4, 5]
        entry = gallery.entries([1])[0]
        assert (entry.identity, entry.camera, entry.source) == ("person", "till", str(sorted(source.iterdir())[0]))


def test_cls_alone(tiny_bundle: Bundle, tmp_path: Path) -> None:
    build_gallery(tiny_bundle, pictures(tmp_path / "s", 4), tmp_path / "g", tokens="cls")
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.tokens(np.array([2])).patches is None
        assert len(gallery) == 4


def test_an_unreadable_image_is_reported_skipped_and_counted(
    tiny_bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = pictures(tmp_path / "s", 6)
    broken = source / "0001_c1s1_999999_00.png"
    broken.write_bytes(b"no image")
    seen: list[tuple[int, int]] = []
    result = build_gallery(
        tiny_bundle, source, tmp_path / "g", batch=4, progress=lambda done, total: seen.append((done, total))
    )
    assert (len(result.added), result.unreadable) == (6, (broken,))
    assert str(broken) in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING
    assert seen[-1] == (7, 7)


def test_the_same_images_again_are_no_entries(tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = pictures(tmp_path / "s", 6)
    build_gallery(tiny_bundle, source, tmp_path / "g")
    copies = tmp_path / "copies"
    copies.mkdir()
    (copies / "0077_c1s1_000000_00.png").write_bytes(sorted(source.iterdir())[0].read_bytes())
    pictures(copies, 2, first=90)
    (copies / "0030_c9s1_000090_00.png").write_bytes(sorted(copies.iterdir())[0].read_bytes())
    with Gallery.open(tmp_path / "g", tiny_bundle.binding, writable=True) as gallery:
        again = add_images(gallery, tiny_bundle, source)
        assert (again.added, again.duplicates, again.conflicts) == ((), 6, 0)
        mixed = add_images(gallery, tiny_bundle, copies)
        assert (len(mixed.added), mixed.duplicates, mixed.conflicts) == (2, 2, 1)
        assert len(gallery) == 8
        assert gallery.verify().clean


def test_nothing_half_made_is_left(tiny_bundle: Bundle, tmp_path: Path) -> None:
    unreadable = tmp_path / "s"
    unreadable.mkdir()
    (unreadable / "0001_c1s1_000001_00.jpg").write_bytes(b"x")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(GalleryError, match="none of the 1 images"):
        build_gallery(tiny_bundle, unreadable, out / "g")
    with pytest.raises(SourceError):
        build_gallery(tiny_bundle, tmp_path / "nowhere", out / "g")
    assert list(out.iterdir()) == []


def test_what_is_there_is_replaced_only_when_asked_and_only_if_it_is_a_gallery(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    source, out = pictures(tmp_path / "s", 3), tmp_path / "out" / "g"
    build_gallery(tiny_bundle, source, out)
    pictures(source, 3, first=3)
    with pytest.raises(GalleryError, match="exists: give another folder, or --overwrite"):
        build_gallery(tiny_bundle, source, out)
    assert len(build_gallery(tiny_bundle, source, out, overwrite=True).added) == 6
    assert [path.name for path in out.parent.iterdir()] == ["g"]
    with pytest.raises(GalleryError, match="holds other things"):
        build_gallery(tiny_bundle, source, source, overwrite=True)
    assert len(list(source.iterdir())) == 6


def test_gallery_of_another_bundle_is_not_added_to(tiny_bundle: Bundle, tmp_path: Path) -> None:
    other = tiny_bundle.binding.model_copy(update={"precision": "int8"})
    with (
        Gallery.create(tmp_path / "g", other, 64, 0) as gallery,
        pytest.raises(GalleryError, match="made by another bundle: precision"),
    ):
        add_images(gallery, tiny_bundle, pictures(tmp_path / "s", 1))


def test_the_same_source_makes_the_same_entries_under_the_same_ids(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """More images than are gathered for one transaction, decoded by several threads."""
    source = pictures(tmp_path / "s", 150)
    (source / "0010_c1s1_000030_01.png").write_bytes((source / "0010_c1s1_000030_00.png").read_bytes())
    found = []
    for name in ("a", "b"):
        result = build_gallery(tiny_bundle, source, tmp_path / name, batch=7)
        with Gallery.open(tmp_path / name) as gallery:
            entries = [(entry.id, entry.identity, entry.source) for entry in gallery.entries(result.added)]
        found.append((entries, result.duplicates))
    assert found[0] == found[1]
    assert found[0][1] == 1
    assert [source for _, _, source in found[0][0]] == sorted(source for _, _, source in found[0][0])
    assert [id_ for id_, _, _ in found[0][0]] == list(range(1, 151))


def test_a_gallery_that_cannot_be_written_ends_the_build_with_its_error(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """The writing thread's error is the caller's, and what was added before it stays."""
    source = pictures(tmp_path / "s", 400)
    facts = tiny_bundle.manifest.model
    with Gallery.create(tmp_path / "g", tiny_bundle.binding, facts.embed_dim, facts.patches) as gallery:
        seen: list[int] = []

        def progress(done: int, total: int) -> None:
            seen.append(done)
            if done == 100:
                patience = time.monotonic() + 10
                while len(gallery) < 64 and time.monotonic() < patience:  # written by a thread of its own
                    time.sleep(0.01)
                for path in (tmp_path / "g").glob("*.bin"):
                    path.unlink()
                    path.symlink_to("/dev/full")  # which a writer does not follow

        with pytest.raises(GalleryError, match=str(tmp_path / "g")):
            add_images(gallery, tiny_bundle, source, batch=4, progress=progress)
        assert 64 <= len(gallery) < 200
        assert seen[-1] < 400


def test_an_image_that_the_model_has_no_vector_for_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    vectors = np.array([[1, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    records = [NewEntry("p", source="a.png"), NewEntry("p", source="b.png")]
    with (
        Gallery.create(tmp_path / "g", tiny_bundle.binding, 4, 0) as gallery,
        pytest.raises(GalleryError, match=r"b\.png has a vector that is zero"),
    ):
        gallery.add(records, vectors, vectors)


def test_ctrl_c_ends_a_build_and_leaves_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    for number in range(600):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(source / f"0001_c1s1_{number:06d}_00.bmp")
    out = tmp_path / "out" / "g"
    out.parent.mkdir()
    command = [sys.executable, "-m", "fpc_deploy.cli", "index", "build", str(source)]
    command += ["--bundle", str(tiny_bundle.folder), "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 100
        while not any(size_of(path) for path in out.parent.glob(".g.*.part/vectors-*.bin")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"Traceback" not in errors
    assert list(out.parent.iterdir()) == []


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
