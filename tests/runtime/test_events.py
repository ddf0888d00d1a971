"""The event record."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from runtime.events import Event, Neighbour, event_schema

NEIGHBOUR = Neighbour(entry=3, identity="0042", distance=0.12345678)
FIELDS: dict[str, Any] = {
    "source": "door.mp4",
    "camera": "door",
    "pts_s": 1.23456789,
    "frame": 12,
    "track": None,
    "box": (1.234, 2, 30.006, 40),
    "detector_score": 0.912345,
    "identity": "0042",
    "status": "known",
    "similarity": 0.87654321,
    "own_similarity": 0.61234567,
    "neighbours": (NEIGHBOUR,),
    "stage_ms": {"detect": 12.34567},
}


def test_the_line_as_it_leaves() -> None:
    assert Event(**FIELDS).to_json() == (
        '{"schema":"fpc-deploy/event/1","source":"door.mp4","camera":"door","pts_s":1.234568,"frame":12,"image":null,'
        '"track":null,"box":[1.23,2.0,30.01,40.0],"detector_score":0.9123,"identity":"0042","status":"known","similarity":0.8765,'
        '"own_similarity":0.6123,'
        '"neighbours":[{"entry":3,"identity":"0042","distance":0.1235}],"stage_ms":{"detect":12.346}}'
    )


def test_numbers_of_numpy_are_taken() -> None:
    event = Event(
        **FIELDS
        | {
            "frame": np.int64(4),
            "track": np.int64(7),
            "box": tuple(np.array([1, 2, 3, 4], np.float32)),
            "detector_score": np.float32(0.5),
            "similarity": np.float32(0.25),
        }
    )
    assert json.loads(event.to_json())["box"] == [1, 2, 3, 4]


@pytest.mark.parametrize("field", ["pts_s", "detector_score", "similarity", "own_similarity"])
def test_what_is_missing_is_null(field: str) -> None:
    for missing in (None, math.nan, np.float32("nan")):
        assert json.loads(Event(**FIELDS | {field: missing}).to_json())[field] is None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"similarity": math.inf}, id="infinite similarity"),
        pytest.param({"box": (1, 2, math.nan, 4)}, id="nan in box"),
        pytest.param({"stage_ms": {"detect": math.nan}}, id="nan in times"),
        pytest.param({"identity": None}, id="known without identity"),
        pytest.param({"status": "unknown"}, id="unknown with identity"),
        pytest.param({"frame": -1}, id="negative frame"),
        pytest.param({"pts_s": "later"}, id="time in words"),
        pytest.param({"colour": "red"}, id="a field that is not in the schema"),
        pytest.param({"schema": "fpc-deploy/event/2"}, id="another schema"),
    ],
)
def test_what_is_no_event(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Event(**FIELDS | change)


def test_an_event_cannot_be_changed() -> None:
    event = Event(**FIELDS)
    with pytest.raises(ValidationError):
        event.identity = "0043"


def test_a_name_that_is_no_utf8_is_escaped() -> None:
    line = Event(**FIELDS | {"source": b"t\xfcr.mp4".decode("utf-8", "surrogateescape")}).to_json()
    assert json.loads(line.encode())["source"] == r"t\udcfcr.mp4"


def test_the_schema_names_every_field_of_a_line() -> None:
    schema = event_schema()
    line = json.loads(Event(**FIELDS).to_json())
    assert set(schema["properties"]) == set(schema["required"]) == set(line)
    assert set(schema["$defs"]["Neighbour"]["properties"]) == set(line["neighbours"][0])
    assert schema["properties"]["status"]["enum"] == ["known", "unknown"]
    assert schema["additionalProperties"] is False
    json.dumps(schema, allow_nan=False)


numbers = st.floats(allow_infinity=False, min_value=-1e9, max_value=1e9)
solid = st.floats(allow_nan=False, min_value=-1e6, max_value=1e6)


@given(source=st.text(), identity=st.text() | st.none(), pts=numbers, score=numbers, box=st.tuples(*[solid] * 4))
def test_every_event_is_one_line_that_reads_back(
    source: str, identity: str | None, pts: float, score: float, box: tuple[float, float, float, float]
) -> None:
    status = "unknown" if identity is None else "known"
    event = Event(
        **FIELDS
        | {
            "source": source,
            "identity": identity,
            "status": status,
            "pts_s": pts,
            "similarity": score,
            "box": box,
        }
    )
    line = event.to_json()
    assert "\n" not in line
    assert "\r" not in line
    assert Event.from_json(line.encode().decode()) == event


@pytest.mark.parametrize("field", ["own_similarity", "image"])
def test_a_line_from_before_a_field_is_read(field: str) -> None:
    line = json.loads(Event(**FIELDS).to_json())
    del line[field]
    assert getattr(Event.from_json(json.dumps(line)), field) is None
