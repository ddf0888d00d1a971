"""`fpc-deploy export`: a checkpoint in, a proven bundle out, or nothing."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
from onnx import ModelProto

from export.checkpoint import Geometry, LoadedModel, load_checkpoint
from export.compact import CompactDecoderGraph, compact_matcher
from export.graphs import DecoderGraph, EncoderGraph, MatcherGraph
from export.model import DecoderTokens, FPCModel, keep_counts
from export.multiply_adds import count_as_published, count_linear
from export.parity import BATCHES, compare_encoder, demand_parity, pruning_values
from export.parity_compact import compare_compact_decoder, compare_compact_matcher
from export.parity_matching import compare_decoder, compare_matcher, make_memory
from export.tracing import Port, trace_graph, with_outputs
from runtime.bundle import (
    COMPACT_VERSION,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Bundle,
    Cameras,
    FileRecord,
    GraphParity,
    KeepSchedule,
    Manifest,
    MatchSettings,
    ModelFacts,
    Preprocessing,
    bundle_folder,
    sha256_of,
)
from runtime.engines import Engine, open_engine
from runtime.errors import CheckpointError

Report = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What may be chosen at export.

    What is None is as the model was trained, see `export.checkpoint.TrainedFor`.

    Attributes:
        keep_rate: share of patches that survives each pruning block.
        prune_at: blocks that prune, counted from 0.
        decoder_tokens: whether the query's own tokens join its neighbours' in the decoder.
        camera_names: names of the trained cameras, in their order; empty if unknown.
        matching: defaults of the runtime; its Sinkhorn settings are constants of the matcher graph.
        overwrite: replace a bundle that is already there.
    """

    keep_rate: float | None = None
    prune_at: tuple[int, ...] | None = None
    decoder_tokens: DecoderTokens | None = None
    camera_names: tuple[str, ...] = ()
    matching: MatchSettings = field(default_factory=MatchSettings)
    overwrite: bool = False


def export_bundle(
    checkpoint: Path,
    out: Path,
    options: ExportOptions = ExportOptions(),
    geometry: Geometry = Geometry(),  # noqa: B008 (frozen)
    report: Report = lambda _: None,
) -> Bundle:
    """Export a checkpoint to a bundle; every graph is proved against torch before the bundle appears.

    Args:
        checkpoint: FPC, TransReID or fpc-deploy checkpoint.
        out: folder to make. It appears whole or not at all.
        options: pruning, decoder, cameras.
        geometry: what the checkpoint does not tell.
        report: called with one line per step.

    Raises:
        CheckpointError: the checkpoint cannot be read, or the options do not fit it.
        ParityError: a graph does not answer as the torch model does.
        BundleError: `out` exists and `overwrite` is off, or cannot be written.
    """
    with bundle_folder(out, overwrite=options.overwrite) as folder:
        report(f"reading {checkpoint}")
        loaded = load_checkpoint(checkpoint, geometry)
        if loaded.source_format == "fpc-deploy" and geometry != Geometry():
            raise CheckpointError(
                f"{checkpoint} says itself what its geometry is: leave out --backbone, --image-size, --stride, --heads"
            )
        _write_bundle(loaded, _settle(loaded, options), folder, report)
    return Bundle.open(out)


@dataclass(frozen=True)
class _Plan:
    """The options with every open choice made.

    Attributes:
        keep: {block: patches that survive it}.
    """

    keep_rate: float
    keep: dict[int, int]
    decoder_tokens: DecoderTokens
    camera_names: tuple[str, ...]
    matching: MatchSettings


