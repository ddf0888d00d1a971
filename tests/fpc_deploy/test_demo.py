"""The demo as a newcomer meets it: one command, no file from outside, and the names are right."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.model import ModelConfig
from fpc_deploy.demo.report import surviving
from runtime.events import Event


@pytest.mark.slow
def test_the_demo_names_at_least_nine_in_ten_and_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fpc_deploy.cli", "demo", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(
        r"(\d+) of (\d+) tracks named rightly, (\d+) of (\d+) strangers named nobody, (\d+) ", done.stdout
    )
    assert found, done.stdout
    right, tracks, unnamed, strangers, events = map(int, found.groups())
    assert tracks == 16  # eight people past two cameras
    assert right >= 0.9 * tracks, done.stdout
    assert (unnamed, strangers) == (2, 2)  # one past each camera
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"<b>{right} of {tracks}</b> tracks of enrolled people named rightly" in page
    assert page.count("data:image/jpeg;base64,") >= tracks * (1 + 3 + 5)  # crop, three pruning blocks, five neighbours
    lines = [
        line for camera in ("cam1", "cam2") for line in (tmp_path / "out" / f"{camera}.jsonl").read_text().splitlines()
    ]
    assert len([Event.from_json(line) for line in lines]) == events


def test_surviving_patches_are_lit_where_any_of_them_lies() -> None:
    config = ModelConfig(height=38, width=27, patch_size=16, stride=11)  # a 3x2 grid of overlapping patches
    crop = np.full((38, 27, 3), 200, np.uint8)
    lit = surviving(crop, np.array([0, 5]), config)[..., 0] == 200
    expected = np.zeros((38, 27), bool)
    expected[:16, :16] = expected[22:38, 11:27] = True
    np.testing.assert_array_equal(lit, expected)
