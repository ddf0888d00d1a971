"""A gallery of known people: durable, searchable, erasable. `GalleryReader` is the protocol, `Gallery` the default."""

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
