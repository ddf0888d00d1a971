"""What a machine is, as far as it decides speed: processor, memory, power mode, versions of what computes."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

CPU_FEATURES = {
    "avx2": "AVX2: float32 at full width",
    "avx512_vnni": "AVX-512 VNNI: fast INT8",
    "avx512_bf16": "AVX-512 BF16: fast bfloat16",
    "amx_int8": "AMX INT8: very fast INT8",
    "amx_bf16": "AMX BF16: very fast bfloat16",
    "asimdhp": "Arm FP16 arithmetic",
    "asimddp": "Arm dot product: fast INT8",
    "i8mm": "Arm INT8 matrix products",
    "bf16": "Arm bfloat16",
}
"""Features that decide which precision is fast, as /proc/cpuinfo names them on x86 and on Arm."""

ENGINE_PACKAGES = (
    "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13-bindings", "pycuda",
    "nvidia-cudnn-cu12", "nvidia-cudnn-cu13",
)  # fmt: skip
"""Distributions that engines are made of."""
PACKAGES = ("fpc-deploy", "numpy", "hnswlib", "pillow", *ENGINE_PACKAGES)
"""Distributions whose version decides speed."""


class Machine(BaseModel):
    """One computer.

    Attributes:
        cpu: model name of the processor, or its architecture where it does not say.
        cores: logical processors that this process may use.
        memory_gb: installed memory, in units of 10^9 bytes.
        features: those of `CPU_FEATURES` that it has.
        gpu: model of each NVIDIA GPU or Jetson module.
        system: operating system and architecture.
        governor: of the clock frequency of processor 0; None where the system shows none, as in most virtual machines.
        power_mode: Jetson's nvpmodel, or the firmware's platform profile; None where there is neither.
    """

    model_config = ConfigDict(frozen=True)

    cpu: str
    cores: int
    memory_gb: float
    features: tuple[str, ...] = ()
    gpu: tuple[str, ...] = ()
    system: str
    governor: str | None = None
    power_mode: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.cpu}, {self.cores} cores, {self.memory_gb:.0f} GB", *self.gpu]
        parts += [", ".join(self.features)] if self.features else []
        parts += [f"governor {self.governor}"] if self.governor else []
        parts += [f"power mode {self.power_mode}"] if self.power_mode else []
        return "; ".join(parts)


def describe_machine(root: Path = Path("/")) -> Machine:
    """Describe the computer this runs on; what cannot be read is left out.

    Args:
        root: where `proc`, `sys`, `etc` and `var` lie.
    """
    return Machine(
        cpu=_cpu_model(root),
        cores=usable_cores(),
        memory_gb=_memory_bytes(root) / 1e9,
        features=tuple(sorted(cpu_flags(root) & CPU_FEATURES.keys())),
        gpu=_gpus(root),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        governor=_line(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        power_mode=_nvpmodel(root) or _line(root / "sys/firmware/acpi/platform_profile"),
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of those of `PACKAGES` that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        for one in importlib.metadata.distributions(name=name):
            found.setdefault(name, one.version)
    return found


def usable_cores() -> int:
    """Return how many logical processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_flags(root: Path = Path("/")) -> set[str]:
    """Return what the processor can do, in the words of /proc/cpuinfo; empty where there is none."""
    lines = [line for line in _text(root / "proc/cpuinfo").splitlines() if ":" in line]
    return {
        flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split(":")[1].split()
    }


def _cpu_model(root: Path) -> str:
    named = re.search(r"^model name\s*:\s*(.+)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    return named.group(1).strip() if named else platform.processor() or platform.machine()


def _memory_bytes(root: Path) -> int:
    stated = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    if stated:
        return int(stated.group(1)) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gpus(root: Path) -> tuple[str, ...]:
    texts = [_text(path) for path in sorted(root.glob("proc/driver/nvidia/gpus/*/information"))]
    models = [found.group(1).strip() for text in texts if (found := re.search(r"^Model:\s*(.+)$", text, re.MULTILINE))]
    if (root / "etc/nv_tegra_release").is_file():
        models.append(_line(root / "proc/device-tree/model") or "NVIDIA Jetson")
    return tuple(models)


def _nvpmodel(root: Path) -> str | None:
    """Name of a Jetson's power mode: the service notes its number, its configuration gives the name."""
    number = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if not number:
        return None
    modes = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", _text(root / "etc/nvpmodel.conf"), re.MULTILINE)
    names: dict[int, str] = {int(mode): name for mode, name in modes}
    return names.get(int(number.group(1)), f"nvpmodel {int(number.group(1))}")


def _line(path: Path) -> str | None:
    return _text(path).strip(" \0\n") or None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
