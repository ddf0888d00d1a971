"""Where and in which precision training runs."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Compute:
    """A device and the precision of its matrix products.

    Attributes:
        device: CUDA when present.
        bfloat16: whether products run in bfloat16. Parameters, cross entropy and triplets stay in float32; the
            contrasts of `--cls-weight` and `--patch-weight` multiply in bfloat16 as the network does.
    """

    device: torch.device
    bfloat16: bool

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which products run in the chosen precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


def choose_compute(precision: Precision = "auto", device: str = "auto") -> Compute:
    """Choose CUDA when present, and bfloat16 where the machine multiplies in it."""
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    return Compute(chosen, _multiplies_bfloat16(chosen) if precision == "auto" else precision == "bfloat16")


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Emulated bfloat16 is slower than float32; with AVX512_BF16 it gained 8 to 36% on the demo model's sizes.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name for these
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)
