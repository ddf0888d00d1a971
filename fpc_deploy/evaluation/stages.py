"""Which of the paper's three stages a configuration uses, and the configurations of its table 3."""

from dataclasses import dataclass

from runtime.bundle import Bundle
from runtime.errors import FpcError


@dataclass(frozen=True)
class Stages:
    """Stages that are on.

    Attributes:
        prune: S, queries go through the sparse encoder; otherwise through the dense one of the gallery.
        match: M, candidates are ordered by cosine and EMD together; otherwise by cosine.
        consolidate: C, the query's descriptor is rebuilt from its neighbours.
    """

    prune: bool
    match: bool
    consolidate: bool

    @classmethod
    def parse(cls, text: str) -> "Stages":
        """Read letters of `SMC` in any order, with or without `+` between them, or `none`.

        Raises:
            FpcError: another letter, or one twice.
        """
        letters = "" if text.lower() == "none" else text.upper().replace("+", "")
        if len(set(letters)) != len(letters) or not set(letters) <= set("SMC"):
            raise FpcError(f"--stages {text}: give some of the letters S, M and C, or none")
        return cls("S" in letters, "M" in letters, "C" in letters)

    def __str__(self) -> str:
        on = (self.prune, self.match, self.consolidate)
        return "+".join(letter for letter, used in zip("SMC", on, strict=True) if used) or "none"


ABLATION = tuple(map(Stages.parse, ("none", "S", "SM", "SC", "SMC")))
"""One stage after the other, and consolidation with cosine neighbours, which shows what the matching adds to it."""


def all_stages(bundle: Bundle) -> Stages:
    """Return the stages that `fpc-deploy run` uses with this bundle."""
    return Stages(prune=True, match=True, consolidate=bundle.has("decoder"))


def check_stages(stages: Stages, bundle: Bundle) -> None:
    """Refuse stages that the bundle has no graph for.

    Raises:
        FpcError: C without a decoder, or M or a decoder that reads queries together with dense queries: both graphs
            take as many query patches as the sparse encoder leaves.
    """
    manifest = bundle.manifest
    if stages.consolidate and not bundle.has("decoder"):
        raise FpcError(f"stage C: bundle {bundle.folder} has no decoder")
    needs_patches = stages.match or (stages.consolidate and manifest.decoder_tokens == "query+gallery")
    dense = not manifest.keep_schedule.blocks
    if not stages.prune and needs_patches and not dense:
        raise FpcError(
            f"stages {stages} without S: the graphs of {bundle.folder} take the patches of a pruned query; export the "
            "checkpoint with --keep-rate 1 to compare without pruning"
        )
