"""Images as people bring them: odd modes, rotations, damage, and files made to do harm."""

import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from runtime.errors import ImageError
from runtime.images import cut, has_area, read_image, resize

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
BROKEN_EXIF = b"Exif\0\0II*\0\xff\xff\xff\xff broken"


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(folder: Path, image: Image.Image, name: str = "image.png", **options: object) -> Path:
    path = folder / name
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its data does not have."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "lossless.webp"])
def test_lossless_formats_come_back_exactly(tmp_path: Path, name: str) -> None:
    pixels = noise(20, 30)
    options = {"lossless": True} if name.endswith("webp") else {}
    read = read_image(save(tmp_path, Image.fromarray(pixels), name, **options))
    np.testing.assert_array_equal(read, pixels)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    assert read.flags.writeable


def test_jpeg_is_close(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    read = read_image(save(tmp_path, Image.fromarray(pixels), "a.jpg", quality=95))
    assert np.abs(read.astype(int) - pixels).max() <= 3


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = noise(9, 7)[:, :, 0]
    read = read_image(save(tmp_path, Image.fromarray(grey)))
    np.testing.assert_array_equal(read, np.stack([grey] * 3, axis=-1))


def test_transparent_pixels_are_white_and_half_transparent_ones_blend(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0, 255], [0, 255, 0, 0], [0, 0, 0, 128]]], np.uint8)
    read = read_image(save(tmp_path, Image.fromarray(pixels)))
    assert read[0].tolist() == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]


def test_grey_with_alpha(tmp_path: Path) -> None:
    pixels = np.array([[[10, 255], [10, 0]]], np.uint8)
    read = read_image(save(tmp_path, Image.fromarray(pixels)))
    assert read[0].tolist() == [[10, 10, 10], [255, 255, 255]]


def test_palette_with_and_without_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    assert read_image(save(tmp_path, image))[0].tolist() == [list(RED), list(BLUE)]
    assert read_image(save(tmp_path, image, "t.png", transparency=1))[0].tolist() == [list(RED), list(WHITE)]
    assert read_image(save(tmp_path, image, "b.png", transparency=b"\xff\x00"))[0].tolist() == [list(RED), list(WHITE)]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow ink: red
    red, green, blue = read_image(save(tmp_path, image, "a.jpg", quality=95))[8, 8]
    assert (red > 245, green < 10, blue < 10) == (True, True, True)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.ppm"])
def test_16_bits_are_scaled_and_not_clipped(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 257, 32896, 65278, 65535]], np.uint16)
    read = read_image(save(tmp_path, Image.fromarray(values), name))
    assert read[0, :, 0].tolist() == [0, 1, 128, 254, 255]


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(np.ones((4, 4), np.float32)), "f.tif")
    with pytest.raises(ImageError, match=r"f\.tif has floating-point pixels"):
        read_image(path)


