"""Videos that tests need: the first seconds of the real one in other containers, and small drawn ones."""

from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.paths import VIDEO

REMUXED_FRAMES = 60


@pytest.fixture
def remux(tmp_path: Path) -> Callable[..., Path]:
    """Copy the packets of the first 60 frames of the real video into another container, undecoded."""

    def make(name: str, container: str, **options: str) -> Path:
        path = tmp_path / name
        with av.open(str(VIDEO)) as source, av.open(str(path), "w", format=container, options=options) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in islice(source.demux(source.streams.video[0]), REMUXED_FRAMES):
                packet.stream = stream
                target.mux(packet)
        return path

    return make


def draw_video(
    path: Path, images: list[NDArray[np.uint8]], *, codec: str, container: str | None = None, rotation: int = 0
) -> Path:
    """Encode images of one size at 25 frames a second."""
    height, width = images[0].shape[:2]
    with av.open(str(path), "w", format=container) as target:
        stream = target.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return path
