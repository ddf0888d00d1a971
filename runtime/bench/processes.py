"""Runs the process that is measured, and reads what it says."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import IO

from runtime import errors
from runtime.bench.subject import Task, as_input
from runtime.errors import FpcError


@dataclass(frozen=True)
class Measured:
    """What one process took.

    Attributes:
        cold_start_s: from its start to its first identified crop.
        batches: milliseconds of each batch by stage, with `total`.
        peak_rss_mb: most memory it had resident.
        run_crops_per_s: through the loop of `run`; None if that was not asked for.
        warnings: what it logged.
    """

    cold_start_s: float
    batches: Sequence[dict[str, float]]
    peak_rss_mb: float
    run_crops_per_s: float | None
    warnings: tuple[str, ...]


def run_process(task: Task) -> Measured:
    """Run the task in a fresh process.

    Raises:
        FpcError: of the class that the process met, or if it ended without an answer.
    """
    answers: dict[str, dict[str, object]] = {}
    warnings: list[str] = []
    cold_start_s = 0.0
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        start = time.perf_counter()
        with closing(_events(task, said)) as events:
            for event, content in events:
                answers[event] = content
                if event == "first":
                    cold_start_s = time.perf_counter() - start
                if event == "warning":
                    warnings.append(str(content["message"]))
        said.seek(0)
        lines = [line for line in said.read().splitlines() if line.strip()]
    if "error" in answers:
        raise _error(str(answers["error"]["kind"]), str(answers["error"]["message"]))
    if "done" not in answers:
        raise FpcError(f"the measured process ended before it was done: {lines[-1] if lines else 'it said nothing'}")
    done = answers["done"]
    figures = (done["batches"], done["peak_rss_mb"], done["run_crops_per_s"])
    return Measured(cold_start_s, *figures, tuple(warnings))  # type: ignore[arg-type]


def _events(task: Task, said: IO[str]) -> Generator[tuple[str, dict[str, object]], None, None]:
    """Start the process and yield what it says until it ends; it does not outlive the generator."""
    with subprocess.Popen(
        [sys.executable, "-m", "runtime.bench.subject"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        encoding="utf-8",
    ) as process:
        try:
            if process.stdin is not None and process.stdout is not None:  # for the type checker: both are pipes
                process.stdin.write(as_input(task))
                process.stdin.close()
                yield from map(_event, process.stdout)
        finally:
            process.kill()  # one that has ended is left alone


def _event(line: str) -> tuple[str, dict[str, object]]:
    """Read a line of the process; what a library prints beside its lines is none of them."""
    try:
        content = json.loads(line)
    except ValueError:
        return "", {}
    return (str(content.get("event", "")), content) if isinstance(content, dict) else ("", {})


def _error(kind: str, message: str) -> FpcError:
    """Make the error that the process met; one whose class takes more than a message comes as its base."""
    found = getattr(errors, kind, FpcError)
    error: FpcError = found.__new__(found)
    Exception.__init__(error, message)
    return error
