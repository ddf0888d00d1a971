"""The report of one batch size: its JSON form is what others read, so its names are fixed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.errors import FpcError
from runtime.files import whole_file
from runtime.machine import Machine

SCHEMA = "fpc-deploy/bench/1"
STAGES = ("preprocess", "encode", "search", "emd", "decode", "rank", "total")
MAX_REPORT_BYTES = 2**24
_OTHERS = "other_batches"


class StageFigures(BaseModel):
    """Times of a stage for one crop: those of a batch, divided by its crops.

    Attributes:
        p50_ms: median.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
        floor_ms: least time that the machine could need, see `runtime.bench.floors`; None where that is unknown.
        ratio: p50_ms / floor_ms.
    """

    model_config = ConfigDict(frozen=True)

    p50_ms: float
    p95_ms: float
    p99_ms: float
    floor_ms: float | None
    ratio: float | None


class Report(BaseModel):
    """What was measured at one batch size, and under what conditions.

    Attributes:
        machine: where.
        engine: that ran the graphs.
        precision: of the bundle's graphs.
        batch: crops at a time.
        gallery_entries: how many people's images were searched.
        stages: by name, all of `STAGES`.
        crops_per_s: through the whole path, one batch after the other, after warm-up.
        cold_start_s: from the start of a fresh process to its first identified crop (files lie in the page cache).
        peak_rss_mb: most memory that process had resident, in units of 10^6 bytes, mapped files included.
        run_crops_per_s: through the loop of `run`, whose stages run side by side in batches of its own.
        schema_name: version of this form.
        made_at: ISO 8601, UTC.
        versions: of what computes, by package.
        threads: asked for; None is the engine's own choice.
        model: facts of the bundle.
        matching: settings of the match.
        tokens: how the gallery stores patch tokens.
        crops: what was encoded.
        repeats: batches measured.
        rates: what the machine can do at best: multiply-adds in G/s, memory in GB/s.
        load: processes that wanted to run when it began, averaged over a minute.
        notes: what a reader of the figures has to know.
    """

    model_config = ConfigDict(frozen=True)

    machine: Machine
    engine: str
    precision: str
    batch: int
    gallery_entries: int
    stages: dict[str, StageFigures]
    crops_per_s: float
    cold_start_s: float
    peak_rss_mb: float
    run_crops_per_s: float
    schema_name: str = SCHEMA
    made_at: str
    versions: dict[str, str]
    threads: int | None
    model: dict[str, Any]
    matching: dict[str, Any]
    tokens: str
    crops: str
    repeats: int
    rates: dict[str, float]
    load: float | None
    notes: tuple[str, ...] = ()


def as_json(reports: Sequence[Report]) -> str:
    """Return the JSON of reports of several batch sizes: the first one's, which holds the others as `other_batches`."""
    first, *others = (report.model_dump(mode="json") for report in reports)
    if others:
        first[_OTHERS] = others
    return json.dumps(first, indent=2) + "\n"


def write_reports(path: Path, reports: Sequence[Report]) -> None:
    """Write reports as JSON, whole or not at all.

    Raises:
        FpcError: the file cannot be written.
    """
    with whole_file(path) as part:
        part.write_text(as_json(reports), encoding="utf-8")


def read_reports(path: Path) -> list[Report]:
    """Read a file that `write_reports` wrote; one report a batch size.

    Raises:
        FpcError: no such file, too large, or not such a report; the message says what is wrong with it.
    """
    advice = "give a file that `fpc-deploy bench --json` wrote"
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise FpcError(f"{path} is larger than {MAX_REPORT_BYTES} bytes: {advice}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FpcError(f"{path} cannot be read: {error.strerror or error}; {advice}") from error
    except (ValueError, RecursionError) as error:
        raise FpcError(f"{path} is not JSON: {advice}") from error
    others = content.get(_OTHERS, []) if isinstance(content, Mapping) else []
    try:
        reports = [Report.model_validate(one) for one in [content, *(others if isinstance(others, list) else [others])]]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        raise FpcError(f"{path} is not a report of a measurement ({where}: {first['msg']}): {advice}") from error
    for report in reports:
        if missing := [name for name in STAGES if name not in report.stages]:
            raise FpcError(f"{path} is not a report of a measurement (no stage {missing[0]}): {advice}")
    return reports
