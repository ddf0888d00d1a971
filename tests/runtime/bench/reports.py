"""A made-up report, to be changed one field at a time."""

from runtime.bench.report import STAGES, Report, StageFigures
from runtime.machine import Machine


def report(**changes: object) -> Report:
    stages = {
        name: StageFigures(p50_ms=k + 1, p95_ms=k + 2, p99_ms=k + 3, floor_ms=0.5, ratio=2 * (k + 1))
        for k, name in enumerate(STAGES)
    }
    plain = Report(
        machine=Machine(cpu="Z80", cores=1, memory_gb=0.000064, system="CP/M"),
        engine="onnxruntime",
        precision="fp32",
        batch=1,
        gallery_entries=100,
        stages=stages,
        crops_per_s=10,
        cold_start_s=2,
        peak_rss_mb=500,
        run_crops_per_s=12,
        made_at="2026-01-01T00:00:00+00:00",
        versions={"numpy": "2.0"},
        threads=None,
        model={"hash": "abc"},
        matching={"refine": 100},
        tokens="float16",
        crops="24 rendered crops",
        repeats=20,
        rates={"memory_gb_per_s": 10.0},
        load=0.1,
    )
    return plain.model_copy(update=changes)
