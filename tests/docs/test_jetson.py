"""The Jetson page: every `fpc-deploy` line in it names a command and options that exist."""

import shlex
from pathlib import Path
from typing import Any

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
    assert {"build", "calibrate", "doctor", "index", "run"} <= commands


@pytest.mark.parametrize("line", command_lines())
def test_commands_and_options_exist(line: str) -> None:
    words = shlex.split(line)
    command: Any = typer.main.get_command(app)
    for word in words[1:3]:
        if hasattr(command, "commands"):
            assert word in command.commands
            command = command.commands[word]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
