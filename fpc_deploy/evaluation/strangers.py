"""How well people of the gallery are told from strangers, and the thresholds of `run` that do it.

Each query is asked twice: as it is, and as a stranger, with all images of its person out of sight. So every query is on
both sides, and a stranger looks as much like the people of the gallery as anyone does.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from calibration.protocol import Relations
from fpc_deploy.evaluation.similarity import Answer
from runtime.matching import own_similarity

ACCEPTED = (0.01, 0.05, 0.1, 0.2)
"""Shares of strangers taken for someone, that a threshold is given for."""


@dataclass(frozen=True)
class Threshold:
    """What a threshold does, in percent of the queries.

    Attributes:
        accepted_strangers: strangers that reach it.
        value: of the threshold.
        named_rightly: people of the gallery that reach it and are named rightly.
        named_wrongly: likewise, with another person's name.
    """

    accepted_strangers: float
    value: float
    named_rightly: float
    named_wrongly: float


@dataclass(frozen=True)
class Separation:
    """How well one score of an event tells people of the gallery from strangers.

    Attributes:
        score: `similarity` or `own_similarity`, as in events.
        auroc: share of pairs of a person named rightly and a stranger in which the person scores higher; 0.5 is chance.
        thresholds: one for each of `ACCEPTED`.
    """

    score: str
    auroc: float
    thresholds: tuple[Threshold, ...]

    def as_json(self) -> dict[str, object]:
        """As `eval --json` has it."""
        return asdict(self)


def separate(
    known: Answer,
    strange: Answer,
    own: NDArray[np.float32],
    relations: Relations,
    identities: NDArray[np.str_],
) -> list[Separation]:
    """Compare the scores of people with those of strangers.

    Args:
        known: to Q queries; images that `relations.left_out` names are passed over, as in the ranking.
        strange: to the same queries as strangers; images of their own person are passed over.
        own: (Q, G) cosines of the queries' own descriptors with the gallery's.
        relations: of the queries to the gallery's G images.
        identities: (G,) who is on them.

    Returns:
        One separation for each score. Queries without a match are not counted.
    """
    counted = relations.matches.any(axis=1)
    best, mine = _scores(known, own, relations.left_out, identities)
    _, theirs = _scores(strange, own, relations.left_out | relations.matches, identities)
    right = np.take_along_axis(relations.matches, best[:, None], axis=1)[counted, 0]
    return [_separate(name, mine[name][counted], theirs[name][counted], right) for name in mine]


def make_table(separations: Sequence[Separation]) -> Table:
    """Lay out separations for the terminal."""
    table = Table(title="people of the gallery and strangers, % of queries", title_justify="left")
    table.add_column("score", no_wrap=True)
    for name in ("AUROC", "strangers taken for someone", "threshold", "named rightly", "named wrongly"):
        table.add_column(name, justify="right")
    for one in separations:
        for row in one.thresholds:
            figures = (row.accepted_strangers, row.named_rightly, row.named_wrongly)
            taken, rightly, wrongly = (f"{figure:.1f}" for figure in figures)
            table.add_row(one.score, f"{one.auroc:.3f}", taken, f"{row.value:.3f}", rightly, wrongly)
    return table


def _scores(
    answer: Answer, own: NDArray[np.float32], hidden: NDArray[np.bool_], identities: NDArray[np.str_]
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float32]]]:
    """Return the (Q,) places of the best images that are not hidden, and (Q,) scores as `run` gives them."""
    ranked = np.where(hidden, -np.inf, answer.similarity)
    best = ranked.argmax(axis=1)
    scores = {"similarity": ranked.max(axis=1)}
    if answer.neighbours is not None:
        used = np.column_stack([best, answer.neighbours])
        scores["own_similarity"] = own_similarity(np.take_along_axis(own, used, axis=1), identities[used])
    return best, scores


def _separate(
    score: str, known: NDArray[np.floating], strange: NDArray[np.floating], right: NDArray[np.bool_]
) -> Separation:
    """Compare (n,) scores of people, (n,) of strangers, and whether the people were named rightly."""
    ascending = np.sort(strange)
    below = (np.searchsorted(ascending, known[right], "left") + np.searchsorted(ascending, known[right], "right")) / 2
    thresholds = []
    for share in ACCEPTED:
        allowed = int(share * len(ascending))
        # just above the first stranger who must not reach it
        value = float(np.nextafter(np.float32(ascending[-1 - allowed]), np.float32(np.inf)))
        reach = known >= value
        percent = [100 * float(np.mean(those)) for those in (strange >= value, reach & right, reach & ~right)]
        thresholds.append(Threshold(percent[0], value, percent[1], percent[2]))
    return Separation(score, float(np.mean(below / len(ascending))) if right.any() else 0.0, tuple(thresholds))
