"""Optimisation profiles: which shapes an engine is built for.

A TensorRT engine takes the shapes it was built for and no others. The graphs of a bundle have four kinds of dynamic
axis: crops or queries in a batch (B), candidates (C), neighbours (K), and patches of a gallery entry (N).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime.bundle import GraphName, Manifest
from runtime.errors import EngineError

Shape = tuple[int, ...]
Span = tuple[Shape, Shape, Shape]
"""Least, best and largest shape of one input."""
Profile = dict[str, Span]
"""Spans of all inputs, by name."""

DYNAMIC_AXES: Mapping[str, str] = {
    "crops": "B",
    "camera": "B",
    "query_cls": "B",
    "query_patches": "B",
    "candidate_cls": "BC",
    "candidate_patches": "BCN",
    "neighbour_cls": "BK",
    "neighbour_patches": "BKN",
    "neighbour_mask": "BK",
}
"""Names of the leading axes of each input (design section 3); the axes that follow are constants of the graph."""
MAX_BATCH = 1024
DECODER_BATCH = 8
"""Most queries of one run of the decoder: the tokens of their neighbours are 60 MB at K = 10 of a ViT-B."""
MATCHER_BATCHES = (1,)
"""The matcher runs once a query: its candidates are 74 MB (100 x 242 x 768 float32) and no two queries share them."""


@dataclass(frozen=True)
class ShapePlan:
    """What engines are to be built for.

    Attributes:
        batches: one profile each, tuned for that batch and taking any smaller one.
        candidates: most candidates of a query.
        neighbours: most neighbours of a query.
        patches: most patches of a gallery entry; a gallery without patches passes 1, its [cls].
    """

    batches: tuple[int, ...]
    candidates: int
    neighbours: int
    patches: int

    def __post_init__(self) -> None:
        wrong = [batch for batch in self.batches if not 1 <= batch <= MAX_BATCH]
        if wrong or not self.batches:
            raise EngineError(f"--batch {','.join(map(str, self.batches))}: give batches of 1 to {MAX_BATCH}")
        if min(self.candidates, self.neighbours, self.patches) < 1:
            raise EngineError(f"candidates, neighbours and patches must be at least 1, not {self}")

    @classmethod
    def of(
        cls, manifest: Manifest, batches: Sequence[int], candidates: int | None = None, neighbours: int | None = None
    ) -> "ShapePlan":
        """Make a plan from a bundle's matching settings; candidates and neighbours override them."""
        matching = manifest.matching
        most = matching.neighbours if neighbours is None else neighbours
        return cls(
            batches=tuple(sorted(set(batches))),
            candidates=max(most, matching.refine if candidates is None else candidates),  # as `Matcher` asks for
            neighbours=most,
            patches=manifest.model.patches,
        )

    def profiles(self, graph: GraphName, inputs: Mapping[str, Shape]) -> tuple[Profile, ...]:
        """Return one profile a batch.

        Args:
            graph: whose inputs they are.
            inputs: {input: shape}, -1 where an axis is dynamic.

        Raises:
            EngineError: an input that no bundle has.
        """
        batches: Sequence[int] = MATCHER_BATCHES if graph == "matcher" else self.batches
        if graph == "decoder":
            batches = sorted({min(batch, DECODER_BATCH) for batch in self.batches})
        return tuple({name: self._span(name, shape, batch) for name, shape in inputs.items()} for batch in batches)

    def _span(self, name: str, shape: Shape, batch: int) -> Span:
        axes = DYNAMIC_AXES.get(name)
        if axes is None or any((size < 0) != (place < len(axes)) for place, size in enumerate(shape)):
            raise EngineError(
                f"input {name} of shape {shape} is not part of a bundle's contract: export the graph again"
            )
        largest = {"B": batch, "C": self.candidates, "K": self.neighbours, "N": self.patches}
        rest = shape[len(axes) :]
        top = (*(largest[axis] for axis in axes), *rest)
        return (1,) * len(axes) + rest, top, top


def profile_for(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int | None:
    """Return the index of the first profile, in order of batch, that takes `shapes`; None if none does."""
    for index, profile in enumerate(profiles):
        if all(_inside(profile[name], shape) for name, shape in shapes.items()):
            return index
    return None


def _inside(span: Span, shape: Shape) -> bool:
    least, _, most = span
    return len(shape) == len(most) and all(
        low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
    )
