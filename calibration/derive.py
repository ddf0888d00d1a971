"""From a float32 bundle to one of lower precision: converted, judged, and only then put in place."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from calibration.gate import Precision, Verdict
from calibration.stand_in import write_stand_in
from runtime.bundle import (
    MANIFEST_NAME,
    Bundle,
    CompactGraphName,
    FileRecord,
    GraphName,
    bundle_folder,
    sha256_of,
)
from runtime.errors import BundleError
from runtime.speed import STAND_IN

Convert = Callable[[GraphName, Path, Path], None]
"""Reads the graph at the first path and writes it in lower precision to the second."""
Judge = Callable[[Bundle, Bundle], Verdict]


def derive_bundle(
    source: Bundle,
    out: Path,
    precision: Precision,
    convert: Convert,
    judge: Judge,
    *,
    notes: tuple[str, ...] = (),
    allow_loss: bool = False,
    overwrite: bool = False,
) -> tuple[Bundle, Verdict]:
    """Write a bundle of lower precision to `out`; it appears whole and judged, or not at all.

    Args:
        source: a float32 bundle.
        out: folder to make.
        precision: of the new bundle. A gallery is bound to it: galleries of `source` have to be built anew.
        convert: called for every graph.
        judge: compares `source` with the new bundle.
        notes: further lines for the manifest.
        allow_loss: write the bundle also if it fails; its manifest then says so.
        overwrite: replace a bundle that is already there.

    Raises:
        BundleError: `source` is not float32 or is damaged, or `out` exists or cannot be written.
        ParityError: the bundle loses more than the gate allows.
    """
    if source.manifest.precision != "fp32":
        raise BundleError(f"{source.folder} is {source.manifest.precision} already: start from the fp32 bundle")
    if out.resolve() == source.folder.resolve():
        raise BundleError(f"{out} is the bundle to be converted: choose another --out")
    with bundle_folder(out, overwrite=overwrite) as folder:
        _convert_graphs(source, folder, precision, convert, notes)
        verdict = judge(source, Bundle.open(folder))
        if not allow_loss:
            verdict.demand()
        _note_verdict(folder, verdict)
    return Bundle.open(out), verdict


def _convert_graphs(
    source: Bundle, folder: Path, precision: Precision, convert: Convert, notes: tuple[str, ...]
) -> None:
    files: dict[str, FileRecord] = {}
    changed: set[str] = set()
    for graph in get_args(GraphName):
        if not source.has(graph):
            continue
        before = source.graph_path(graph)
        after = folder / before.name
        convert(graph, before, after)
        files[after.name] = FileRecord(bytes=after.stat().st_size, sha256=sha256_of(after))
        if files[after.name] != source.manifest.files[before.name]:
            changed.add(graph)
    for compact in get_args(CompactGraphName):  # over bytes already
        if source.has(compact):
            name = source.graph_path(compact).name
            shutil.copyfile(source.folder / name, folder / name)
            files[name] = source.manifest.files[name]
    write_stand_in(source.graph_path("query_encoder"), folder / STAND_IN)
    files[STAND_IN] = FileRecord(bytes=(folder / STAND_IN).stat().st_size, sha256=sha256_of(folder / STAND_IN))
    manifest = source.manifest
    derived = manifest.model_copy(
        update={
            "precision": precision,
            "files": files,
            # figures against torch hold for graphs that are still the same
            "parity": tuple(row for row in manifest.parity if row.graph not in changed),
            "kept_overlap": {},
            "descriptor_cosine": None,
            "notes": (*manifest.notes, *notes),
        }
    )
    (folder / MANIFEST_NAME).write_text(derived.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _note_verdict(folder: Path, verdict: Verdict) -> None:
    manifest = Bundle.open(folder).manifest
    notes = [*manifest.notes, verdict.summary()]
    if not verdict.passed:
        notes.append(f"WRITTEN IN SPITE OF A LOSS (--allow-loss): {'; '.join(verdict.failures)}")
    found = verdict.agreement
    judged = manifest.model_copy(
        update={"kept_overlap": found.kept, "descriptor_cosine": found.descriptor_cosine, "notes": tuple(notes)}
    )
    (folder / MANIFEST_NAME).write_text(judged.model_dump_json(indent=2) + "\n", encoding="utf-8")
