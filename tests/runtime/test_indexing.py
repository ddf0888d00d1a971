import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.bundle import Bundle
from runtime.encoder import Encoder
from runtime.errors import GalleryError, SourceError
from runtime.gallery import Gallery
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
