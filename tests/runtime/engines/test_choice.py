"""`auto`: one decision a machine and bundle, logged, kept, and the same for every graph."""

import logging
from pathlib import Path

import pytest

from runtime.bundle import Bundle
from runtime.encoder import Encoder
from runtime.engines import choice, open_graph, resolve_engine
from runtime.engines.choice import Choice, choose_engine, warn_if_moved
from runtime.engines.decisions import VARIABLE
from runtime.engines.trial import Trial
from runtime.errors import BundleError, EngineError
from runtime.matching import Consolidator, Matcher
from tests.runtime.engines.test_ov import HAS_BF16


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    forget(monkeypatch)
    return tmp_path / "cache" / "engines"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process."""
    monkeypatch.setattr(choice, "_known", {})
    monkeypatch.setattr(choice, "_last", {})


def test_a_decision_is_measured_once_and_then_read(
    tiny_bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="runtime")
    first = choose_engine(tiny_bundle)
    assert first.engine == "onnxruntime"
    assert "measuring which engine runs" in caplog.messages[0]
    assert caplog.messages[1].startswith(f"engine onnxruntime with {first.threads} threads (a crop takes onnxruntime x")
    caplog.clear()
    forget(monkeypatch)
    monkeypatch.setattr(choice, "try_engines", None)  # a second trial would fail
    assert choose_engine(tiny_bundle) == first
    (kept,) = folder.iterdir()
    (message,) = caplog.messages
    assert message.endswith(f"measured before; to measure again delete {kept}")


def test_all_graphs_of_a_bundle_share_one_decision(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def once(bundle: Bundle, threads: int | None) -> Trial:
        measured.append(threads)
        return Trial("openvino", 1, {"openvino x1": 1.0}, {}, complete=True)

    monkeypatch.setattr(choice, "try_engines", once)
    assert Encoder(tiny_bundle, sparse=True).engine_name == "openvino"
    assert Encoder(tiny_bundle, sparse=False).engine_name == "openvino"
    Matcher(tiny_bundle, tiny_bundle.manifest.matching)
    Consolidator(tiny_bundle)
    assert open_graph(tiny_bundle, "matcher").name == "onnxruntime-cpu"  # whose shapes change from call to call
    assert resolve_engine(tiny_bundle, "decoder", "auto", 7) == ("onnxruntime", 7)  # as one of several engines
    assert measured == [None]
    assert resolve_engine(tiny_bundle, "query_encoder", "auto", 1) == ("openvino", 1)
    assert measured == [None, 1]


def test_a_trial_that_had_no_time_decides_for_this_process_alone(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    hurried = Trial("onnxruntime", 1, {"onnxruntime x1": 900.0}, {"openvino": "no time"}, complete=False)
    monkeypatch.setattr(choice, "try_engines", lambda *_: hurried)
    assert choose_engine(tiny_bundle) is choose_engine(tiny_bundle)
    assert not folder.exists()


@pytest.mark.parametrize("engine", ["auto", "eval", ""])
def test_a_cache_that_names_no_engine_is_measured_again(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, folder: Path, engine: str
) -> None:
    choose_engine(tiny_bundle)
    (path,) = folder.iterdir()
    whole = path.read_text()
    path.write_text(whole.replace('"engine": "onnxruntime"', f'"engine": "{engine}"'))
    assert path.read_text() != whole
    forget(monkeypatch)
    assert choose_engine(tiny_bundle).engine == "onnxruntime"
    assert '"engine": "onnxruntime"' in path.read_text()


def test_another_bundle_version_or_number_of_threads_is_decided_anew(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    choose_engine(tiny_bundle)
    choose_engine(tiny_bundle, threads=1)
    assert len(list(folder.iterdir())) == 2
    forget(monkeypatch)
    monkeypatch.setattr(choice, "versions", lambda: {"onnxruntime": "99.0"})
    choose_engine(tiny_bundle)
    assert len(list(folder.iterdir())) == 3


def test_a_named_engine_is_taken_without_measuring(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "try_engines", None)
    assert resolve_engine(tiny_bundle, "matcher", "openvino", 3) == ("openvino", 3)
    assert resolve_engine(tiny_bundle, "matcher", "openvino-bf16", None) == ("openvino", None)
    assert resolve_engine(tiny_bundle, "gallery_encoder", "openvino-bf16", None) == ("openvino-bf16", None)
    with pytest.raises(EngineError, match="no engine 'fast'"):
        open_graph(tiny_bundle, "decoder", "fast")


@pytest.mark.parametrize("threads", [0, -1, 100_000])
@pytest.mark.parametrize("engine", ["auto", "onnxruntime"])
def test_threads_that_would_take_the_machine_down(tiny_bundle: Bundle, engine: str, threads: int) -> None:
    with pytest.raises(EngineError, match=rf"^{threads} threads on \d+ cores: give 1 to \d+$"):
        open_graph(tiny_bundle, "query_encoder", engine, threads)


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bfloat16")
def test_a_named_engine_that_moves_the_answers_is_warned_about_once(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("runtime.engines.trial.DESCRIPTOR_COSINE", 1.1)  # what no engine keeps
    for _ in range(2):
        open_graph(tiny_bundle, "gallery_encoder", "openvino-bf16")
    forget(monkeypatch)
    monkeypatch.setattr(choice, "compare_engine", None)
    warn_if_moved(tiny_bundle, "openvino-bf16")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "openvino-bf16 moves the answers of" in warnings[0]


def test_a_bundle_without_a_query_encoder_says_so(tiny_bundle: Bundle) -> None:
    files = {name: record for name, record in tiny_bundle.manifest.files.items() if name != "query_encoder.onnx"}
    other = Bundle(tiny_bundle.folder, tiny_bundle.manifest.model_copy(update={"files": files}))
    with pytest.raises(BundleError, match="no query_encoder"):
        open_graph(other, "decoder")


def test_the_cache_is_checked_before_it_is_believed() -> None:
    with pytest.raises(ValueError, match="engine"):
        Choice(engine="/bin/sh", threads=1, milliseconds={}, refused={})
