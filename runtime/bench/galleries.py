"""The gallery to search: one that exists, or one of made-up people in a temporary folder."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.bench.floors import Searched
from runtime.bundle import Bundle
from runtime.errors import GalleryError
from runtime.gallery import Gallery
from runtime.gallery.synthetic import CLS_ONLY, synthetic_gallery, synthetic_people
from runtime.matching import takes_compact

_SPARE = 1.2
"""Free room asked for, as a multiple of what the records take: HNSW and the database come on top."""


@dataclass(frozen=True)
class OpenedGallery:
    """A gallery to measure with.

    Attributes:
        folder: where it lies.
        searched: what decides the work of a search.
        tokens: how it stores patch tokens; `cls` if it stores none.
    """

    folder: Path
    searched: Searched
    tokens: str


def existing_gallery(folder: Path, bundle: Bundle, engine: str) -> OpenedGallery:
    """Look at a gallery.

    Raises:
        GalleryError: it is no gallery, damaged or empty.
        GalleryMismatchError: another bundle made it.
    """
    with closing(Gallery.open(folder, bundle.binding)) as gallery:
        if not len(gallery):
            raise GalleryError(f"{folder} is empty: add people to it with `fpc-deploy index add`")
        layout = gallery.layout
        # as `runtime.matching` decides it
        as_bytes = takes_compact(engine, layout.codec) and bundle.has_compact
        searched = Searched(len(gallery), layout, gallery.settings.index_from, as_bytes)
    return OpenedGallery(folder, searched, layout.codec.name if layout.patches else CLS_ONLY)


@contextmanager
def made_up_gallery(bundle: Bundle, entries: int, tokens: str, engine: str) -> Iterator[OpenedGallery]:
    """Make a gallery of made-up people; it is gone after the block.

    Args:
        bundle: that it is bound to.
        entries: how many images.
        tokens: how patch tokens are stored, see `runtime.gallery.synthetic.synthetic_gallery`.
        engine: that was asked for.

    Raises:
        GalleryError: fewer than 1 entry, no token store of that name, or too little room in the temporary folder.
    """
    if entries < 1:
        raise GalleryError(f"a gallery of {entries} entries cannot be searched: give --gallery-size 1 or more")
    people = synthetic_people(bundle, tokens)
    record = people.codec.record(people.patches, people.dimension).itemsize if people.patches else 0
    needed = int(_SPARE * entries * (8 * people.dimension + record))
    with tempfile.TemporaryDirectory(prefix="fpc-deploy-bench-") as temporary:
        free = shutil.disk_usage(temporary).free
        if free < needed:
            raise GalleryError(
                f"a gallery of {entries} entries takes about {needed / 1e9:.1f} GB, and {Path(temporary).parent} has "
                f"{free / 1e9:.1f} GB left: give a smaller --gallery-size, --tokens int8, or another folder by TMPDIR"
            )
        folder = Path(temporary) / "gallery"
        synthetic_gallery(folder, bundle, entries, tokens=tokens)
        yield existing_gallery(folder, bundle, engine)