def test_32_bit_values_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(np.full((4, 4), 70_000, np.int32)), "i.tif")
    with pytest.raises(ImageError, match=r"i\.tif has grey values outside 16 bits"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, name: str) -> None:
    # Upright: red top left, green top right, blue below. Each orientation stores it turned by the inverse.
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16, :32], upright[:16, 32:], upright[16:] = RED, GREEN, BLUE
    undo = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    image = Image.fromarray(np.ascontiguousarray(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    if name.endswith("tif"):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[0x0112] = orientation
        path = save(tmp_path, image, name, tiffinfo=tags)
    else:
        path = save(tmp_path, image, name, exif=exif, quality=95)
    read = read_image(path)
    assert read.shape == upright.shape
    assert np.abs(read[8::16, 8::16].astype(int) - upright[8::16, 8::16]).max() < 12


def test_a_broken_exif_block_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = save(tmp_path, Image.new("RGB", (16, 16), RED), "a.jpg", exif=BROKEN_EXIF)
    assert read_image(path).shape == (16, 16, 3)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.tif", "a.webp"])
def test_cut_short(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, Image.fromarray(noise(64, 64)), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"is damaged or cut short|is not an image"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", r"is empty \(0 bytes\)", id="zero-sized"),
        pytest.param(b"not an image at all", "is not an image of a known format", id="text"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image", id="postscript"),
        pytest.param(b"\xff\xd8\xff\xe0" + b"\0" * 50, "is not an image|is damaged", id="jpeg header only"),
        pytest.param(png_claiming(20_000, 20_000), "more than 89,478,485 pixels", id="400 million pixels"),
        pytest.param(png_claiming(10_000, 10_000), "10000x10000, more than", id="over the bound, Pillow only warns"),
        pytest.param(png_claiming(2**31 - 1, 2**31 - 1), "more than", id="bomb"),
        pytest.param(png_claiming(0, 5), "is not an image|no pixels|damaged", id="no width"),
        pytest.param(png_claiming(4000, 4000), "is damaged or cut short", id="less data than claimed"),
    ],
)
def test_bad_files_are_named_on_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_an_impossible_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="is not a file"):
        read_image(tmp_path)
    with pytest.raises(ImageError):
        read_image(tmp_path / ("x" * 300))


def test_a_strip_of_20000_pixels_is_fine(tmp_path: Path) -> None:
    path = save(tmp_path, Image.new("RGB", (20_000, 20), GREEN))
    assert read_image(path).shape == (20, 20_000, 3)


def test_pillow_warnings_do_not_leak(tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    path.write_bytes(png_claiming(10_000, 10_000))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(ImageError):
            read_image(path)
    assert seen == []


def test_threads_read_side_by_side_and_warnings_are_as_before_afterwards(tmp_path: Path) -> None:
    """Pillow warns of two of these kinds of files, which is an error of another text in this suite."""
    pixels = noise(40, 30)
    good = [save(tmp_path, Image.fromarray(pixels), f"{n}.png") for n in range(40)]
    odd = [save(tmp_path, Image.fromarray(pixels), f"odd{n}.jpg", exif=BROKEN_EXIF, quality=95) for n in range(40)]
    bad = tmp_path / "bad.png"
    bad.write_bytes(png_claiming(10_000, 10_000))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        running = [[pool.submit(read_image, path) for path in (*pair, bad)] for pair in zip(good, odd, strict=True)]
    for a_good, an_odd, a_bad in running:
        np.testing.assert_array_equal(a_good.result(), pixels)
        np.testing.assert_array_equal(an_odd.result(), running[0][1].result())
        with pytest.raises(ImageError, match="10000x10000, more than"):
            a_bad.result()
    assert warnings.filters == before


def test_resize_is_pillows_antialiased_bilinear() -> None:
    pixels = noise(300, 140)
    expected = np.asarray(Image.fromarray(pixels).resize((128, 256), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize(pixels, 256, 128), expected)


def test_resize_to_the_same_size_is_a_copy() -> None:
    pixels = noise(8, 4)
    same = resize(pixels, 8, 4)
    np.testing.assert_array_equal(same, pixels)
    assert not np.shares_memory(same, pixels)


def test_cut_takes_the_part_of_the_frame_inside_the_box() -> None:
    frame = noise(90, 60)
    boxes = np.array([[10, 20, 40, 80], [-5, -5, 12, 12], [50.4, 70.6, 99, 99]], np.float32)
    crops = cut(frame, boxes, 64, 32)
    assert crops.shape == (3, 64, 32, 3)
    assert crops.dtype == np.uint8
    for crop, part in zip(crops, (frame[20:80, 10:40], frame[:12, :12], frame[70:, 50:]), strict=True):
        np.testing.assert_array_equal(crop, resize(part, 64, 32))


def test_no_boxes_give_no_crops() -> None:
    assert cut(noise(9, 9), np.zeros((0, 4), np.float32), 64, 32).shape == (0, 64, 32, 3)


def test_boxes_without_area_inside_are_told_and_refused() -> None:
    boxes = np.array(
        [[1, 1, 5, 5], [60, 0, 70, 9], [5, 5, 5, 9], [9, 9, 3, 3], [np.nan, 0, 5, 5], [0, 0, np.inf, np.inf]],
        np.float32,
    )
    assert has_area(boxes, 90, 60).tolist() == [True, False, False, False, False, True]
    with pytest.raises(ImageError, match=r"box 1 .* has no area inside the 60x90 frame"):
        cut(noise(90, 60), boxes, 64, 32)
