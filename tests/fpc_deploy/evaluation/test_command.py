import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fpc_deploy.cli import app
from runtime.bundle import Bundle
from runtime.errors import FpcError


def invoke(*arguments: object) -> str:
    """Run `fpc-deploy eval`; what it raises comes through."""
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)], catch_exceptions=True)
    if isinstance(result.exception, FpcError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_ablation_from_the_command_line(market: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("rows.json", "rows.png", "last.npz")]
    shown = invoke(
        market, "--bundle", tiny_bundle.folder, "--ablation", "--json", files[0], "--plot", files[1], "--dump", files[2]
    )
    rows = json.loads(files[0].read_text())["rows"]
    assert [(row["S"], row["M"], row["C"]) for row in rows] == [
        (False, False, False), (True, False, False), (True, True, False), (True, False, True), (True, True, True)
    ]  # fmt: skip
    assert f"{rows[-1]['mAP']:.1f}" in shown
    assert "24 queries counted, 0 not" in shown
    assert files[1].read_bytes()[:4] == b"\x89PNG"
    with np.load(files[2]) as dump:
        assert dump["similarity"].shape == (24, 49)


def test_cls_tokens_and_reranking(market: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Table 8 and table 5; without patches and with re-ranking some rows of the ablation do not exist."""
    out = tmp_path / "rows.json"
    given = (market, "--bundle", tiny_bundle.folder, "--ablation", "--json", out)
    shown = invoke(*given, "--tokens", "cls")
    assert "gallery of [cls] tokens" in shown
    assert [row["M"] for row in json.loads(out.read_text())["rows"]] == [False] * 3

    invoke(*given, "--rerank", "--rerank-settings", "paper")
    rows = json.loads(out.read_text())["rows"]
    assert [row["rerank"] for row in rows] == ["20,6,0.3"] * 4
    assert [row["C"] for row in rows if row["M"]] == [True]


def test_settings_reach_the_row(market: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    invoke(market, "--bundle", tiny_bundle.folder, "--stages", "SC", "--neighbours", 3, "--json", out, "--strict")
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["M"], row["C"], row["alpha"], row["neighbours"]) == (False, True, 0, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ablation", "--stages", "S"], "--ablation switches stages by itself"),
        (["--stages", "SX"], "some of the letters S, M and C"),
        (["--sweep", "drop"], "give --checkpoint"),
        (["--sweep", "alpha", "--values", "2"], "each must be in 0..1"),
        (["--rerank", "--rerank-settings", "mine"], "re-ranking 'mine'"),
        (["--rerank-settings", "paper"], "give it, too"),
        (["--values", "0.5"], "give it, too"),
        (["--checkpoint", "model.pth"], "give it, too"),
        (["--neighbour-temperature", "0"], "neighbour-temperature 0"),
        (["--json", "absent/rows.json"], "there is no folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_options_that_do_not_fit(market: Path, tiny_bundle: Bundle, options: list[str], message: str) -> None:
    with pytest.raises(FpcError, match=message):
        invoke(market, "--bundle", tiny_bundle.folder, *options)


def test_a_folder_that_is_no_data_set(tmp_path: Path, tiny_bundle: Bundle) -> None:
    with pytest.raises(FpcError, match="none of the known data sets: looked for query and bounding_box_test"):
        invoke(tmp_path, "--bundle", tiny_bundle.folder)


def test_evaluating_needs_no_torch(market: Path, tiny_bundle: Bundle) -> None:
    """An edge box can measure itself: torch comes in with sweeps that export, and matplotlib with --plot."""
    code = (
        "import sys; from fpc_deploy.cli import app\n"
        f"app(['eval', {str(market)!r}, '--bundle', {str(tiny_bundle.folder)!r}, '--sweep', 'neighbours',"
        " '--values', '2'], standalone_mode=False)\n"
        "print(sorted({'torch', 'matplotlib', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
