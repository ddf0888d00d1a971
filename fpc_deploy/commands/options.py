"""Options that several commands read alike."""

from enum import Enum
from typing import Annotated

import typer

from runtime.errors import FpcError


class SearchByName(str, Enum):
    """Whose cosine finds the candidates."""

    cls = "cls"
    descriptor = "descriptor"


# Left out, these are the bundle's; a new bundle takes the published method's, and names everyone.
SearchByOption = Annotated[SearchByName | None, typer.Option(help="Whose cosine finds candidates; as published: cls.")]
TemperatureOption = Annotated[
    float | None, typer.Option(help="Nearer neighbours count for more, by exp(-D/T); as published: all alike.")
]
PassesOption = Annotated[int | None, typer.Option(min=1, max=3, help="Times a query is rebuilt; as published: 1.")]
MinSimilarityOption = Annotated[
    float | None, typer.Option(min=-1, max=1, help="Below this similarity a person is unknown.")
]
MinOwnSimilarityOption = Annotated[
    float | None,
    typer.Option(min=-1, max=1, help="Below this own similarity a person is unknown; see eval --strangers."),
]


def whole_numbers(option: str, text: str, separator: str = ",") -> tuple[int, ...]:
    """Read `3,6,9`.

    Raises:
        FpcError: a part is no whole number; the message names the option.
    """
    try:
        return tuple(int(part) for part in text.lower().split(separator) if part.strip())
    except ValueError:
        raise FpcError(f"{option} {text}: whole numbers, separated by {separator!r}") from None


def parse_size(text: str) -> tuple[int, int]:
    """Read the height and width of `--image-size 256x128`.

    Raises:
        FpcError: not two whole numbers.
    """
    size = whole_numbers("--image-size", text, "x")
    if len(size) != 2:
        raise FpcError(f"--image-size {text}: give HEIGHTxWIDTH, as in 256x128")
    return size[0], size[1]
