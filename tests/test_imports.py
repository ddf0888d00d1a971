"""Imports run one way, and the runtime needs neither torch nor onnx."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "runtime": {"runtime"},
    "export": {"runtime", "export"},
    "calibration": {"runtime", "calibration"},
    "fpc_deploy": {"runtime", "export", "calibration", "fpc_deploy"},
}
HEAVY = {"torch", "timm", "onnx", "onnxscript", "torchvision"}


def imported(path: Path) -> set[str]:
    """Top-level names that a module imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    forbidden = MAY_IMPORT.keys() - MAY_IMPORT[package]
    wrong = {str(path.relative_to(ROOT)): found for path in files if (found := imported(path) & forbidden)}
    assert wrong == {}


def test_the_runtime_never_imports_what_only_a_workstation_has() -> None:
    files = (ROOT / "runtime").rglob("*.py")
    assert {str(path): found for path in files if (found := imported(path) & HEAVY)} == {}


def test_calibration_never_imports_torch() -> None:
    files = (ROOT / "calibration").rglob("*.py")
    assert {str(path): found for path in files if (found := imported(path) & {"torch", "timm"})} == {}


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import fpc_deploy", id="public names"),
        pytest.param("from fpc_deploy.cli import app; app(['--help'], standalone_mode=False)", id="help"),
        pytest.param("from fpc_deploy.cli import app; app(['run', '--help'], standalone_mode=False)", id="run help"),
    ],
)
def test_light_commands_import_nothing_heavy(code: str) -> None:
    check = f"{code}\nimport sys\nprint(sorted({HEAVY | {'tensorrt', 'pycuda', 'matplotlib'}!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
