"""Options that several commands read alike."""

from enum import Enum
from typing import Annotated

import typer

from runtime.errors import CheckpointError


class SearchByName(str, Enum):
    """Whose cosine finds the candidates."""

    cls = "cls"
    descriptor = "descriptor"


SearchByOption = Annotated[
    SearchByName | None, typer.Option(help="Whose cosine finds candidates; cls as published; default: the bundle's.")
]
TemperatureOption = Annotated[
    float | None, typer.Option(help="Nearer neighbours count for more, by exp(-D/T); default: the bundle's.")
]
PassesOption = Annotated[
    int | None, typer.Option(min=1, max=3, help="Times a query is rebuilt; 1 as published; default: the bundle's.")
]


def whole_numbers(option: str, text: str, separator: str = ",") -> tuple[int, ...]:
    """Read `3,6,9`.

    Raises:
        CheckpointError: a part is no whole number; the message names the option.
    """
    try:
        return tuple(int(part) for part in text.lower().split(separator) if part.strip())
    except ValueError:
        raise CheckpointError(f"{option} {text}: whole numbers, separated by {separator!r}") from None


def parse_size(text: str) -> tuple[int, int]:
    """Read the height and width of `--image-size 256x128`.

    Raises:
        CheckpointError: not two whole numbers.
    """
    size = whole_numbers("--image-size", text, "x")
    if len(size) != 2:
        raise CheckpointError(f"--image-size {text}: give HEIGHTxWIDTH, as in 256x128")
    return size[0], size[1]
