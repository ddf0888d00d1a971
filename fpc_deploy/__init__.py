"""Person re-identification of half-hidden people, exported and run at the edge (FPC, arXiv 2211.14742).

    from fpc_deploy import Bundle, Gallery, Pipeline

This is the public API; `runtime`, `export` and `calibration` are the rooms behind it.
"""

from runtime.bundle import Bundle, MatchSettings
from runtime.errors import FpcError
from runtime.gallery import Gallery
from runtime.images import cut, read_image, resize
from runtime.pipeline import Identification, Pipeline

__all__ = [
    "Bundle",
    "FpcError",
    "Gallery",
    "Identification",
    "MatchSettings",
    "Pipeline",
    "cut",
    "read_image",
    "resize",
]
