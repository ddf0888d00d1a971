"""The bundle: a folder that describes itself. `bundle.json` names every other file with its SHA-256.

A bundle comes from somewhere else, so nothing in it is believed before it is checked: the manifest is parsed by a
strict schema, file names may not leave the folder, and a graph is hashed before an engine reads it.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from runtime.errors import BundleError
from runtime.folders import whole_folder

SCHEMA_VERSION = 1
MANIFEST_NAME = "bundle.json"
MAX_MANIFEST_BYTES = 16 * 2**20

GraphName = Literal["query_encoder", "gallery_encoder", "matcher", "decoder"]
CompactGraphName = Literal["compact_matcher", "compact_decoder"]
"""Matcher and decoder over the bytes of a compact gallery, for the CPU; a bundle may lack them."""
COMPACT_VERSION = 2
"""Of what the compact graphs take. Those of another version are left alone, as if the bundle lacked them."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_LARGEST = 65_536
"""Of any width or number of a model: what memory is taken by, before a graph could contradict, stays bounded."""


class ModelFacts(_Record):
    """What the trained model is. `model_hash` is the SHA-256 of its parameters, whatever file they came in."""

    model_hash: str
    source_format: Literal["fpc", "transreid", "fpc-deploy"]
    backbone: str
    embed_dim: int = Field(gt=0, le=_LARGEST)
    depth: int = Field(gt=1, le=_LARGEST)
    heads: int = Field(gt=0, le=_LARGEST)
    patch_size: int = Field(gt=0, le=_LARGEST)
    stride: int = Field(gt=0, le=_LARGEST)
    grid_rows: int = Field(gt=0, le=_LARGEST)
    grid_columns: int = Field(gt=0, le=_LARGEST)

    @property
    def patches(self) -> int:
        """Number of patches of a crop before pruning: N = grid_rows * grid_columns."""
        return self.grid_rows * self.grid_columns


class Preprocessing(_Record):
    """How a crop becomes the encoder's input. Resizing is the caller's part; the rest is inside the graphs."""

    height: int = Field(gt=0, le=4096)
    width: int = Field(gt=0, le=4096)
    resize: Literal["bilinear-antialias"] = "bilinear-antialias"
    colour: Literal["RGB"] = "RGB"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


class KeepSchedule(_Record):
    """Which blocks prune (counted from 0) and how many patches are left after each."""

    keep_rate: float = Field(gt=0, le=1)
    blocks: tuple[int, ...]
    kept: tuple[int, ...]


class Cameras(_Record):
    """Cameras the model was trained on. Index `trained` means "unknown": the mean of the trained rows."""

    trained: int = Field(ge=0, le=_LARGEST)
    names: tuple[str, ...] = ()

    @property
    def unknown(self) -> int:
        """Index to pass for a camera the model was not trained on."""
        return self.trained

    def index_of(self, name: str | None) -> int:
        """Return the index of a trained camera, or `unknown` for any other name."""
        return self.names.index(name) if name in self.names else self.unknown


SearchBy = Literal["cls", "descriptor"]


class MatchSettings(_Record):
    """Settings of the two-stage match and of consolidation; defaults from design section 4 (paper section 4).

    Attributes:
        refine: candidates taken by cosine of [cls], then refined by EMD.
        neighbours: K, gallery entries the query is rebuilt from.
        alpha: share of EMD in `D = (1 - alpha) * (1 - cosine) + alpha * EMD`; 0 leaves EMD out.
        sinkhorn_iterations: steps of the EMD, a constant of the matcher graph.
        sinkhorn_weights: what a patch is weighed against, a constant of the matcher graph: the other side's [cls]
            (published code) or the mean of its patches (paper).
        min_similarity: least similarity of a known person; None takes the nearest entry for known, however far it is.
        min_own_similarity: least cosine of a known person's own descriptor with an entry of that name. What is rebuilt
            lies near the gallery whoever asked, so this and not the similarity tells strangers; None lets all be known.
        search_by: whose cosine finds the candidates and enters `D`: that of [cls] (published) or of the descriptors.
        neighbour_temperature: T by which a neighbour counts for `exp(-(D - least D) / T)` in the decoder, so that where
            a person has fewer than K entries, strangers weigh little; None, or infinity, counts all alike (published).
        passes: times a query is rebuilt; from the second on, its neighbours are those of the rebuilt descriptor.
            1 as published.
    """

    refine: int = Field(default=100, gt=0)
    neighbours: int = Field(default=10, gt=0)
    alpha: float = Field(default=0.4, ge=0, le=1)
    sinkhorn_iterations: int = Field(default=5, gt=0)
    sinkhorn_weights: Literal["cls", "mean"] = "cls"
    min_similarity: float | None = Field(default=None, ge=-1, le=1)
    min_own_similarity: float | None = Field(default=None, ge=-1, le=1)
    search_by: SearchBy = "cls"
    neighbour_temperature: Annotated[float | None, AfterValidator(lambda t: None if t == math.inf else t)] = Field(
        default=None, gt=0
    )
    passes: int = Field(default=1, ge=1, le=3)

    def with_changes(self, given: Mapping[str, object]) -> "MatchSettings":
        """Return a copy with the settings given; those that are None stay.

        Raises:
            BundleError: a value is out of range.
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        try:
            return MatchSettings.model_validate(self.model_dump() | chosen)
        except ValidationError as error:
            fault = error.errors()[0]
            name = "-".join(map(str, fault["loc"])).replace("_", "-")
            raise BundleError(f"--{name} {fault['input']}: {fault['msg'].lower()}") from error


class FileRecord(_Record):
    """A file of the bundle: its size in bytes and SHA-256 in hexadecimal."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class GraphParity(_Record):
    """How far one output of one graph is from the torch model, over all batches tried."""

    graph: str
    output: str
    batches: tuple[int, ...]
    max_abs: float
    tolerance: float
    min_cosine: float
    worst_sample: str


