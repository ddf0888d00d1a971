"""Pixels: an image file becomes an RGB array, a frame becomes crops of the encoder's size.

Image files come from anywhere, so only well-known formats are opened, sizes are checked before anything is decoded, and
whatever Pillow objects to comes out as one `ImageError` that names the file.
"""

import threading
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from runtime.errors import ImageError

# Formats that people keep photographs in. Pillow knows many more; some of those run interpreters (EPS) or are rarely
# exercised parsers, which a file from outside must not reach.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})

# Pillow's own bound (Image.MAX_IMAGE_PIXELS): a quarter of a GiB as RGB. Here it refuses, there it only warns.
MAX_PIXELS = 2**30 // 4 // 3
MAX_FILE_BYTES = 2**30

# What shows through transparent pixels: white, as in image viewers and browsers, so the encoder sees what the
# user sees. Dropping the alpha channel instead would bring back colours that somebody erased.
BACKDROP = (255, 255, 255, 255)


class _Silence:
    """Keeps Pillow's warnings of oddities (a broken EXIF block, say) quiet for as long as any thread reads.

    The filters of `warnings` are global. So the first reader to come sets one, for Pillow's modules alone, and the last
    to go takes it away: were each to save and restore the filters, they would restore each other's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._before = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._before.__exit__(None, None, None)


_silence = _Silence()


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file as it would be seen on screen.

    Threads read side by side: Pillow decodes without Python's lock. EXIF rotation is applied, grey-scale and palette
    images are expanded, 16-bit grey is scaled (not clipped) to 8 bits, CMYK is converted, and transparency is
    composited on white. Of an animation the first picture is taken. JPEGs are not decoded at a fraction of their size
    (Pillow's `draft`): it would move crops by up to 7 levels of 255, and crops are rarely so large that it saves time.

    Returns:
        (H, W, 3) uint8 RGB, contiguous, writable.

    Raises:
        ImageError: the file is missing, empty, no image of `FORMATS`, damaged, cut short, or too large.
    """
    path = Path(path)
    check_file(path)
    with _silence:
        try:
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path, image)
                image.load()
                return np.array(_as_rgb(_upright(image)), np.uint8)
        except ImageError:
            raise
        except _UnknownRangeError as error:
            raise ImageError(f"{path} {error}: save it with 8 bits a channel") from error
        except UnidentifiedImageError as error:
            raise ImageError(f"{path} is not an image of a known format ({', '.join(FORMATS)})") from error
        except Image.DecompressionBombError as error:
            raise ImageError(f"{path} has more than {MAX_PIXELS:,} pixels: scale it down") from error
        except Exception as error:  # its parsers raise OSError, SyntaxError, ValueError, struct.error and others
            raise ImageError(f"{path} is damaged or cut short: {_one_line(error)}") from error


def check_file(path: Path) -> None:
    """Check, before anything of it is read, that `path` is a plain file of a photograph's size.

    Raises:
        ImageError: it is missing, empty, larger than `MAX_FILE_BYTES`, or no plain file (a named pipe would block).
    """
    try:
        if not path.is_file():
            raise ImageError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read: {_one_line(error)}") from error
    if size == 0:
        raise ImageError(f"{path} is empty (0 bytes)")
    if size > MAX_FILE_BYTES:
        raise ImageError(f"{path} has {size:,} bytes, more than {MAX_FILE_BYTES:,}: not a photograph")


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize (H, W, 3) uint8 to (height, width, 3) with antialiased bilinear sampling.

    It is Pillow's, which torchvision's `Resize` uses on PIL images, so crops look as they did in training.
    """
    return np.array(_sized(image, height, width), np.uint8)


def has_area(boxes: NDArray[np.float32], height: int, width: int) -> NDArray[np.bool_]:
    """Tell which boxes can be cut from a frame.

    Args:
        boxes: (B, 4) x1, y1, x2, y2 in pixels.
        height: of the frame.
        width: of the frame.

    Returns:
        (B,) bool, False where nothing of a box lies inside the frame or a coordinate is NaN.
    """
    x1, y1, x2, y2 = clip(boxes, height, width).T
    return np.asarray((x2 > x1) & (y2 > y1))


def clip(boxes: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Clip (B, 4) x1, y1, x2, y2 boxes in pixels to a frame."""
    limits = np.array([width, height, width, height], np.float32)
    return np.clip(np.asarray(boxes, np.float32).reshape(-1, 4), 0, limits)


def cut(frame: NDArray[np.uint8], boxes: NDArray[np.float32], height: int, width: int) -> NDArray[np.uint8]:
    """Cut boxes out of a frame and resize each to the encoder's size.

    A box is clipped to the frame and widened to whole pixels, so `cut` of a box with whole coordinates is `resize` of
    that part of the frame.

    Args:
        frame: (H, W, 3) uint8.
        boxes: (B, 4) x1, y1, x2, y2 in pixels, each with area inside the frame.
        height: of a crop.
        width: of a crop.

    Returns:
        (B, height, width, 3) uint8.

    Raises:
        ImageError: a box has no area inside the frame.
    """
    frame_height, frame_width = frame.shape[:2]
    fits = has_area(boxes, frame_height, frame_width)
    if not fits.all():
        first = int(np.argmin(fits))
        raise ImageError(
            f"box {first} {np.asarray(boxes)[first].tolist()} has no area inside the {frame_width}x{frame_height} "
            "frame: leave such boxes out, see has_area"
        )
    inside = clip(boxes, frame_height, frame_width)
    corners = np.concatenate([np.floor(inside[:, :2]), np.ceil(inside[:, 2:])], axis=1).astype(np.int64)
    crops = np.empty((len(corners), height, width, 3), np.uint8)
    for crop, (x1, y1, x2, y2) in zip(crops, corners, strict=True):  # each crop has a size of its own
        crop[:] = np.asarray(_sized(frame[y1:y2, x1:x2], height, width))
    return crops


class _UnknownRangeError(ValueError):
    """Pixel values that no rule says how to bring to 8 bits."""


def _check_size(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{path} is {width}x{height}, more than {MAX_PIXELS:,} pixels: scale it down")
    if width * height == 0:
        raise ImageError(f"{path} is {width}x{height}: it has no pixels")


def _sized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8] | Image.Image:
    # Not `Image.resize(box=...)` on the whole frame: its filter would reach for pixels outside the box.
    if image.shape[:2] == (height, width):
        return image
    return Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # an unreadable EXIF block says nothing of rotation; the pixels are good
        return image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise _UnknownRangeError("has floating-point pixels of unknown range")
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        backdrop = Image.new("RGBA", image.size, BACKDROP)
        return Image.alpha_composite(backdrop, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _eight_bits(grey: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale 16-bit grey to 8 bits: 65535 becomes 255 and 257 becomes 1."""
    wide = grey.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise _UnknownRangeError("has grey values outside 16 bits")
    return ((wide + 128) // 257).astype(np.uint8)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
