"""The gate that a bundle of lower precision has to pass before it is written.

It looks for other descriptors, other patches kept, another order, and scores that moved past a threshold. Where people
are labelled it also measures what finding them is worth before and after.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibration.agreement import Agreement, compare_bundles
from calibration.occlusion import occlude
from calibration.protocol import Labels
from runtime.bundle import Bundle
from runtime.errors import ParityError

Precision = Literal["fp16", "int8"]
FALSE_ACCEPTS = 1e-3
"""Share of wrong people let in by the acceptance threshold that the gate thinks of."""
THRESHOLD = 3.0902
"""Where that threshold lies, in deviations above the mean score of different people, were scores normal."""


@dataclass(frozen=True)
class Bounds:
    """What a lower precision may cost.

    Attributes:
        descriptor_cosine: least mean cosine to the reference's descriptors.
        kept: least mean share of patches kept alike, at every pruning block.
        top: least mean share of the ten best entries named alike.
        false_accepts: most times as many wrong people that a threshold set in float32 may let in, see `false_accepts`.
        mean_ap: most points of mean average precision that may be lost, over clear and occluded queries.
    """

    descriptor_cosine: float
    kept: float
    top: float
    false_accepts: float
    mean_ap: float


FP16_BOUNDS = Bounds(descriptor_cosine=0.9999, kept=0.99, top=0.98, false_accepts=1.05, mean_ap=1.0)
"""Cosine and kept patches are the project's promise for FP16; the others are what that leaves room for."""
INT8_BOUNDS = Bounds(descriptor_cosine=0.98, kept=0.9, top=0.9, false_accepts=1.5, mean_ap=1.0)
"""Top 10 and mAP are the project's promise for INT8. Half as many false accepts again is where a user would have to
act: an acceptance threshold that was calibrated in float32 has to be calibrated anew."""
BOUNDS: dict[Precision, Bounds] = {"fp16": FP16_BOUNDS, "int8": INT8_BOUNDS}
REMEDY: dict[Precision, str] = {
    "fp16": "keep to fp32",
    "int8": "calibrate with more crops or another --method",
}


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Attributes:
        precision: of the bundle that was judged.
        agreement: the figures.
        failures: one phrase a bound that is broken; empty if the bundle passes.
    """

    precision: Precision
    agreement: Agreement
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every bound holds."""
        return not self.failures

    def summary(self) -> str:
        """Return the figures on one line."""
        a = self.agreement
        kept = ", ".join(f"{block} {share:.3f}" for block, share in a.kept.items()) or "nothing is pruned"
        return (
            f"{self.precision} against the reference on {a.queries} held-out crops, half of them occluded, over "
            f"{a.gallery} gallery crops: descriptor cosine {a.descriptor_cosine:.5f} (least {a.worst_cosine:.5f}), "
            f"consolidated {a.consolidated_cosine:.5f}, patches kept alike {kept}, top 10 {a.top:.3f}, "
            f"score shift {a.score_shift:+.4f} with spread {a.score_spread:.4f}, where scores of different people "
            f"deviate by {a.score_deviation:.4f}: {false_accepts(a):.2f} times the false accepts at a threshold of "
            f"1 in {1 / FALSE_ACCEPTS:.0f}{self._retrieval()}"
        )

    def _retrieval(self) -> str:
        """Say what finding people is worth before and after, for each part of the queries."""
        return "".join(
            f"; {part} ({r.queries} queries): mAP {r.mean_ap[0]:.1f} -> {r.mean_ap[1]:.1f} "
            f"(difference uncertain by {r.standard_error:.1f}), rank 1 {r.rank1[0]:.1f} -> {r.rank1[1]:.1f}"
            for part, r in self.agreement.retrieval.items()
        )

    def demand(self) -> None:
        """Raise ParityError, naming every broken bound, unless the bundle passed."""
        if self.failures:
            raise ParityError(
                f"{self.precision} loses too much: {'; '.join(self.failures)}; no bundle was written; "
                f"{REMEDY[self.precision]}, or accept the loss with --allow-loss"
            )


def false_accepts(found: Agreement) -> float:
    """Return how many times as many wrong people pass a threshold that let 1 in 1,000 pass in float32.

    A score moved by a mean `shift` and a random amount of deviation `spread` is one of a distribution that is moved and
    widened: with s the deviation of scores between different people, the threshold then lies at
    (3.09 - |shift| / s) / sqrt(1 + (spread / s)^2) deviations. What a given spread means thus depends on how far apart
    a model holds people: 0.02 is harmless where s is 0.2 and ruin where it is 0.005.
    """
    if found.score_shift == found.score_spread == 0:
        return 1.0
    deviation = max(found.score_deviation, 1e-9)
    moved = abs(found.score_shift) / deviation
    widened = math.hypot(1, found.score_spread / deviation)
    return _upper_tail((THRESHOLD - moved) / widened) / _upper_tail(THRESHOLD)


def judge(
    reference: Bundle,
    candidate: Bundle,
    held_out: NDArray[np.uint8],
    gallery: NDArray[np.uint8],
    labels: tuple[Labels, Labels] | None = None,
    seed: int = 0,
) -> Verdict:
    """Compare a bundle of lower precision with the one it was made of.

    Args:
        reference: the float32 bundle.
        candidate: the fp16 or int8 bundle.
        held_out: (m, H, W, 3) uint8 crops that calibration has not seen; each is judged clear and occluded.
        gallery: (n, H, W, 3) uint8 other crops.
        labels: of `held_out` and of `gallery`, to measure mAP and rank 1; None leaves that out.
        seed: of the occlusions.
    """
    precision = candidate.manifest.precision
    if precision == "fp32":
        raise ValueError("a float32 bundle is proved against torch, not judged here")
    queries = {"clear": held_out, "occluded": occlude(held_out, seed)}
    agreement = compare_bundles(reference, candidate, queries, gallery, labels)
    return Verdict(precision, agreement, tuple(broken_bounds(agreement, BOUNDS[precision])))


def broken_bounds(found: Agreement, bounds: Bounds) -> Iterable[str]:
    """Yield a phrase for each bound that does not hold; one that is not a number never holds."""
    least = {
        "descriptor cosine": (found.descriptor_cosine, bounds.descriptor_cosine),
        "top-10 overlap": (found.top, bounds.top),
        **{f"patches kept alike at {block}": (share, bounds.kept) for block, share in found.kept.items()},
    }
    accepts = false_accepts(found)
    for name, (value, bound) in least.items():
        if not value >= bound:
            yield f"{name} {value:.4f}, at least {bound}"
    if not accepts <= bounds.false_accepts:
        yield (
            f"false accepts {accepts:.2f} times as many, at most {bounds.false_accepts} (score shift "
            f"{found.score_shift:+.4f} and spread {found.score_spread:.4f} against a deviation of "
            f"{found.score_deviation:.4f})"
        )
    parts = found.retrieval.values()
    lost = float(np.mean([part.mean_ap[0] - part.mean_ap[1] for part in parts])) if parts else 0.0
    if not lost <= bounds.mean_ap:
        yield f"{lost:.2f} points of mAP lost, at most {bounds.mean_ap}"


def _upper_tail(deviations: float) -> float:
    """Share of a normal distribution that lies above."""
    return math.erfc(deviations / math.sqrt(2)) / 2