def _settle(loaded: LoadedModel, options: ExportOptions) -> _Plan:
    config, trained = loaded.model.config, loaded.trained_for
    keep_rate = trained.keep_rate if options.keep_rate is None else options.keep_rate
    prune_at = trained.prune_at if options.prune_at is None else options.prune_at
    if not 0 < keep_rate <= 1:
        raise CheckpointError(f"--keep-rate {keep_rate} must be above 0 and at most 1")
    shared = config.depth - 1
    outside = [block for block in prune_at if not 0 <= block < shared]
    if outside:
        raise CheckpointError(
            f"--prune-at {','.join(map(str, outside))}: of this model only blocks 0 to {shared - 1} can prune"
        )
    if len(set(prune_at)) < len(prune_at):
        raise CheckpointError(f"--prune-at {','.join(map(str, prune_at))}: a block prunes once")
    if options.camera_names and len(options.camera_names) != config.cameras:
        raise CheckpointError(f"{len(options.camera_names)} camera names for a model of {config.cameras} cameras")
    keep = keep_counts(config.patches, keep_rate, prune_at)
    tokens = options.decoder_tokens or trained.decoder_tokens
    return _Plan(keep_rate, keep, tokens, options.camera_names, options.matching)


def _write_bundle(loaded: LoadedModel, plan: _Plan, folder: Path, report: Report) -> None:
    model = loaded.model
    graphs: dict[str, ModelProto] = {}
    for name, trace in _tracers(model, plan).items():
        report(f"tracing {name}")
        graphs[name] = trace()
        onnx.save(graphs[name], folder / f"{name}.onnx")
    report("proving the graphs against torch")
    parity, overlap = _prove(model, plan, graphs, folder)
    demand_parity(parity)
    manifest = _manifest(loaded, plan, graphs, folder, parity, overlap)
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _tracers(model: FPCModel, plan: _Plan) -> dict[str, Callable[[], ModelProto]]:
    """Return {graph name: function that traces it}; without a decoder there is no decoder graph."""
    config = model.config
    width, patches = config.embed_dim, config.patches
    kept = list(plan.keep.values())[-1] if plan.keep else patches

    def port(name: str, shape: Sequence[int], *axes: str) -> Port:
        return Port(name, torch.rand(*shape), dict(enumerate(axes)))

    crops = Port("crops", torch.zeros(2, config.height, config.width, 3, dtype=torch.uint8), {0: "B"})
    camera = Port("camera", torch.zeros(2, dtype=torch.int64), {0: "B"})
    query = [port("query_cls", (2, width), "B"), port("query_patches", (2, kept, width), "B")]
    candidates = [
        port("candidate_cls", (2, 3, width), "B", "C"),
        port("candidate_patches", (2, 3, patches, width), "B", "C", "N"),
    ]
    neighbours = [
        port("neighbour_cls", (2, 3, width), "B", "K"),
        port("neighbour_patches", (2, 3, patches, width), "B", "K", "N"),
        port("neighbour_mask", (2, 3), "B", "K"),
    ]
    rank = width // 2  # of an example: dynamic
    coded = [
        neighbours[0],
        Port("neighbour_codes", torch.zeros(2, 3, patches, rank, dtype=torch.uint8), dict(enumerate("BKNR"))),
        Port("neighbour_steps", torch.rand(2, 3, 1, patches), {0: "B", 1: "K", 3: "N"}),
        Port("neighbour_norms", torch.rand(2, 3, 1, patches), {0: "B", 1: "K", 3: "N"}),
        neighbours[2],
        Port("basis", torch.eye(width)[:, :rank].contiguous(), {1: "R"}),
    ]
    encoded = ["cls", "patches", "descriptor"]
    sparse, dense = EncoderGraph(model, plan.keep, sparse=True), EncoderGraph(model, {}, sparse=False)
    matcher = MatcherGraph(plan.matching.sinkhorn_iterations, plan.matching.sinkhorn_weights)
    tracers = {
        "query_encoder": lambda: trace_graph(sparse, [crops, camera], [*encoded, "kept"]),
        "gallery_encoder": lambda: trace_graph(dense, [crops, camera], encoded),
        "matcher": lambda: trace_graph(matcher, [*query, *candidates], ["emd"]),
        "compact_matcher": lambda: compact_matcher(kept, matcher.iterations, matcher.weights),
    }
    if model.decoder is not None:
        decoder = DecoderGraph(model.decoder, plan.decoder_tokens)
        asked = query if plan.decoder_tokens == "query+gallery" else []
        tracers["decoder"] = lambda: trace_graph(decoder, [*neighbours, *asked], ["descriptor"])
        compact = CompactDecoderGraph(model.decoder, plan.decoder_tokens)
        tracers["compact_decoder"] = lambda: trace_graph(compact, [*coded, *asked], ["descriptor"])
    return tracers


