"""A gallery of known people: durable, searchable, erasable. `Gallery` is the embedded one; `GalleryReader` the protocol."""

from runtime.gallery.gallery import Gallery
from runtime.gallery.protocol import Candidates, Entry, GalleryReader, Tokens
from runtime.gallery.records import AddResult, NewEntry, Problem, Settings, Verification

__all__ = [
    "AddResult",
    "Candidates",
    "Entry",
    "Gallery",
    "GalleryReader",
    "NewEntry",
    "Problem",
    "Settings",
    "Tokens",
    "Verification",
]
