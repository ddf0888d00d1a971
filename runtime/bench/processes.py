"""Runs the process that is measured, and reads what it says."""

import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from runtime import errors
from runtime.bench.subject import Task, as_input
from runtime.errors import FpcError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """What one process took.

    Attributes:
        cold_start_s: from its start to its first identified crop.
        batches: milliseconds of each batch by stage, with `total`.
        peak_rss_mb: most memory it had resident.
        warnings: what it logged.
    """

    cold_start_s: float
    batches: Sequence[dict[str, float]]
    peak_rss_mb: float
    warnings: tuple[str, ...]


def run_process(task: Task) -> Measured:
    """Run the task in a fresh process.

    Raises:
        FpcError: of the class that the process met, or if it ended without an answer.
    """
    answers: dict[str, dict[str, object]] = {}
    start = time.perf_counter()
    cold_start_s = 0.0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime.bench.subject"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, encoding="utf-8",
        )  # fmt: skip
        with process:  # closes its pipes and waits for it, whatever happens here
            if process.stdin is None or process.stdout is None:  # for the type checker: both are pipes
                raise FpcError("the measured process has no pipes")
            try:
                process.stdin.write(as_input(task))
                process.stdin.close()
                for line in process.stdout:
                    event, content = _event(line)
                    answers[event] = content
                    if event == "first":
                        cold_start_s = time.perf_counter() - start
            except BaseException:
                process.kill()
                raise
        said.seek(0)
        logged = tuple(line for line in said.read().splitlines() if line.strip())
    if "error" in answers:
        kind = getattr(errors, str(answers["error"]["kind"]), FpcError)
        raise _error(kind, str(answers["error"]["message"]))
    if "done" not in answers:
        last = logged[-1] if logged else "it said nothing"
        raise FpcError(f"the measured process ended with code {process.returncode} and no answer: {last}")
    done = answers["done"]
    return Measured(cold_start_s, done["batches"], done["peak_rss_mb"], logged)  # type: ignore[arg-type]


def _event(line: str) -> tuple[str, dict[str, object]]:
    """Read a line of the process; what a library prints beside its lines is none of them."""
    try:
        content = json.loads(line)
    except ValueError:
        return "", {}
    return (str(content.get("event", "")), content) if isinstance(content, dict) else ("", {})


def _error(kind: type[FpcError], message: str) -> FpcError:
    """Make an error of this class; one that takes more than a message is made as its base."""
    error = FpcError.__new__(kind)
    Exception.__init__(error, message)
    return error
