"""The token store of a gallery that is about to be built: one with a basis looks at some of the images first."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle
from runtime.datasets import LabelledImage
from runtime.encoder import Encoder
from runtime.errors import ImageError
from runtime.gallery.codecs import TokenCodec
from runtime.gallery.conversion import codec_of, spread
from runtime.images import read_image, resize

log = logging.getLogger(__name__)


def choose_codec(
    bundle: Bundle, images: Sequence[LabelledImage], tokens: str, engine: str, batch: int
) -> TokenCodec | None:
    """Make the codec that `--tokens` names; None where patch tokens are not stored.

    Args:
        bundle: whose dense encoder makes the tokens that a basis is learned from.
        images: of the gallery; up to 256 of them, evenly spread, are encoded where there is a basis to learn.
        tokens: see `runtime.gallery.conversion.codec_of`.
        engine: see `runtime.engines.open_graph`.
        batch: images of one run.

    Raises:
        GalleryError: no token store of this name, or no image could be read.
    """

    def sample() -> Iterator[NDArray[np.float32]]:
        chosen = [images[position] for position in spread(len(images))]
        log.info("learning a basis for tokens from %d of %d images", len(chosen), len(images))
        encoder = Encoder(bundle, sparse=False, engine=engine)
        for at in range(0, len(chosen), batch):
            crops = [crop for crop in map(read, chosen[at : at + batch]) if crop is not None]
            if crops:
                yield encoder.encode(np.stack(crops)).patches

    size = bundle.manifest.preprocessing

    def read(image: LabelledImage) -> NDArray[np.uint8] | None:
        """One crop, or None where it cannot be read: the build itself says which."""
        try:
            return resize(read_image(image.path), size.height, size.width)
        except ImageError:
            return None

    return codec_of(tokens, bundle.manifest.model.embed_dim, sample())
