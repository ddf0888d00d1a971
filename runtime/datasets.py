"""Labelled images: who is on which picture, read off a folder or a list.

Three layouts are understood:

- a folder in the naming of Market-1501 (`0001_c1s1_000151_00.jpg`) or DukeMTMC-reID (`0001_c2_f0046182.jpg`);
  identity -1 marks junk and is left out, 0000 marks distractors and is kept as the identity "0000";
- a folder of folders, one an identity;
- a CSV file with the columns path, identity and, where known, camera; a header is optional, and relative paths start
  at the file's folder.
"""

import csv
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import SourceError
from runtime.images import SUFFIXES

log = logging.getLogger(__name__)

JUNK = "-1"

_MARKET_NAME = re.compile(r"(?P<identity>-1|\d+)_c(?P<camera>\d+)(?:s\d+)?_")
_LAYOUTS = (
    "looked for images named as in Market-1501 (0001_c1s1_000151_00.jpg), a folder for each identity, "
    "and a CSV file (path,identity,camera)"
)


@dataclass(frozen=True)
class LabelledImage:
    """A picture of a known person.

    Attributes:
        path: the image file.
        identity: who is on it.
        camera: name of the camera (`c1` in the naming of Market-1501), or "" where it is not known.
    """

    path: Path
    identity: str
    camera: str


def read_labelled(source: Path) -> list[LabelledImage]:
    """Find the labelled images of a source, in the order of their names (a CSV: of its lines).

    Raises:
        SourceError: there is no such source, it fits none of the layouts, or it labels no image.
    """
    source = Path(source)
    try:
        if source.is_file():
            found = list(_from_csv(source))
        elif source.is_dir():
            found = _from_folder(source)
        else:
            raise SourceError(f"{source} does not exist: {_LAYOUTS}")
    except OSError as error:
        raise SourceError(f"{source} cannot be read: {error.strerror or error}") from error
    kept = [image for image in found if image.identity != JUNK]
    if len(kept) < len(found):
        log.info("%s: %d images of identity -1 (junk) are left out", source, len(found) - len(kept))
    if not kept:
        raise SourceError(f"{source} labels no image: {_LAYOUTS}")
    return kept


def camera_of(file_name: str) -> str | None:
    """Return `c1` for `0001_c1s1_000151_00.jpg`, None for a file that is not named that way."""
    match = _MARKET_NAME.match(file_name)
    return f"c{match['camera']}" if match else None


def _from_folder(folder: Path) -> list[LabelledImage]:
    images = list(_images(folder))
    named = [image for path in images if (image := _by_name(path))]
    if named:
        if len(named) < len(images):
            log.warning("%s: %d images are not named as in Market-1501: left out", folder, len(images) - len(named))
        return named
    if images:
        raise SourceError(f"{folder} holds {images[0].name}, which says of nobody who it shows: {_LAYOUTS}")
    people = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [
        LabelledImage(path, person.name, camera_of(path.name) or "") for person in people for path in _images(person)
    ]


def _by_name(path: Path) -> LabelledImage | None:
    match = _MARKET_NAME.match(path.name)
    return LabelledImage(path, match["identity"], f"c{match['camera']}") if match else None


def _images(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir():
            yield path


def _is_header(path: Path, cells: list[str]) -> bool:
    """Whether these are the names of the columns; raises SourceError where their order is another."""
    names = [cell.lower() for cell in cells]
    if names[0] != "path" and "identity" not in names:
        return False
    if names != ["path", "identity", "camera"][: len(names)] or len(names) < 2:
        raise SourceError(f"{path} line 1: expected the columns path,identity,camera, found {','.join(cells)!r}")
    return True


def _from_csv(path: Path) -> Iterator[LabelledImage]:
    if path.suffix.lower() != ".csv":
        raise SourceError(f"{path} is neither a folder nor a .csv file: {_LAYOUTS}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file, strict=True), 1):
                cells = [cell.strip() for cell in row]
                if not any(cells) or (number == 1 and _is_header(path, cells)):
                    continue
                if len(cells) not in {2, 3} or not cells[0] or not cells[1]:
                    raise SourceError(f"{path} line {number}: expected path,identity,camera, found {','.join(row)!r}")
                yield LabelledImage(path.parent / cells[0], cells[1], cells[2] if len(cells) == 3 else "")
    except (csv.Error, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is not a CSV file in UTF-8: {error}") from error
