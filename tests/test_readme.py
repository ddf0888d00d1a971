"""What the documentation shows is what the program does."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.core import TyperGroup

from fpc_deploy.cli import app
from runtime.bundle import Bundle
from runtime.indexing import build_gallery

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def command_lines() -> list[tuple[str, str]]:
    """(page, command line) of every `fpc-deploy ...` line in a code block."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            joined = block.replace("\\\n", " ")
            found += [(page.name, line) for line in joined.splitlines() if line.strip().startswith("fpc-deploy ")]
    return found


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_documented_commands_and_options_exist(page: str, line: str) -> None:
    words = [word for word in shlex.split(line, comments=True) if not word.startswith("[")][1:]
    command = typer.main.get_command(app)
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{page}: no command {words[0]}"
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in known]
    assert unknown == [], f"{page}: {line}"


def test_documented_pages_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_readme_python_runs(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for name in ("anna", "boris"):
        folder = tmp_path / "people" / name
        folder.mkdir(parents=True)
        for number in range(6):
            Image.fromarray(rng.integers(0, 256, (80, 40, 3), np.uint8)).save(folder / f"{number}.png")
    Image.open(tmp_path / "people" / "boris" / "3.png").save(tmp_path / "crop.jpg", quality=95)
    (tmp_path / "bundle").symlink_to(tiny_bundle.folder)
    build_gallery(tiny_bundle, tmp_path / "people", tmp_path / "gallery")
    monkeypatch.chdir(tmp_path)
    [code] = blocks(ROOT / "README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    identity, status, similarity = capsys.readouterr().out.split()
    assert (identity in {"anna", "boris"}, status) == (True, "known")
    assert 0 < float(similarity) <= 1


def test_readme_opens_with_the_two_commands_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^make (\w+)", text, re.MULTILINE)[:2] == ["demo", "test"]
    assert {"demo", "test"} <= set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))


def test_ci_runs_the_readme_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_constraints_hold_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"(#.*|[A-Za-z0-9_.-]+==[A-Za-z0-9.+!-]+( ; python_version [<>=]+ \"[\d.]+\")?)", line), (
            line
        )
