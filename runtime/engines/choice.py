"""The engine that `auto` stands for: measured once for a machine and a bundle, logged, and kept."""

import logging
import threading
import time

from pydantic import BaseModel, ConfigDict, Field

from runtime.bundle import Bundle
from runtime.engines.decisions import Facts, place_of, recall, remember
from runtime.engines.selection import ENGINES
from runtime.engines.trial import built_engines, compare_engine, try_engines
from runtime.errors import BundleError
from runtime.machine import ENGINE_PACKAGES, describe_machine, versions

log = logging.getLogger(__name__)

DECIDING = ("fpc-deploy", *ENGINE_PACKAGES)
"""Packages whose version may change which engine is the fastest, or runs at all."""


class Choice(BaseModel):
    """What to run the graphs of a bundle with.

    Attributes:
        engine: name, see `runtime.engines.selection.ENGINES`; never `auto`.
        threads: of one run.
        milliseconds: {"onnxruntime x2": median time of one crop in the query encoder} of all that was tried.
        refused: {engine: why it is not used}.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str = Field(pattern=f"^({'|'.join(ENGINES[1:])})$")
    threads: int = Field(gt=0, le=4096)
    milliseconds: dict[str, float]
    refused: dict[str, str]

    def __str__(self) -> str:
        taken = ", ".join(f"{label} {ms:.1f} ms" for label, ms in self.milliseconds.items())
        refused = "".join(f"; not {engine}: {reason}" for engine, reason in self.refused.items())
        return f"engine {self.engine} with {self.threads} threads (a crop takes {taken}{refused})"


class Moved(BaseModel):
    """How far an engine of another precision is from the reference on a bundle, and whether that is too far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    holds: bool
    summary: str


_known: dict[str, Choice | Moved] = {}
"""What this process has decided: four graphs of a bundle ask, the first one measures."""
_last: dict[str, Choice] = {}
"""{SHA-256 of a query encoder: the last choice}."""
_lock = threading.Lock()
"""Graphs are opened side by side, but whoever measures must be alone, and the others want the answer."""


def choose_engine(bundle: Bundle, threads: int | None = None) -> Choice:
    """Return the engine for a bundle, measured here now or earlier.

    Args:
        bundle: whose query encoder is measured.
        threads: to run with; None lets them be chosen, too.

    Raises:
        EngineError: the reference cannot run the query encoder.
        MissingExtraError: ONNX Runtime is not installed.
        BundleError: the query encoder is missing or damaged.
    """
    facts = _facts(bundle, threads)
    with _lock:
        known = _known.get(repr(facts))
        choice = known if isinstance(known, Choice) else _recall_or_measure(bundle, threads, facts)
        _known[repr(facts)] = _last[str(facts["graph"])] = choice
    return choice


def _recall_or_measure(bundle: Bundle, threads: int | None, facts: Facts) -> Choice:
    recalled = recall(Choice, facts)
    if recalled is not None:
        log.info("%s, measured before; to measure again delete %s", recalled, place_of(Choice, facts))
        return recalled
    log.info("measuring which engine runs %s fastest here: a few seconds, this once", bundle.folder)
    start = time.monotonic()
    trial = try_engines(bundle, threads)
    choice = Choice(
        engine=trial.engine,
        threads=trial.threads,
        milliseconds={label: round(ms, 3) for label, ms in trial.milliseconds.items()},
        refused=trial.refused,
    )
    if trial.complete:
        remember(choice, facts)
    log.info("%s, measured in %.1f s", choice, time.monotonic() - start)
    return choice


def chosen_already(bundle: Bundle) -> Choice | None:
    """Return what this process chose last for the query encoder of `bundle`, with whatever threads."""
    record = bundle.manifest.files.get("query_encoder.onnx")
    return None if record is None else _last.get(record.sha256)


def warn_if_moved(bundle: Bundle, engine: str, threads: int | None = None) -> None:
    """Log how far `engine` moves the answers of a bundle: a warning where that is beyond the bounds of `auto`.

    Raises:
        EngineError, MissingExtraError: the engine cannot run here.
    """
    facts = {**_facts(bundle, threads), "engine": engine}
    with _lock:
        if repr(facts) in _known:
            return
        moved = recall(Moved, facts)
        if moved is None:
            found = compare_engine(bundle, engine, threads)
            moved = Moved(holds=found.holds, summary=str(found))
            remember(moved, facts)
        _known[repr(facts)] = moved
    if moved.holds:
        log.info("%s answers as the graphs do: %s", engine, moved.summary)
    else:
        log.warning(
            "%s moves the answers of %s: %s; use it for galleries and queries alike, or not at all",
            engine, bundle.folder, moved.summary,
        )  # fmt: skip


def _facts(bundle: Bundle, threads: int | None) -> Facts:
    """What a decision depends on."""
    if not bundle.has("query_encoder"):
        raise BundleError(f"bundle {bundle.folder} has no query_encoder: no engine can be chosen by it; name one")
    machine = describe_machine()
    return {
        "graph": bundle.manifest.files["query_encoder.onnx"].sha256,
        "threads": threads,
        "cpu": machine.cpu,
        "features": list(machine.features),
        "cores": machine.cores,
        "gpu": list(machine.gpu),
        "packages": {name: version for name, version in versions().items() if name in DECIDING},
        "built": built_engines(bundle),
    }
