"""One row of a result: a configuration, what it scored and what it costs."""

from dataclasses import dataclass
from typing import Literal

from calibration.protocol import Scores
from fpc_deploy.evaluation.reranking import Reranking
from fpc_deploy.evaluation.stages import Stages
from runtime.bundle import Manifest, MatchSettings, SearchBy

DropStrategy = Literal["attention", "random", "inverse"]
REBUILDING = ("search_by", "neighbour_temperature", "passes")
"""Settings of matching beyond the paper's."""


@dataclass(frozen=True)
class Configuration:
    """What is run.

    Attributes:
        stages: which of S, M and C are on.
        alpha: share of EMD in the distance of M.
        neighbours: K of C.
        refine: candidates of M.
        search_by: whose cosine the first search goes by; see `runtime.bundle.MatchSettings`, as for the next two.
        neighbour_temperature: of C.
        passes: of C.
        drop: which patches S drops: the least attended, as deployed, or a comparison of the paper's fig. 5.
        label: what tells this row from its neighbours, as a sweep shows it.
    """

    stages: Stages
    alpha: float
    neighbours: int
    refine: int
    search_by: SearchBy = "cls"
    neighbour_temperature: float | None = None
    passes: int = 1
    drop: DropStrategy = "attention"
    label: str = ""

    def unpublished(self) -> dict[str, object]:
        """Return the settings that take part in this row and are not those of the published method."""
        if not self.stages.consolidate and not self.stages.match:
            return {}
        names = REBUILDING if self.stages.consolidate else ("search_by",)
        published = MatchSettings()
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value != getattr(published, name)}

    def settings(self, exported: MatchSettings) -> MatchSettings:
        """Return the settings of the runtime that this row is run with; constants of the graphs are as exported."""
        chosen = {name: getattr(self, name) for name in ("refine", "neighbours", *REBUILDING)}
        return exported.model_copy(update=chosen | {"alpha": self.alpha if self.stages.match else 0.0})


@dataclass(frozen=True)
class Row:
    """What a configuration scored.

    Attributes:
        configuration: what was run.
        keep_rate: of S; 1 without it.
        pruned_at: blocks that prune; none without S.
        reranking: k-reciprocal re-ranking that followed, or None.
        scores: in percent.
        multiply_adds_g: of the encoder that queries went through, for one crop, in G, as the paper counts.
    """

    configuration: Configuration
    keep_rate: float
    pruned_at: tuple[int, ...]
    reranking: Reranking | None
    scores: Scores
    multiply_adds_g: float

    def as_json(self) -> dict[str, object]:
        """Return the row as `--json` writes it; `rerank` is false or `"k1,k2,lambda"`.

        Alpha is 0 without M, and `neighbours` 0 without C: no such thing took part. Settings that are not as published
        follow under their own names.
        """
        stages, scores = self.configuration.stages, self.scores
        return {
            "S": stages.prune,
            "M": stages.match,
            "C": stages.consolidate,
            "keep_rate": self.keep_rate,
            "alpha": self.configuration.alpha if stages.match else 0.0,
            "neighbours": self.configuration.neighbours if stages.consolidate else 0,
            "drop": self.configuration.drop,
            "rerank": str(self.reranking) if self.reranking else False,
            "mAP": scores.mean_ap,
            "rank1": scores.rank1,
            "rank5": scores.rank5,
            "rank10": scores.rank10,
            "queries": scores.queries,
            "multiply_adds_g": self.multiply_adds_g,
            **self.configuration.unpublished(),
        }


def multiply_adds_g(manifest: Manifest, *, pruned: bool) -> float:
    """Return the multiply-adds of the query's encoder as the paper counts them, in G.

    The bundle records them for the sparse encoder. The dense one's are its graph's and, as the graph computes the [cls]
    row alone of the last block, that block once for each of the N patches. The cost of a block for one token follows
    from the sparse figures, where it is counted for each surviving patch.
    """
    counts, schedule = manifest.multiply_adds_g, manifest.keep_schedule
    published = counts["query_encoder_as_published"]
    if pruned:
        return published
    surviving = schedule.kept[-1] if schedule.kept else manifest.model.patches
    per_token = (published - counts["query_encoder"]) / surviving
    return counts["gallery_encoder"] + per_token * manifest.model.patches
