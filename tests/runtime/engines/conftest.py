"""The tiny bundle in three precisions, for building engines."""

from collections.abc import Callable

import pytest

from runtime.bundle import Bundle
from tests.precisions import make_fp16, make_int8


@pytest.fixture(scope="session")
def bundle_in(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """The tiny bundle in the precision that is asked for."""
    made = {"fp32": tiny_bundle}

    def get(precision: str) -> Bundle:
        if precision not in made:
            make = {"fp16": make_fp16, "int8": make_int8}[precision]
            made[precision] = make(tiny_bundle, tmp_path_factory.mktemp(precision) / "bundle")
        return made[precision]

    return get