class Manifest(_Record):
    """Content of `bundle.json`.

    Attributes:
        descriptor_cosine: of lower precision and float32, mean over held-out crops; None where it was not measured.
    """

    schema_version: int
    created_by: str
    model: ModelFacts
    preprocessing: Preprocessing
    keep_schedule: KeepSchedule
    cameras: Cameras
    matching: MatchSettings = MatchSettings()
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    descriptor_cosine: float | None = Field(default=None, ge=-1, le=1.001)
    decoder_tokens: Literal["gallery", "query+gallery"] | None
    multiply_adds_g: dict[str, float]
    compact_version: int = 1
    files: dict[str, FileRecord]
    parity: tuple[GraphParity, ...] = ()
    kept_overlap: dict[str, float] = {}
    notes: tuple[str, ...] = ()


class Binding(_Record):
    """What a gallery must share with the bundle that reads it.

    Backbone and heads are in no parameter, and change what the parameters mean. None is of a gallery that was made
    before they were kept, and differs from nothing.
    """

    model_hash: str
    precision: str
    preprocessing: Preprocessing
    backbone: str | None = None
    heads: int | None = None

    def differences(self, other: "Binding") -> list[str]:
        """Return `["model_hash (1f… here, 9a… there)", ...]`, one entry a field that differs."""
        mine, theirs = self.model_dump(exclude_none=True), other.model_dump(exclude_none=True)
        shared = [name for name in mine if name in theirs]
        return [f"{name} ({mine[name]} against {theirs[name]})" for name in shared if mine[name] != theirs[name]]


class Bundle:
    """An opened bundle: its manifest, and its files once their hashes have been checked.

    Attributes:
        folder: where the bundle lies.
        manifest: the parsed `bundle.json`.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._verified: set[str] = set()

    @classmethod
    def open(cls, folder: str | Path) -> "Bundle":
        """Open and check the manifest of the bundle in `folder`; graphs are hashed when first asked for.

        Raises:
            BundleError: no manifest, not JSON, a newer schema, a field missing or out of range, or a file name that
                points outside the folder.
        """
        folder = Path(folder)
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise BundleError(
                f"{folder} is not a bundle: it holds no {MANIFEST_NAME}; make one with `fpc-deploy export`"
            )
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes: not a bundle manifest")
        return cls(folder, parse_manifest(path))

    @property
    def binding(self) -> Binding:
        """What a gallery made by this bundle is bound to."""
        m = self.manifest
        return Binding(
            model_hash=m.model.model_hash,
            precision=m.precision,
            preprocessing=m.preprocessing,
            backbone=m.model.backbone,
            heads=m.model.heads,
        )

    def has(self, graph: GraphName | CompactGraphName) -> bool:
        """Whether the bundle holds this graph (a TransReID checkpoint has no decoder)."""
        return f"{graph}.onnx" in self.manifest.files

    @property
    def has_compact(self) -> bool:
        """Whether the bundle holds compact graphs that take what `runtime.emd` and `runtime.matching` give them."""
        return self.has("compact_matcher") and self.manifest.compact_version == COMPACT_VERSION

    def graph_path(self, graph: GraphName | CompactGraphName) -> Path:
        """Return the path of a graph, after checking size and SHA-256 against the manifest.

        Raises:
            BundleError: the bundle has no such graph, the file is missing, or it is not the file the manifest names.
        """
        name = f"{graph}.onnx"
        if not self.has(graph):
            raise BundleError(f"bundle {self.folder} has no {graph}: its checkpoint has no such part")
        path = self.folder / name
        if name not in self._verified:
            verify_file(path, self.manifest.files[name])
            self._verified.add(name)
        return path


def parse_manifest(path: Path) -> Manifest:
    """Parse `bundle.json` at `path`; see `Bundle.open` for what it raises."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not readable JSON: {error}; export the bundle again") from error
    version = content.get("schema_version") if isinstance(content, Mapping) else None
    if not isinstance(version, int):
        raise BundleError(f"{path} has no schema_version: not a bundle manifest")
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version}, this fpc-deploy reads up to {SCHEMA_VERSION}: upgrade fpc-deploy"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {where}: {first['msg']} ({error.error_count()} problems)") from error
    for name in manifest.files:
        if Path(name).name != name or name in {"", ".", ".."} or "\\" in name:
            raise BundleError(
                f"{path} names the file {name!r}, which points outside its folder: do not use this bundle"
            )
        if (path.parent / name).is_symlink():
            raise BundleError(f"{path.parent / name} is a symbolic link: a bundle holds plain files only")
    return manifest


def bundle_folder(out: Path, *, overwrite: bool) -> AbstractContextManager[Path]:
    """Give a folder that becomes the bundle `out` once the block ends well; raises BundleError, see `whole_folder`."""
    return whole_folder(out, overwrite=overwrite, markers=(MANIFEST_NAME,), error=BundleError)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def verify_file(path: Path, record: FileRecord) -> None:
    """Check that the file at `path` is the one that `record` describes.

    Raises:
        BundleError: the file is missing, of another size, or of another hash.
    """
    if not path.is_file():
        raise BundleError(f"{path} is missing: the manifest names it; copy the bundle again or export it anew")
    size = path.stat().st_size
    if size != record.bytes:
        raise BundleError(f"{path} has {size} bytes, the manifest says {record.bytes}: copy the bundle again")
    found = sha256_of(path)
    if found != record.sha256:
        raise BundleError(f"{path} has SHA-256 {found[:12]}…, the manifest says {record.sha256[:12]}…: copy it again")