def _prove(
    model: FPCModel, plan: _Plan, graphs: dict[str, ModelProto], folder: Path
) -> tuple[list[GraphParity], dict[str, float]]:
    parity: list[GraphParity] = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        chosen = pruning_values(graphs["query_encoder"])
        probed = Path(scratch) / "probed.onnx"
        onnx.save(with_outputs(graphs["query_encoder"], [name for name in chosen if name != "kept"]), probed)
        sparse, overlap = compare_encoder("query_encoder", model, plan.keep, open_engine(probed, "onnxruntime"), chosen)

    def engine(name: str) -> Engine:
        return open_engine(folder / f"{name}.onnx", "onnxruntime")

    dense, _ = compare_encoder("gallery_encoder", model, {}, engine("gallery_encoder"), [])
    parity += [*sparse, *dense]
    memories = {batch: make_memory(model, plan.keep, batch) for batch in BATCHES}
    settings = plan.matching
    fixed = (settings.sinkhorn_iterations, settings.sinkhorn_weights)
    parity += compare_matcher(memories, engine("matcher"), *fixed)
    parity += compare_compact_matcher(memories, engine("compact_matcher"), *fixed)
    if "decoder" in graphs:
        parity += compare_decoder(model, memories, engine("decoder"), plan.decoder_tokens)
        parity += compare_compact_decoder(model, memories, engine("compact_decoder"), plan.decoder_tokens)
    return parity, overlap


def _manifest(
    loaded: LoadedModel,
    plan: _Plan,
    graphs: dict[str, ModelProto],
    folder: Path,
    parity: list[GraphParity],
    overlap: dict[str, float],
) -> Manifest:
    config = loaded.model.config
    rows, columns = config.grid
    facts = ModelFacts(
        model_hash=loaded.model_hash,
        source_format=loaded.source_format,
        backbone=config.backbone,
        embed_dim=config.embed_dim,
        depth=config.depth,
        heads=config.heads,
        patch_size=config.patch_size,
        stride=config.stride,
        grid_rows=rows,
        grid_columns=columns,
    )
    counts = {name: count_linear(graphs[name]) / 1e9 for name in ("query_encoder", "gallery_encoder")}
    counts["query_encoder_as_published"] = count_as_published(graphs["query_encoder"], config) / 1e9
    has_decoder = "decoder" in graphs
    notes = [] if has_decoder else ["the checkpoint has no decoder: stages S and M only"]
    if loaded.unused:
        notes.append(f"parameters not needed for deployment: {', '.join(loaded.unused)}")
    return Manifest(
        schema_version=SCHEMA_VERSION,
        created_by=f"fpc-deploy {version('fpc-deploy')}",
        model=facts,
        preprocessing=Preprocessing(height=config.height, width=config.width),
        keep_schedule=KeepSchedule(keep_rate=plan.keep_rate, blocks=tuple(plan.keep), kept=tuple(plan.keep.values())),
        cameras=Cameras(trained=config.cameras, names=plan.camera_names),
        matching=plan.matching,
        decoder_tokens=plan.decoder_tokens if has_decoder else None,
        multiply_adds_g=counts,
        compact_version=COMPACT_VERSION,
        files={
            f"{name}.onnx": FileRecord(bytes=path.stat().st_size, sha256=sha256_of(path))
            for name in graphs
            for path in [folder / f"{name}.onnx"]
        },
        parity=tuple(parity),
        kept_overlap=overlap,
        notes=tuple(notes),
    )
