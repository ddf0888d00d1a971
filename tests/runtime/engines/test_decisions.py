"""What was measured is kept per machine, and a bad cache is no cache."""

import os
from pathlib import Path

import pytest
from pydantic import BaseModel

from runtime.engines import decisions
from runtime.engines.decisions import VARIABLE, cache_folder, recall, remember

FACTS = {"graph": "ab" * 32, "cores": 2, "features": ["avx2"]}


class Found(BaseModel):
    best: str
    ms: float


class Other(BaseModel):
    best: str
    ms: float


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def the_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_a_finding_comes_back_under_the_same_facts_only() -> None:
    remember(Found(best="a", ms=1.5), FACTS)
    assert recall(Found, FACTS) == Found(best="a", ms=1.5)
    assert recall(Found, dict(reversed(FACTS.items()))) is not None
    for name, value in (("graph", "cd" * 32), ("cores", 4), ("features", ["avx2", "amx_bf16"])):
        assert recall(Found, FACTS | {name: value}) is None
    assert recall(Other, FACTS) is None


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"facts": ', id="cut short"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"[" * 10_000, id="deep"),
        pytest.param(b"null", id="no object"),
        pytest.param(b'{"facts": {}, "finding": {"best": "a", "ms": 1.0}}', id="other facts"),
        pytest.param(b" " * (decisions.MAX_BYTES + 1), id="huge"),
    ],
)
def test_a_damaged_file_is_ignored_and_replaced(folder: Path, content: bytes) -> None:
    remember(Found(best="a", ms=1.0), FACTS)
    the_file(folder).write_bytes(content)
    assert recall(Found, FACTS) is None
    remember(Found(best="b", ms=2.0), FACTS)
    assert recall(Found, FACTS) == Found(best="b", ms=2.0)
    assert the_file(folder)  # one file, and nothing half-written beside it


def test_a_finding_of_the_wrong_shape_is_ignored(folder: Path) -> None:
    remember(Found(best="a", ms=1.0), FACTS)
    path = the_file(folder)
    path.write_text(path.read_text().replace('"best": "a"', '"best": 7'))
    assert recall(Found, FACTS) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    remember(Found(best="a", ms=1.0), FACTS)
    assert recall(Found, FACTS) is None


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "fpc-deploy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert os.name == "nt" or cache_folder() == tmp_path / "home" / ".cache" / "fpc-deploy"
