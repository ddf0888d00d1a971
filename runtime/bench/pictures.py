"""Pictures to measure with: those of a folder, or the rendered crops that come with the runtime."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from runtime.engines.trial import PROBE_FOLDER
from runtime.sources.crops import open_crops

MOST_PICTURES = 64


@dataclass(frozen=True)
class Pictures:
    """Image files that are identified again and again.

    Attributes:
        paths: of the files.
        described: what they are, for the report.
        bytes_each: to be read and written, on average, for one: the file, and its pixels once written and once read.
    """

    paths: tuple[Path, ...]
    described: str
    bytes_each: float


def pictures_of(folder: Path | None) -> Pictures:
    """Take the first pictures of a folder, by name; None takes the rendered crops.

    Raises:
        SourceError: no such folder, no picture in it, or none that can be read.
    """
    source = PROBE_FOLDER if folder is None else folder
    paths, moved, heights = [], 0, []
    for crop in islice(open_crops(source), MOST_PICTURES):
        path = source / crop.name
        paths.append(path)
        moved += path.stat().st_size + 2 * crop.image.nbytes
        heights.append(len(crop.image))
    kind = "rendered crops" if folder is None else f"pictures of {folder.absolute().name}"
    sizes = f"{min(heights)}" if min(heights) == max(heights) else f"{min(heights)} to {max(heights)}"
    described = f"{len(paths)} {kind}, {sizes} pixels high"
    return Pictures(tuple(paths), described, moved / len(paths))
