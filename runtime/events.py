"""The record that leaves the box: one person in one frame, and who that is.

An event is one line of JSON. Numbers are rounded when the event is made, so what is written and read back is equal to
what was made. NaN is not JSON: where a number may be missing it becomes null, elsewhere it is refused, as infinity is
everywhere.
"""

import json
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

SCHEMA: Literal["fpc-deploy/event/1"] = "fpc-deploy/event/1"


def _writable(value: object) -> object:
    """File names may hold bytes that are no UTF-8, which JSON cannot carry: show them as escapes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _nan_to_none(value: object) -> object:
    try:
        return None if value is None or math.isnan(value) else value  # type: ignore[arg-type]
    except TypeError:  # no number: the field's own type says so
        return value


Text = Annotated[str, BeforeValidator(_writable)]
Ratio = Annotated[float, AfterValidator(lambda value: round(value, 4))]  # scores, similarities, distances
Pixels = Annotated[float, AfterValidator(lambda value: round(value, 2))]
Seconds = Annotated[float, AfterValidator(lambda value: round(value, 6))]  # finer than the 90 kHz clock of MPEG
Milliseconds = Annotated[float, AfterValidator(lambda value: round(value, 3))]


class _Record(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        json_schema_serialization_defaults_required=True,  # a line always carries its schema
    )


class Neighbour(_Record):
    """A gallery entry that the query was rebuilt from."""

    entry: int = Field(description="Number of the gallery entry.")
    identity: Text = Field(description="Whose image it is.")
    distance: Ratio = Field(description="(1 - alpha) * (1 - cosine) + alpha * EMD; without EMD 1 - cosine.")


class Event(_Record):
    """One person in one frame."""

    schema_: Literal["fpc-deploy/event/1"] = Field(default=SCHEMA, alias="schema")
    source: Text = Field(description="File, folder or stream; passwords are masked.")
    camera: Text | None = Field(description="Name of the camera, null where none was given.")
    pts_s: Annotated[Seconds | None, BeforeValidator(_nan_to_none)] = Field(
        description="Presentation time in seconds on the clock of the source; null for images."
    )
    frame: int = Field(ge=0, description="Position in decoding order, counted from 0; of a folder, of the image.")
    image: Text | None = Field(default=None, description="Name of the image file in a folder; null for video.")
    track: int | None = Field(description="Number the box file gives the person, null where it gives none.")
    box: tuple[Pixels, Pixels, Pixels, Pixels] = Field(description="x1, y1, x2, y2 in pixels of the frame.")
    detector_score: Annotated[Ratio | None, BeforeValidator(_nan_to_none)] = Field(
        description="Score of the detector or box file, null where there is none."
    )
    identity: Text | None = Field(description="Who it is; null where status is unknown.")
    status: Literal["known", "unknown"]
    similarity: Annotated[Ratio | None, BeforeValidator(_nan_to_none)] = Field(
        description="Cosine of the consolidated descriptor and the best gallery entry's; null without an entry."
    )
    own_similarity: Annotated[Ratio | None, BeforeValidator(_nan_to_none)] = Field(
        default=None,
        description="Largest cosine of the crop's own descriptor, before consolidation, and an entry of that person "
        "among the neighbours and the best entry; low for a stranger.",
    )
    neighbours: tuple[Neighbour, ...] = Field(description="Gallery entries the query was rebuilt from, nearest first.")
    stage_ms: dict[str, Milliseconds] = Field(description="Time of each stage for the frame, in milliseconds.")

    @model_validator(mode="after")
    def _identity_fits_status(self) -> "Event":
        if (self.identity is not None) != (self.status == "known"):
            raise ValueError("a known event has an identity, an unknown one has none")
        return self

    def to_json(self) -> str:
        """Return the event as one line of compact JSON, without the line feed."""
        return json.dumps(
            self.model_dump(mode="json", by_alias=True), ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )

    @classmethod
    def from_json(cls, line: str) -> "Event":
        """Read what `to_json` wrote.

        Raises:
            ValueError: the line is not an event (pydantic's ValidationError says where).
        """
        return cls.model_validate_json(line)


def event_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a line."""
    return Event.model_json_schema(by_alias=True, mode="serialization")
