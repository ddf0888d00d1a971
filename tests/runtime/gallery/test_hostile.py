"""A gallery from somewhere else, made to do harm."""

import contextlib
import json
import os
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import GalleryError
from runtime.gallery import graph as hnsw
from runtime.gallery import graph_file
from tests.runtime.gallery.synthetic import DIMENSION, SMALL, create, held, images, reopen


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER evil AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
        "CREATE VIEW evil AS SELECT * FROM entries",
        "CREATE TABLE evil (x)",
        "DROP TABLE audit",
        "UPDATE facts SET value = '7' WHERE name = 'dimension'",
        "UPDATE segments SET slots = 1000000",
        "UPDATE head SET entries = 1",
        "DELETE FROM entries WHERE id = 3",
        "UPDATE entries SET identity = 1",
    ],
    ids=lambda text: " ".join(text.split()[:3]),
)
def test_tampered_database_is_refused_or_told(tmp_path: Path, statement: str, caplog: pytest.LogCaptureFixture) -> None:
    create(tmp_path / "g", range(10)).close()
    connection = sqlite3.connect(tmp_path / "g" / "gallery.db")
    connection.execute(statement)
    connection.commit()
    connection.close()
    if "identity = 1" in statement:  # the rows are there, their seals tell
        with reopen(tmp_path / "g") as gallery:
            assert "does not match its checksum" in caplog.text
            assert len(gallery) == 4
        return
    with pytest.raises(GalleryError, match="is damaged"):
        reopen(tmp_path / "g")


@pytest.mark.parametrize("name", ["vectors-000001.bin", "tokens-000001.bin", "gallery.db"])
def test_links_out_of_the_folder_are_not_followed(tmp_path: Path, name: str) -> None:
    create(tmp_path / "g", range(10)).close()
    outside = tmp_path / "outside"
    (tmp_path / "g" / name).rename(outside)
    (tmp_path / "g" / name).symlink_to(outside)
    with pytest.raises(GalleryError):
        reopen(tmp_path / "g")


def test_the_name_of_the_writer_goes_to_no_other_file(tmp_path: Path) -> None:
    create(tmp_path / "g", range(3)).close()
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "g" / "write.holder").symlink_to(tmp_path / "victim")
    with pytest.raises(GalleryError, match=r"write\.holder cannot be written"):
        reopen(tmp_path / "g", writable=True)
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("name", ["head", "vectors-000001.bin", "tokens-000001.bin"])
def test_pipes_do_not_hang(tmp_path: Path, name: str) -> None:
    create(tmp_path / "g", range(3)).close()
    (tmp_path / "g" / name).unlink()
    os.mkfifo(tmp_path / "g" / name)
    with contextlib.suppress(GalleryError), reopen(tmp_path / "g") as gallery:
        assert held(gallery) == set(range(3))  # without `head` nothing is lost


def test_newer_format_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "g", range(3)).close()
    connection = sqlite3.connect(tmp_path / "g" / "gallery.db")
    connection.execute("PRAGMA user_version=3")
    connection.close()
    with pytest.raises(GalleryError, match="has format 3, this fpc-deploy reads up to 2: upgrade"):
        reopen(tmp_path / "g")


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", os.urandom(10_000)], ids=["empty", "header", "noise"])
def test_database_that_is_none(tmp_path: Path, content: bytes) -> None:
    create(tmp_path / "g", range(3)).close()
    (tmp_path / "g" / "gallery.db").write_bytes(content)
    with pytest.raises(GalleryError):
        reopen(tmp_path / "g")


def sound_graph() -> bytes:
    units = images(range(300)).cls
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    graph = hnsw.empty(300, DIMENSION, None, SMALL)
    hnsw.extend(graph, np.arange(1, 301), units)
    return graph_file.to_bytes(graph, "cls")


def test_sound_graph_is_read_back() -> None:
    found = graph_file.parse(sound_graph(), "cls", DIMENSION)
    assert sorted(found.labels.tolist()) == list(range(1, 301))


def edited(content: bytes, **values: object) -> bytes:
    (length,) = struct.unpack_from("<I", content, 8)
    header = json.dumps({**json.loads(content[12 : 12 + length]), **values}).encode()
    return content[:8] + struct.pack("<I", len(header)) + header + content[12 + length :]


def with_number(content: bytes, at_end: int, value: int) -> bytes:
    changed = bytearray(content)
    struct.pack_into("<I", changed, len(content) - at_end, value)
    return bytes(changed)


@pytest.mark.parametrize(
    "harm",
    [
        lambda c: c[:-1],
        lambda c: c[: len(c) // 2],
        lambda c: b"NOTAGRAPH" + c[9:],
        lambda c: edited(c, nodes=10**9),
        lambda c: edited(c, nodes=-1),
        lambda c: edited(c, links=10**6),
        lambda c: edited(c, entry_node=300),
        lambda c: edited(c, entry_node=-1),
        lambda c: edited(c, top_level=9),
        lambda c: edited(c, upper_bytes=0),
        lambda c: edited(c, hnswlib="0.0"),
        lambda c: edited(c, space="descriptor"),
        lambda c: edited(c, last_entry=5),
        lambda c: with_number(c, len(c) - c.index(b"}") - 1 - 8 * 300 - 4 * 300, 65_000),
        lambda c: with_number(c, len(c) - c.index(b"}") - 1 - 8 * 300 - 4 * 300 - 4, 300),
    ],
)
def test_hostile_links_are_refused(harm: Callable[[bytes], bytes]) -> None:
    content = sound_graph()
    with pytest.raises(GalleryError, match="the HNSW links of cls are damaged"):
        graph_file.parse(harm(content), "cls", DIMENSION)


def test_random_harm_to_links_never_crashes() -> None:
    content, rng = sound_graph(), np.random.default_rng(0)
    units = images(range(300)).cls
    refused = 0
    for _ in range(300):
        changed = bytearray(content)
        for at in rng.integers(12, len(content), 3):
            changed[at] = int(rng.integers(256))
        try:
            found = graph_file.parse(bytes(changed), "cls", DIMENSION)
        except GalleryError:
            refused += 1
            continue
        nodes = graph_file.blank_nodes(found, DIMENSION)
        nodes["unit"] = units
        graph = graph_file.assemble(found, nodes, np.zeros(300, bool), 1)
        graph.nearest(units[:5], 10)
    assert refused > 100
