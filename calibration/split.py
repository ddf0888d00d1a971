"""Which images calibrate and which judge: spread over people and cameras, of other people where there are labels."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.datasets import LabelledImage

DISTRACTOR = "0000"
"""Identity of distractors in the naming of Market-1501: nobody in particular, so nobody to find."""
HELD_OUT_SHARE = 0.25
MIN_PEOPLE = 8
"""Fewest people to measure mAP on; one query in eight going wrong says nothing of the precision."""
MAX_PEOPLE = 64
MAX_QUERIES = 128
QUERIES_EACH = 4
MAX_MATES = 192
"""Most gallery images of held-out people."""
STRANGERS = 64
"""Gallery images of people whom no query shows."""


@dataclass(frozen=True)
class Split:
    """Labelled images in three parts, none of them in two.

    Attributes:
        calibrate: of other people than the rest, in an order of which any first part is spread.
        queries: of held-out people.
        gallery: other images of the held-out people.
    """

    calibrate: list[LabelledImage]
    queries: list[LabelledImage]
    gallery: list[LabelledImage]


def spread(images: Sequence[LabelledImage], seed: int) -> list[LabelledImage]:
    """Order images so that any first part of them covers as many people, and of each as many cameras, as it can."""
    rng = np.random.default_rng(seed)
    people = _by_person(images, rng)
    return _taking_turns(_shuffled(list(people.values()), rng))


def split_people(images: Sequence[LabelledImage], seed: int) -> Split | None:
    """Hold out a quarter of the people, at most 64, to be queries and gallery.

    A person counts who was seen by two cameras, as the protocol compares across cameras, or twice where the cameras are
    not known. None, where fewer than 8 such people can be held out: there is nothing to measure mAP on.
    """
    rng = np.random.default_rng([seed, 1])
    people = _by_person(images, rng)
    fit = [name for name, found in people.items() if name not in {"", DISTRACTOR} and _seen_twice(found)]
    count = min(MAX_PEOPLE, int(HELD_OUT_SHARE * len(people)), len(fit))
    if count < MIN_PEOPLE:
        return None
    chosen = [fit[place] for place in rng.permutation(len(fit))[:count]]
    wanted = min(QUERIES_EACH, -(-MAX_QUERIES // count))
    queries, mates = [], []
    for name in chosen:
        asked = min(wanted, len(people[name]) // 2)
        queries.append(people[name][:asked])
        mates.append(people[name][asked:])
    rest = [image for image in images if image.identity not in set(chosen)]
    return Split(spread(rest, seed), _taking_turns(queries)[:MAX_QUERIES], _taking_turns(mates)[:MAX_MATES])


def _by_person(images: Sequence[LabelledImage], rng: np.random.Generator) -> dict[str, list[LabelledImage]]:
    """Group images by identity, those of each person by camera in turn."""
    groups: dict[str, dict[str, list[LabelledImage]]] = defaultdict(lambda: defaultdict(list))
    for image in images:
        groups[image.identity][image.camera].append(image)
    people = {}
    for identity in sorted(groups):
        cameras = [_shuffled(groups[identity][camera], rng) for camera in sorted(groups[identity])]
        people[identity] = _taking_turns(_shuffled(cameras, rng))
    return people


def _seen_twice(images: Sequence[LabelledImage]) -> bool:
    cameras = {image.camera for image in images}
    return len(images) > 1 and (len(cameras) > 1 or cameras == {""})


def _taking_turns(groups: Sequence[Sequence[LabelledImage]]) -> list[LabelledImage]:
    longest = max(map(len, groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]


def _shuffled(items: Sequence, rng: np.random.Generator) -> list:  # type: ignore[type-arg]
    return [items[place] for place in rng.permutation(len(items))]
