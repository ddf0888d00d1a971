"""The gate that a bundle of lower precision has to pass before it is written.

It needs no labels: it looks for other descriptors, other patches kept, another order, and scores that moved past a
threshold. What that means for mAP and rank 1 is for `fpc-deploy eval` on labelled data to say.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibration.agreement import Agreement, compare_bundles
from calibration.occlusion import occlude
from runtime.bundle import Bundle
from runtime.errors import ParityError

Precision = Literal["fp16", "int8"]
MAX_GALLERY = 100
"""Gallery crops of a comparison: as many as EMD refines (design section 4)."""


@dataclass(frozen=True)
class Bounds:
    """What a lower precision may cost.

    Attributes:
        descriptor_cosine: least mean cosine to the reference's descriptors.
        kept: least mean share of patches kept alike, at every pruning block.
        top: least mean share of the ten best entries named alike.
        score_shift: largest mean shift of the scores, either way.
        score_spread: largest standard deviation of the shift.
    """

    descriptor_cosine: float
    kept: float
    top: float
    score_shift: float
    score_spread: float


FP16_BOUNDS = Bounds(descriptor_cosine=0.9999, kept=0.99, top=0.98, score_shift=0.001, score_spread=0.002)
"""Cosine and kept patches are the project's promise for FP16; the others are what that leaves room for."""
INT8_BOUNDS = Bounds(descriptor_cosine=0.98, kept=0.9, top=0.9, score_shift=0.02, score_spread=0.02)
"""Top 10 is the project's promise for INT8. The others are set where a user would have to act: with scores 0.02 off, an
acceptance threshold that was calibrated in float32 has to be calibrated anew."""
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
            f"score shift {a.score_shift:+.4f} with spread {a.score_spread:.4f}"
        )

    def demand(self) -> None:
        """Raise ParityError, naming every broken bound, unless the bundle passed."""
        if self.failures:
            raise ParityError(
                f"{self.precision} loses too much: {'; '.join(self.failures)}; no bundle was written; "
                f"{REMEDY[self.precision]}, or accept the loss with --allow-loss"
            )


def judge(
    reference: Bundle, candidate: Bundle, held_out: NDArray[np.uint8], gallery: NDArray[np.uint8], seed: int = 0
) -> Verdict:
    """Compare a bundle of lower precision with the one it was made of.

    Args:
        reference: the float32 bundle.
        candidate: the fp16 or int8 bundle.
        held_out: (m, H, W, 3) uint8 crops that calibration has not seen; each is judged clear and occluded.
        gallery: (n, H, W, 3) uint8 other crops, the first 100 of which are the gallery.
        seed: of the occlusions.
    """
    precision = candidate.manifest.precision
    if precision == "fp32":
        raise ValueError("a float32 bundle is proved against torch, not judged here")
    queries = np.concatenate([held_out, occlude(held_out, seed)])
    agreement = compare_bundles(reference, candidate, queries, gallery[:MAX_GALLERY])
    return Verdict(precision, agreement, tuple(_failures(agreement, BOUNDS[precision])))


def _failures(found: Agreement, bounds: Bounds) -> list[str]:
    least = {
        "descriptor cosine": (found.descriptor_cosine, bounds.descriptor_cosine),
        "top-10 overlap": (found.top, bounds.top),
        **{f"patches kept alike at {block}": (share, bounds.kept) for block, share in found.kept.items()},
    }
    most = {
        "mean score shift": (abs(found.score_shift), bounds.score_shift),
        "score spread": (found.score_spread, bounds.score_spread),
    }
    # written so that NaN breaks a bound
    broken = [f"{name} {value:.4f}, at least {bound}" for name, (value, bound) in least.items() if not value >= bound]
    return broken + [
        f"{name} {value:.4f}, at most {bound}" for name, (value, bound) in most.items() if not value <= bound
    ]
