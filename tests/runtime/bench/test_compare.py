import pytest

from runtime.bench.compare import compare, differences
from runtime.bench.report import StageFigures
from runtime.errors import FpcError
from runtime.machine import Machine
from tests.runtime.bench.reports import report


def test_ratios_say_how_many_times_better_the_second_is() -> None:
    before = report(crops_per_s=10, run_crops_per_s=8, cold_start_s=6, peak_rss_mb=900)
    twice = {name: one.model_copy(update={"p50_ms": one.p50_ms / 2}) for name, one in before.stages.items()}
    [comparison] = compare(
        [before], [report(stages=twice, crops_per_s=40, run_crops_per_s=40, cold_start_s=2, peak_rss_mb=1800)]
    )
    better = {line.name: line.better for line in comparison.lines}
    assert list(better)[:7] == ["preprocess", "encode", "search", "emd", "decode", "rank", "total"]
    assert set(list(better.values())[:7]) == {2}
    assert better["the same in run"] == 5
    assert (better["crops per second"], better["cold start"], better["peak memory"]) == (4, 3, 0.5)


def test_batch_sizes_that_both_have() -> None:
    found = compare([report(batch=1), report(batch=8)], [report(batch=8), report(batch=16)])
    assert [one.batch for one in found] == [8]
    with pytest.raises(FpcError, match="no batch size in common: 1 in the first report, 2, 4 in the second"):
        compare([report(batch=1)], [report(batch=2), report(batch=4)])


def test_a_stage_that_takes_no_time_has_no_ratio() -> None:
    none = StageFigures(p50_ms=0, p95_ms=0, p99_ms=0, floor_ms=None, ratio=None)
    [comparison] = compare([report()], [report(stages=report().stages | {"emd": none})])
    assert [line.better for line in comparison.lines if line.name == "emd"] == [None]


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        pytest.param({"engine": "openvino"}, "engine: onnxruntime against openvino", id="engine"),
        pytest.param({"gallery_entries": 7}, "gallery entries: 100 against 7", id="gallery"),
        pytest.param({"versions": {"numpy": "2.1"}}, "version of numpy: 2.0 against 2.1", id="version"),
        pytest.param({"versions": {}}, "version of numpy: 2.0 against none", id="package gone"),
        pytest.param({"threads": 4}, "threads: the engine's choice against 4", id="threads"),
        pytest.param({"model": {"hash": "b"}}, "model hash: abc against b", id="model"),
        pytest.param({"tokens": "int8"}, "token store: float16 against int8", id="tokens"),
        pytest.param(
            {"machine": Machine(cpu="6502", cores=1, memory_gb=0.000064, system="CP/M")},
            "machine cpu: Z80 against 6502",
            id="machine",
        ),
    ],
)
def test_conditions_that_differ(changes: dict[str, object], phrase: str) -> None:
    assert differences(report(), report(**changes)) == [phrase]
    assert differences(report(**changes), report(**changes)) == []
