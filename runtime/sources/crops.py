"""A folder of crops as a source: each image is one person, its box the whole image."""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.ahead import map_ahead
from runtime.datasets import camera_of
from runtime.errors import ImageError, SourceError
from runtime.images import SUFFIXES, read_image

log = logging.getLogger(__name__)

# Images are as large as people make them: few are held at a time.
_READ_AHEAD = 8


@dataclass(frozen=True)
class Crop:
    """One image of the folder.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        name: file name.
        camera: name of the camera (`c1`) where the file is named as in Market-1501, else None.
        index: position among the image files of the folder, counted from 0.
    """

    image: NDArray[np.uint8]
    name: str
    camera: str | None
    index: int


class CropFolder:
    """The images of a folder, by name. Threads read some of them ahead.

    Attributes:
        name: path of the folder.
        skipped: images that could not be read so far.
    """

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self.skipped = 0
        try:
            if not folder.is_dir():
                raise SourceError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
            files = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
        except OSError as error:
            raise SourceError(f"{folder} cannot be read: {error.strerror or error}") from error
        if not files:
            raise SourceError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
        self._files = sorted(files, key=lambda path: path.name)

    def __len__(self) -> int:
        """Number of image files, readable or not."""
        return len(self._files)

    def __iter__(self) -> Iterator[Crop]:
        """Yield every image that can be read; the others are logged, counted and skipped.

        Raises:
            SourceError: not one image could be read.
        """
        self.skipped = 0
        with closing(map_ahead(read_image, self._files, _READ_AHEAD)) as reading:
            for index, (path, future) in enumerate(reading):
                try:
                    image = future.result()
                except ImageError as error:
                    self.skipped += 1
                    log.warning("skipped: %s", error)
                    continue
                yield Crop(image, path.name, camera_of(path.name), index)
        if self.skipped == len(self._files):
            raise SourceError(f"{self.name}: none of its {self.skipped} images can be read")


def open_crops(folder: Path) -> CropFolder:
    """Open a folder of crops.

    Raises:
        SourceError: no such folder, or no image in it.
    """
    return CropFolder(folder)
