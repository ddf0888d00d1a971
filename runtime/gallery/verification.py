"""Checks a whole gallery against its checksums and itself, and puts right what can be."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np

from runtime.errors import GalleryError
from runtime.gallery import audit
from runtime.gallery.catalogue import DATABASE_NAME, NOTE_NAME, Catalogue, seal
from runtime.gallery.folding import fold
from runtime.gallery.follower import Follower
from runtime.gallery.records import SPACES, Problem, Settings, Verification
from runtime.gallery.rows import Rows, check_total, read_rows
from runtime.gallery.segments import Segment, record_crc
from runtime.gallery.snapshot import Snapshot
from runtime.gallery.stored_graphs import read_graph, read_graph_rows
from runtime.gallery.writer import Writer

RECALL_AT = 10


def verify(
    folder: Path,
    catalogue: Catalogue,
    follower: Follower,
    settings: Settings,
    writer: Writer | None,
    actor: str | None,
    recall_queries: int,
) -> Verification:
    """Check a gallery; with a writer, repair it. See `Gallery.verify`."""
    follower.follow()
    with catalogue.snapshot():
        problems = _database(catalogue)
        reading = read_rows(catalogue)
        problems += [Problem(id_, DATABASE_NAME, "its row does not match its checksum") for id_ in reading.damaged]
        try:
            check_total(catalogue, reading, catalogue.head())
        except GalleryError as error:
            problems.append(Problem(None, DATABASE_NAME, str(error)))
        slots = catalogue.segments()
    problems += _records(folder, follower, reading.rows, slots)
    problems += _graphs(folder, catalogue, follower, settings)
    problems += _leftovers(folder, catalogue, follower, writer)
    lost: list[tuple[int, str, str]] = []
    if writer and problems:
        problems, lost = _repair(writer, follower, settings, problems, reading.rows, actor)
    recall = _recall(folder, catalogue, follower.current, recall_queries)
    return Verification(len(reading.rows), tuple(problems), recall, tuple(lost))


def _database(catalogue: Catalogue) -> list[Problem]:
    """Structure of the database, its references, and the seals of the rows that no entry covers."""
    found = []
    for (answer,) in catalogue.connection.execute("PRAGMA integrity_check"):
        if answer != "ok":
            found.append(Problem(None, DATABASE_NAME, f"integrity check: {' '.join(str(answer).split())}"))
    found += [
        Problem(None, DATABASE_NAME, f"row {row} of {table} refers to a missing row of {parent}")
        for table, row, parent, _ in catalogue.connection.execute("PRAGMA foreign_key_check")
    ]
    for id_, *content, sealed in catalogue.connection.execute(
        "SELECT id, at, actor, action, count, entries, reason, seal FROM audit"
    ):
        if seal(*content) != sealed:
            found.append(Problem(None, DATABASE_NAME, f"line {id_} of the audit log does not match its checksum"))
    for space, *content, sealed in catalogue.connection.execute(
        "SELECT space, change, bytes, crc, nodes, last_entry, seal FROM graphs"
    ):
        if seal(space, *content) != sealed or space not in SPACES:
            found.append(Problem(None, "graphs", f"the row of {space!r} does not match its checksum"))
    if lost := catalogue.lost_changes():
        found.append(Problem(None, NOTE_NAME, f"{lost}, though they had been made"))
    elif catalogue.read_note() is None and catalogue.head().change:
        found.append(Problem(None, NOTE_NAME, "the note of the last change is missing or damaged"))
    return found


def _records(folder: Path, follower: Follower, rows: Rows, slots: dict[int, int]) -> list[Problem]:
    """Every record of every entry against its checksum, read anew."""
    found = []
    for number in np.unique(rows.segment).tolist():
        segment = Segment(folder, number, follower.layout)
        segment.grow(slots.get(number, 0))
        part = rows.take(rows.segment == number)
        for id_, slot, vector_crc, token_crc in zip(
            part.ids.tolist(), part.slot.tolist(), part.vector_crc.tolist(), part.token_crc.tolist(), strict=True
        ):
            if not 0 <= slot < segment.slots:
                found.append(Problem(id_, segment.vectors_path.name, "its record is cut off or its file is missing"))
                continue
            vectors, tokens = segment.record(slot)
            if record_crc(id_, vectors) != vector_crc:
                found.append(Problem(id_, segment.vectors_path.name, "its vectors do not match their checksum"))
            if follower.layout.patches and record_crc(id_, tokens) != token_crc:
                found.append(Problem(id_, segment.tokens_path.name, "its tokens do not match their checksum"))
    return found


def _graphs(folder: Path, catalogue: Catalogue, follower: Follower, settings: Settings) -> list[Problem]:
    """HNSW against the truth: the files are those named, whole, and hold every entry that they should."""
    found = []
    rows = read_graph_rows(catalogue)
    ids = follower.current.rows.ids
    for space, row in rows.items():
        try:
            graph = read_graph(folder, row, follower.current)
        except GalleryError as error:
            found.append(Problem(None, "graphs", str(error)))
            continue
        labels = np.asarray(graph.index.get_ids_list(), np.int64)
        missing = np.setdiff1d(ids[ids <= row.last_entry], labels)
        found += [Problem(int(id_), "graphs", f"it is missing from the HNSW of {space}") for id_ in missing]
    if rows and set(rows) != set(SPACES):
        found.append(Problem(None, "graphs", "HNSW is there for one vector and not for the other"))
    return found


def _leftovers(folder: Path, catalogue: Catalogue, follower: Follower, writer: Writer | None) -> list[Problem]:
    """Files that nothing names; a writer has cleared them away when it opened the gallery."""
    if writer is None:
        return []  # another process may be in the middle of writing them
    return [Problem(None, path.name, "nothing in the database names this file") for path in writer.leftovers()]


def _repair(
    writer: Writer,
    follower: Follower,
    settings: Settings,
    problems: list[Problem],
    rows: Rows,
    actor: str | None,
) -> tuple[list[Problem], list[tuple[int, str, str]]]:
    """Put right what can be; return the problems, marked, and the entries that had to go."""
    connection = writer.catalogue.connection
    if any("integrity check" in problem.what for problem in problems):
        try:
            connection.execute("REINDEX")
        except sqlite3.DatabaseError as error:
            raise GalleryError(
                f"{writer.catalogue.path} is damaged beyond repair ({error}): take out what can be read with "
                "`fpc-deploy index export`, and import it into a new gallery"
            ) from error
    ids = np.array(sorted({problem.entry for problem in problems if problem.entry is not None}), np.int64)
    in_graphs_only = {p.entry for p in problems if p.where == "graphs"}
    broken = [int(id_) for id_ in ids if id_ not in in_graphs_only]
    lost = []
    for id_ in broken:
        position, known = rows.find(np.array([id_], np.int64))
        text = rows.texts[position[0]] if known[0] else ("", "", "", "", "")
        lost.append((id_, text[0], text[2]))
    if broken:
        writer.remove(broken, "repair", actor, "records damaged on disk")
    with writer.catalogue.change() as change:
        if broken or any(problem.where == "graphs" for problem in problems):
            change.connection.execute("DELETE FROM graphs")
        writer.recount(change)
        if not broken:
            audit.write(change, actor, "repair", [], f"{len(problems)} problems")
    writer.recover()
    fold(writer, follower, settings)
    follower.reset()
    left = {problem.what for problem in _database(writer.catalogue)}
    hopeless = {problem.what for problem in problems if "audit log" in problem.what} | left
    return [replace(problem, repaired=problem.what not in hopeless) for problem in problems], lost


def _recall(folder: Path, catalogue: Catalogue, snapshot: Snapshot, queries: int) -> dict[str, float]:
    """Share of the exact nearest entries that HNSW finds, for entries spread over the gallery, a little moved."""
    if not len(snapshot):
        return {}
    found: dict[str, float] = {}
    rng = np.random.default_rng(0)
    chosen = np.unique(np.linspace(0, len(snapshot) - 1, queries).astype(np.int64))
    for space, row in read_graph_rows(catalogue).items():
        try:
            graph = read_graph(folder, row, snapshot)
        except GalleryError:
            continue
        units, good = snapshot.units(space, chosen)
        noise = rng.standard_normal(units.shape).astype(np.float32)
        asked = units[good] + 0.3 * noise[good] / np.linalg.norm(noise[good], axis=1, keepdims=True)
        with_graph = Snapshot(snapshot.rows, snapshot.segments, {space: graph}, snapshot.layout, lambda *_: None)
        near = with_graph.nearest(space, asked, RECALL_AT).entries
        exact = with_graph.nearest(space, asked, RECALL_AT, exact=True).entries
        hits = [len(np.intersect1d(a, b)) / len(b) for a, b in zip(near, exact, strict=True)]
        found[space] = float(np.mean(hits))
    return found
