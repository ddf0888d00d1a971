"""What this machine can run, and for each missing part the line that installs it."""

import importlib
import importlib.metadata
import importlib.util
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from runtime.machine import CPU_FEATURES, cpu_flags


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        part: what was looked for.
        found: version or state; None where it is missing.
        needed_for: what one can do with it.
        remedy: the line that installs it, where it is missing.
    """

    part: str
    found: str | None
    needed_for: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at Python, compilers, packages and processors; imports nothing heavy and changes nothing."""
    return [*_machine(), *_packages(), *_accelerators()]


def _machine() -> list[Finding]:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    install = "apt-get install g++ python3-dev"
    features = sorted(cpu_flags() & CPU_FEATURES.keys())
    return [
        Finding(
            "Python", platform.python_version() if sys.version_info >= (3, 10) else None, "everything", "Python 3.10+"
        ),
        Finding("C++ compiler", compiler, "installing hnswlib, which comes as source", install),
        Finding("Python headers", str(headers) if headers.is_file() else None, "installing hnswlib", install),
        Finding(
            "CPU", f"{platform.machine()}: {', '.join(features) or 'no feature that matters'}", "precision that is fast"
        ),
    ]


def _packages() -> list[Finding]:
    """Packages by distribution name; alternatives for one part are tried in order."""
    wanted = [
        (("hnswlib",), "galleries", "pip install fpc-deploy"),
        (("av",), "video and streams", "pip install fpc-deploy"),
        (("onnxruntime", "onnxruntime-gpu"), "running bundles", "pip install 'fpc-deploy[cpu]'"),
        (("onnxruntime-gpu",), "running bundles on an NVIDIA GPU",
         "pip uninstall onnxruntime, whose place it takes, then pip install 'fpc-deploy[gpu]'"),
        (("openvino",), "running bundles faster on an Intel or AMD CPU", "pip install 'fpc-deploy[openvino]'"),
        (("torch",), "fpc-deploy export and train", "pip install 'fpc-deploy[export]'"),
        (("timm",), "fpc-deploy export and train", "pip install 'fpc-deploy[export]'"),
        (("onnx",), "fpc-deploy export and calibrate", "pip install 'fpc-deploy[export]'"),
        (("tensorrt",), "TensorRT engines", "pip install 'fpc-deploy[tensorrt]'; on a Jetson it comes with JetPack"),
        (("pycuda",), "TensorRT engines", "pip install 'fpc-deploy[pycuda]'"),
        (("tensorrt-rtx-cu13-bindings", "tensorrt_rtx"), "building RTX engines, without a GPU too",
         "pip install 'fpc-deploy[tensorrt-rtx]'"),
    ]  # fmt: skip
    return [Finding(names[0], _version(names), purpose, remedy) for names, purpose, remedy in wanted]


def _version(names: tuple[str, ...]) -> str | None:
    found = (dist for name in names for dist in importlib.metadata.distributions(name=name))
    first = next(found, None)
    return None if first is None else f"{first.name} {first.version}"


def _accelerators() -> list[Finding]:
    driver = Path("/proc/driver/nvidia/version")
    jetson = Path("/etc/nv_tegra_release")
    gpu = driver.read_text(encoding="utf-8", errors="replace").splitlines()[0] if driver.is_file() else None
    if jetson.is_file():
        gpu = jetson.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    findings = [Finding("NVIDIA driver", gpu, "GPU engines", "install the driver of your card or JetPack")]
    if importlib.util.find_spec("onnxruntime") is not None:
        providers = importlib.import_module("onnxruntime").get_available_providers()
        findings.append(Finding("ONNX Runtime providers", ", ".join(providers), "running bundles"))
    return findings
