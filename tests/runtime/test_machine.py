import os
from pathlib import Path

import numpy as np

from runtime.machine import describe_machine, versions

X86 = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu sse avx2 avx512_vnni amx_int8 amx_bf16
"""


def files(root: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_server(tmp_path: Path) -> None:
    root = files(
        tmp_path,
        {
            "proc/cpuinfo": X86,
            "proc/meminfo": "MemTotal:       16000000 kB\nMemFree: 1 kB\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
            "sys/firmware/acpi/platform_profile": "balanced\n",
            "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t NVIDIA L4\nIRQ: 1\n",
        },
    )
    machine = describe_machine(root)
    assert machine.cpu == "Intel(R) Xeon(R) Platinum 8488C"
    assert machine.features == ("amx_bf16", "amx_int8", "avx2", "avx512_vnni")
    assert machine.memory_gb == 16.384
    assert (machine.governor, machine.power_mode, machine.gpu) == ("powersave", "balanced", ("NVIDIA L4",))
    assert "amx_bf16" in str(machine)
    assert "power mode balanced" in str(machine)


def test_a_jetson(tmp_path: Path) -> None:
    root = files(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\n",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\nx\n< POWER_MODEL ID=2 NAME=MODE_15W >\n",
            "var/lib/nvpmodel/status": "pmode:0002",
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        },
    )
    machine = describe_machine(root)
    assert machine.power_mode == "MODE_15W"
    assert machine.gpu == ("NVIDIA Jetson Orin Nano Developer Kit",)
    assert machine.features == ("asimddp", "asimdhp")


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    machine = describe_machine(tmp_path)
    assert machine.cpu
    assert (machine.features, machine.gpu, machine.governor, machine.power_mode) == ((), (), None, None)
    assert machine.memory_gb > 0.1


def test_this_machine() -> None:
    machine = describe_machine()
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert versions()["numpy"] == np.__version__
    assert versions().keys() >= {"python", "hnswlib", "fpc-deploy"}
