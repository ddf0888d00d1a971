"""A writer is killed at random moments: what it acknowledged is there, what it did not is there whole or not at all."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runtime.gallery.synthetic import create, held, reopen

ROOT = Path(__file__).parents[3]


def crash_once(folder: Path, before: set[int], seed: int) -> tuple[set[int], str]:
    """Run a writer, kill it; return what the gallery then holds, and the change it was in the middle of."""
    command = [sys.executable, "-m", "tests.runtime.gallery.crash_writer", str(folder), str(seed)]
    with subprocess.Popen(
        [*command, ",".join(map(str, sorted(before)))],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(random.Random(seed).uniform(0, 0.25))
        writer.kill()
        lines = writer.stdout.read().splitlines()
    acknowledged, open_change = set(before), ""
    for line in lines:
        if line == "done":
            acknowledged = _after(acknowledged, open_change)
            open_change = ""
        elif line.startswith("begin ") and line.count(" ") == 2:
            open_change = line
    possible = [acknowledged, _after(acknowledged, open_change)]
    with reopen(folder) as gallery:  # a reader first: it must do without the writer's clearing up
        found = held(gallery)
        assert found in possible, f"seed {seed}: {open_change}"
        assert gallery.verify(recall_queries=5).problems == ()
    with reopen(folder, writable=True) as gallery:
        assert held(gallery) == found
        assert gallery.verify(recall_queries=5).problems == ()
    return found, open_change.split(" ")[1] if open_change else ""


def _after(numbers: set[int], change: str) -> set[int]:
    if not change:
        return set(numbers)
    _, kind, listed = change.split(" ")
    named = {int(number) for number in listed.split(",") if number}
    return numbers | named if kind == "add" else numbers - named


def crash_repeatedly(folder: Path, times: int, first_seed: int) -> None:
    now = set(range(60))
    create(folder, range(60)).close()
    interrupted: dict[str, int] = {}
    for seed in range(first_seed, first_seed + times):
        now, kind = crash_once(folder, now, seed)
        interrupted[kind] = interrupted.get(kind, 0) + 1
    print(interrupted)
    assert sum(count for kind, count in interrupted.items() if kind) > times / 4, "kills missed the changes"


def test_twenty_kills(tmp_path: Path) -> None:
    crash_repeatedly(tmp_path / "g", 20, 0)


@pytest.mark.slow
def test_two_hundred_kills(tmp_path: Path) -> None:
    crash_repeatedly(tmp_path / "g", 200, 1000)
