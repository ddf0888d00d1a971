"""A service manager stops a command: nothing half-made and nobody at work is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.bundle import Bundle
from tests.runtime.test_indexing import pictures

COMMAND = (sys.executable, "-m", "fpc_deploy.cli")


def wait_for(path: Path, pattern: str) -> None:
    limit = time.monotonic() + 60
    while not list(path.glob(pattern)):
        assert time.monotonic() < limit, f"no {pattern} in {path}"
        time.sleep(0.02)


def children_of(process: int) -> set[int]:
    """Ids of the processes below one, from /proc."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "stat").read_text()
            except OSError:  # gone meanwhile
                continue
            parents[int(folder.name)] = int(status.rsplit(")", 1)[1].split()[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {process}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_those_who_draw_end_with_the_command(tmp_path: Path, sent: signal.Signals) -> None:
    arguments = [*COMMAND, "render", str(tmp_path / "set"), "--identities", "500", "--cameras", "6", "--workers", "2"]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_for(tmp_path, ".set.*.part/*/*.jpg")
        drawing = children_of(process.pid)
        assert len(drawing) >= 2
        process.send_signal(sent)
        assert process.wait(timeout=30) != 0
    limit = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in drawing) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not [child for child in drawing if Path(f"/proc/{child}").exists()]
    assert sent == signal.SIGKILL or not list(tmp_path.iterdir())


def test_a_gallery_half_built_is_removed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """It holds what people look like: nobody would think of erasing from it."""
    source = pictures(tmp_path / "people", 2)
    image = next(path for path in source.iterdir() if path.suffix == ".png")
    for number in range(100, 3000):
        os.link(image, source / f"{number:04}_c1s1_{number:06}_00.png")
    (tmp_path / "out").mkdir()
    arguments = [*COMMAND, "index", "build", str(source), "--bundle", str(tiny_bundle.folder)]
    with subprocess.Popen([*arguments, "--out", str(tmp_path / "out" / "g")], stderr=subprocess.PIPE) as process:
        wait_for(tmp_path / "out", ".g.*.part")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) != 0
    assert list((tmp_path / "out").iterdir()) == []
