"""Everything our TensorRT code uses exists in the bindings of the oldest and the newest version it claims.

The Python bindings of TensorRT install as wheels where the libraries do not. They need nine C symbols to load, which a
stub library exports, built here with the machine's C compiler. What our code uses is read off its source, so that
nothing can be forgotten: every attribute of a variable that holds a TensorRT object, and the arguments of every call.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ENGINES = Path(__file__).parents[3] / "runtime" / "engines"
MODULES = ("engine_build.py", "tensorrt.py")

HOLDS = {
    "trt": "",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "tensor": "ITensor",
    "config": "IBuilderConfig",
    "cache": "ITimingCache",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
}
"""{name of a variable, or of an attribute with an underscore before it: the class of what it holds}."""
RTX_ONLY = {"ComputeCapability", "IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability"}
"""Used behind `compute_capabilities`, which only TensorRT-RTX is ever given; its own bindings are checked too."""
VERSIONS = {"oldest": ("tensorrt-cu12-bindings", "10.0.1", 10), "newest": ("tensorrt-cu13-bindings", "11.4.0.106", 11)}

STUB = """
#include <stddef.h>
void *createInferBuilder_INTERNAL(void) { return NULL; }
void *createInferRefitter_INTERNAL(void) { return NULL; }
void *createInferRuntime_INTERNAL(void) { return NULL; }
void *createNvOnnxParserRefitter_INTERNAL(void) { return NULL; }
void *createNvOnnxParser_INTERNAL(void) { return NULL; }
void *getBuilderPluginRegistry(void) { return NULL; }
void *getPluginRegistry(void) { return NULL; }
int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void) { return 1; }
"""
PROBE = """
import functools, json, sys
import {module} as trt
uses, answer = json.loads(sys.argv[1]), {{}}
for use in uses:
    try:
        found = functools.reduce(getattr, use.split("."), trt)
        answer[use] = getattr(found, "__doc__", None) or ""
    except AttributeError:
        answer[use] = None
print(json.dumps([trt.__version__, answer]))
"""


def uses_of_tensorrt() -> dict[str, list[int]]:
    """Return {"IBuilderConfig.set_flag": numbers of arguments it is called with} over both modules."""
    uses: dict[str, list[int]] = {}
    for module in MODULES:
        tree = ast.parse((ENGINES / module).read_text(encoding="utf-8"))
        called = {
            id(node.func): len(node.args) + len(node.keywords) for node in ast.walk(tree) if isinstance(node, ast.Call)
        }
        for node in ast.walk(tree):
            path = dotted(node) if isinstance(node, ast.Attribute) else None
            if path is not None:
                uses.setdefault(path, [])
                if id(node) in called:
                    uses[path].append(called[id(node)])
    return uses


def dotted(node: ast.expr) -> str | None:
    """Return `IBuilderConfig.set_flag` for `config.set_flag` or `self._config.set_flag`, None for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    if node.id == "self" and parts and parts[0].startswith("_"):
        holder, parts = parts[0][1:], parts[1:]
    else:
        holder = node.id
    if holder not in HOLDS or not parts:
        return None
    return ".".join(([HOLDS[holder]] if HOLDS[holder] else []) + parts)


def takes(signatures: str, name: str, count: int) -> bool:
    """Whether any overload in a pybind11 docstring takes `count` arguments besides self."""
    for line in signatures.splitlines():
        if f"{name}(" not in line or "->" not in line:
            continue
        inside = line[line.index("(") + 1 : line.rindex(") ->")]
        depth, arguments = 0, [""] if inside else []
        for letter in inside:
            depth += (letter in "[(<") - (letter in "])>")
            if letter == "," and not depth:
                arguments.append("")
            else:
                arguments[-1] += letter
        given = [argument for argument in arguments if not argument.strip().startswith("self")]
        needed = [argument for argument in given if "=" not in argument]
        if len(needed) <= count <= len(given) or inside == "*args, **kwargs":
            return inside != "*args, **kwargs" or "Overloaded" in signatures
    return False


def probe(module: str, environment: dict[str, str]) -> tuple[str, dict[str, str | None]]:
    uses = json.dumps(sorted(uses_of_tensorrt()))
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=module), uses],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    version, answer = json.loads(done.stdout)
    return version, answer


def demand_all(answer: dict[str, str | None], excepted: set[str]) -> None:
    missing = {use for use, found in answer.items() if found is None}
    assert missing <= excepted, f"not in these bindings: {sorted(missing - excepted)}"
    for use, counts in uses_of_tensorrt().items():
        signatures, name = answer[use], use.rpartition(".")[2]
        # `Base.__init__(self)` passes self itself
        if signatures and f"{name}(" in signatures and not name.startswith("__"):
            for count in counts:
                assert takes(signatures, name, count), f"{use} with {count} arguments: {signatures}"


@pytest.fixture
def bindings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Environment in which the real bindings of a version load against stub libraries."""
    package, version, major = VERSIONS[request.param]
    compiler = shutil.which("cc")
    assert compiler, "this test needs a C compiler"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path)]
    subprocess.run([*pip, f"{package}=={version}"], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "stub.c").write_text(STUB)
    for library in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        file = f"lib{library}.so.{major}"
        build = [
            compiler,
            "-shared",
            "-fPIC",
            "-o",
            str(tmp_path / file),
            str(tmp_path / "stub.c"),
            f"-Wl,-soname,{file}",
        ]
        subprocess.run(build, check=True, timeout=60)
    return {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(tmp_path / "site")}


@pytest.mark.slow
@pytest.mark.parametrize("bindings", list(VERSIONS), indirect=True)
def test_the_bindings_have_all_that_is_used(bindings: dict[str, str]) -> None:
    version, answer = probe("tensorrt_bindings", bindings)
    assert version in {number for _, number, _ in VERSIONS.values()}
    demand_all(answer, {use for use in answer if use in RTX_ONLY})


def test_tensorrt_rtx_has_all_that_is_used() -> None:
    _, answer = probe("tensorrt_rtx_bindings", {})
    demand_all(answer, set())


def test_what_is_used_is_found_in_the_source() -> None:
    """The reader of our source sees what it has to see; a rename of a variable would otherwise empty the test."""
    uses = uses_of_tensorrt()
    assert uses["IExecutionContext.execute_async_v3"] == [1]
    assert uses["IBuilderConfig.set_timing_cache"] == [2, 2]
    assert uses["Runtime.deserialize_cuda_engine"] == [1]
    assert {"BuilderFlag.TF32", "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "IProgressMonitor"} <= uses.keys()
    assert {use.partition(".")[0] for use in uses} >= set(HOLDS.values()) - {""}


@pytest.mark.parametrize(
    ("signatures", "count", "expected"),
    [
        ("f(self: T, a: int, b: int = 3) -> bool", 1, True),
        ("f(self: T, a: int, b: int = 3) -> bool", 2, True),
        ("f(self: T, a: int, b: int = 3) -> bool", 3, False),
        ("f(self: T, a: List[Tuple[int, int]]) -> bool", 1, True),
        ("f(self: T) -> None", 1, False),
    ],
)
def test_signatures_are_read_right(signatures: str, count: int, expected: bool) -> None:
    assert takes(signatures, "f", count) is expected
