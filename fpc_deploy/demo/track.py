"""A person's way past a camera, and who the events say it was."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.events import Event


@dataclass
class Track:
    """One person's way past one camera, and what the events say of it.

    Attributes:
        camera: that filmed.
        number: of the track in the camera's box file.
        truth: identity that walked, or None for a stranger who is not in the gallery.
        events: in order of time.
        clearest: the event with the largest box.
        crop: (H, W, 3) uint8 of that event.
    """

    camera: str
    number: int
    truth: str | None
    events: list[Event] = field(default_factory=list)
    clearest: Event = field(init=False)
    crop: NDArray[np.uint8] = field(init=False)

    def add(self, event: Event, crop: NDArray[np.uint8]) -> None:
        """Take one more event of this track, with what the encoder saw."""
        if not self.events or _area(event) > _area(self.clearest):
            self.clearest, self.crop = event, crop
        self.events.append(event)

    @property
    def named(self) -> str | None:
        """The identity with the largest sum of similarities over the track; nobody where most events say unknown."""
        votes: dict[str, float] = defaultdict(float)
        for event in self.events:
            if event.identity is not None:
                votes[event.identity] += event.similarity or 0.0
        if 2 * sum(event.status == "unknown" for event in self.events) > len(self.events):
            return None
        return max(votes, key=lambda name: votes[name]) if votes else None

    @property
    def right(self) -> bool:
        """Whether the person was named rightly; a stranger is right when nobody is named."""
        return self.named == self.truth


def _area(event: Event) -> float:
    x1, y1, x2, y2 = event.box
    return (x2 - x1) * (y2 - y1)
