import json
import os
from pathlib import Path

import pytest

from runtime.bench.report import as_json, read_reports, write_reports
from runtime.errors import FpcError
from tests.runtime.bench.reports import report

REQUIRED = {"machine", "engine", "precision", "batch", "gallery_entries", "stages", "crops_per_s", "cold_start_s"}
REQUIRED |= {"peak_rss_mb"}
STAGE_NAMES = ["preprocess", "encode", "search", "emd", "decode", "rank", "total"]


def test_the_form_that_others_read() -> None:
    content = json.loads(as_json([report()]))
    assert content.keys() >= REQUIRED
    assert "other_batches" not in content
    assert list(content["stages"]) == STAGE_NAMES
    for stage in content["stages"].values():
        assert list(stage) == ["p50_ms", "p95_ms", "p99_ms", "floor_ms", "ratio"]


def test_of_several_batch_sizes_the_first_is_on_top(tmp_path: Path) -> None:
    reports = [report(batch=batch) for batch in (4, 1, 8)]
    content = json.loads(as_json(reports))
    assert content["batch"] == 4
    assert [one["batch"] for one in content["other_batches"]] == [1, 8]
    assert content["other_batches"][0].keys() == content.keys() - {"other_batches"}
    write_reports(tmp_path / "a.json", reports)
    assert read_reports(tmp_path / "a.json") == reports
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(FpcError, match=r"a\.json is a folder"):
        write_reports(tmp_path / "a.json", [report()])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def without_a_stage() -> str:
    content = json.loads(as_json([report()]))
    del content["stages"]["emd"]
    return json.dumps(content)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(None, "cannot be read", id="missing"),
        pytest.param("no json", "is not JSON", id="text"),
        pytest.param("[" * 100_000, "is not JSON", id="nested"),
        pytest.param("[1, 2]", "not a report", id="a list"),
        pytest.param('{"dataset": "x", "rows": []}', r"not a report of a measurement \(machine", id="another report"),
        pytest.param('{"other_batches": {"a": 1}}', "not a report", id="others that are no list"),
        pytest.param(without_a_stage(), "no stage emd", id="a stage missing"),
    ],
)
def test_a_file_that_is_no_report(tmp_path: Path, content: str | None, complaint: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(FpcError, match=complaint):
        read_reports(path)


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_reports(tmp_path / "link.json", [report()])
    assert (tmp_path / "link.json").is_symlink()
    assert read_reports(tmp_path / "real.json") == [report()]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FpcError, match="pipe cannot be written: it is no regular file"):
        write_reports(tmp_path / "pipe", [report()])
