"""The training page: every `fpc-deploy` line in it names a command and options that exist."""

import shlex
from pathlib import Path

import pytest
import typer

from fpc_deploy.cli import app

PAGE = Path(__file__).parents[3] / "docs" / "training.md"


def command_lines() -> list[str]:
    blocks = PAGE.read_text(encoding="utf-8").split("```")[1::2]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("fpc-deploy")]


@pytest.mark.parametrize("line", command_lines())
def test_commands_and_options_exist(line: str) -> None:
    words = shlex.split(line)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert words[1] in commands
    known = {option for parameter in commands[words[1]].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_page_trains_and_exports() -> None:
    assert {"train", "export"} <= {line.split()[1] for line in command_lines()}
