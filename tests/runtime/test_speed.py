"""Whether lower precision is faster here: measured once, remembered, and said."""

import logging
from pathlib import Path

import pytest

from runtime.bundle import Bundle
from runtime.engines.decisions import VARIABLE, remember
from runtime.errors import BundleError
from runtime.speed import (
    STAND_IN,
    Speed,
    SpeedHere,
    _facts,
    compare_speed,
    speed_here,
    verdict_on_speed,
    warn_if_slower,
)
from tests.precisions import make_int8


@pytest.fixture
def int8(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return make_int8(tiny_bundle, tmp_path / "int8")


def test_speed_is_measured_once_a_machine(int8: Bundle, tmp_path: Path) -> None:
    first = speed_here(int8, "onnxruntime")
    assert first is not None
    assert [speed.precision for speed in first] == ["float32", "int8"]
    assert all(speed.milliseconds > 0 for speed in first)
    (kept,) = (tmp_path / "cache").rglob("*.json")
    stamp = kept.stat().st_mtime_ns
    assert speed_here(int8, "onnxruntime") == first
    assert kept.stat().st_mtime_ns == stamp
    speed_here(int8, "onnxruntime", threads=1)
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 2


@pytest.mark.parametrize(("own", "level"), [(5.0, logging.INFO), (20.0, logging.WARNING)])
def test_slower_precision_is_one_warning(
    int8: Bundle, caplog: pytest.LogCaptureFixture, own: float, level: int
) -> None:
    remember(SpeedHere(engine="onnxruntime-cpu", own_ms=own, float32_ms=10.0), _facts(int8, "onnxruntime", None))
    with caplog.at_level(logging.INFO):
        warn_if_slower(int8, "onnxruntime")
    (record,) = [one for one in caplog.records if one.name == "runtime.speed"]
    assert record.levelno == level
    wanted = "int8 is 2.0 times as fast as float32 here" if own < 10 else "NOT faster than float32 here"
    assert wanted in record.getMessage()


def test_a_float32_bundle_has_nothing_to_compare(tiny_bundle: Bundle) -> None:
    assert speed_here(tiny_bundle, "onnxruntime") is None


def test_tensorrt_is_not_measured_here(int8: Bundle) -> None:
    assert speed_here(int8, "tensorrt") is None


def test_a_damaged_stand_in_is_not_run_and_stops_nobody(int8: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    (int8.folder / STAND_IN).write_bytes(b"something else")
    with pytest.raises(BundleError, match="the manifest says"):
        speed_here(int8, "onnxruntime")
    with caplog.at_level(logging.WARNING):
        warn_if_slower(int8, "onnxruntime")
    assert "cannot be measured" in caplog.text


def test_two_bundles_are_timed_by_turns(tiny_bundle: Bundle, int8: Bundle) -> None:
    pair = compare_speed(tiny_bundle, int8, "onnxruntime", repeats=2)
    assert [speed.precision for speed in pair] == ["fp32", "int8"]


@pytest.mark.parametrize(
    ("milliseconds", "phrase"),
    [(10.0, "int8 is 2.0 times as fast as fp32"), (20.0, "NOT faster"), (25.0, "NOT faster than fp32 here")],
)
def test_slower_precision_is_called_slower(milliseconds: float, phrase: str) -> None:
    line = verdict_on_speed(Speed("fp32", "onnxruntime-cpu", 20.0), Speed("int8", "onnxruntime-cpu", milliseconds))
    assert phrase in line
