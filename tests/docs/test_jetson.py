"""The Jetson page: every `fpc-deploy` line in it names a command and options that exist."""

import shlex
from pathlib import Path

import pytest
import typer

from fpc_deploy.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "jetson.md"


def command_lines() -> list[str]:
    lines, inside = [], False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside and line.startswith("fpc-deploy"):
            lines.append(line)
    return lines


def test_the_page_shows_building_and_calibrating() -> None:
    commands = {line.split()[1] for line in command_lines()}
    assert {"build", "calibrate", "doctor", "run"} <= commands


@pytest.mark.parametrize("line", command_lines())
def test_commands_and_options_exist(line: str) -> None:
    words = shlex.split(line)
    group = typer.main.get_command(app)
    commands = group.commands  # type: ignore[attr-defined]
    assert words[1] in commands
    known = {option for parameter in commands[words[1]].params for option in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= known
