"""`fpc-deploy render` as it is typed."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fpc_deploy.cli import app, main


@pytest.mark.slow
def test_a_small_set_with_video(tmp_path: Path) -> None:
    out = tmp_path / "set"
    line = f"render {out} --identities 2 --cameras 2 --train-images 1 --gallery-images 1 --video --walkers 1 --rate 1"
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 0, result.output
    assert len(list(out.rglob("*.mp4"))) == 2
    assert len(list((out / "query").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(["--identities", "1"], "identities", id="one identity"),
        pytest.param(["--cameras", "1"], "cameras", id="one camera"),
        pytest.param(["--train-share", "1", "--video"], "a clip needs", id="nobody left to film"),
    ],
)
def test_bad_options_give_one_line(
    options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fpc-deploy", "render", str(tmp_path / "out"), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert words in told
    assert told.count("\n") == 1
