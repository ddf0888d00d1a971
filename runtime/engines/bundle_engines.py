"""Engines of a bundle: building those that are missing, beside the graphs they come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from runtime.bundle import Bundle, GraphName
from runtime.engines.cuda_device import current_device
from runtime.engines.engine_build import ParsedGraph, Progress, known_capabilities
from runtime.engines.engine_file import FOLDER, EngineIdentity, Target, read_header, write_engine
from runtime.engines.profiles import ShapePlan
from runtime.engines.providers import Provider
from runtime.errors import EngineError

GRAPHS: tuple[GraphName, ...] = get_args(GraphName)


@dataclass(frozen=True)
class BuiltEngine:
    """One engine of a bundle.

    Attributes:
        graph: name of the graph.
        path: of the engine file.
        fresh: False if it was there already.
    """

    graph: GraphName
    path: Path
    fresh: bool


def choose_target(provider: Provider, compute_capabilities: Sequence[str]) -> Target:
    """Return what to build for: the capabilities asked for, or the GPU of this machine.

    Raises:
        EngineError: TensorRT was asked for capabilities, which it cannot build for; TensorRT-RTX does not know one,
            or not that of this machine; or none was given and there is no GPU.
    """
    if not provider.builds_without_gpu:
        if compute_capabilities:
            raise EngineError(
                "--compute-capability is for --provider tensorrt-rtx: TensorRT tunes for the device that it builds on"
            )
        device = current_device()
        return Target(device=device.name, compute_capabilities=(device.compute_capability,))
    if not compute_capabilities:
        try:
            compute_capabilities = [current_device().compute_capability]
        except EngineError as error:
            raise EngineError(f"{error}; to build here for another machine, give --compute-capability") from error
    known = known_capabilities(provider)
    unknown = [capability for capability in compute_capabilities if capability not in known]
    if unknown:
        raise EngineError(
            f"compute capability {', '.join(unknown)}: {provider.name} {provider.version} builds for "
            f"{', '.join(known)}; for other GPUs there is --provider tensorrt, on the device itself"
        )
    chosen = sorted(set(compute_capabilities), key=lambda text: [int(part) for part in text.split(".")])
    return Target(device=None, compute_capabilities=tuple(chosen))


def build_engines(
    bundle: Bundle, provider: Provider, target: Target, plan: ShapePlan, progress: Progress = lambda *_: None
) -> list[BuiltEngine]:
    """Build every engine of `bundle` that is not there yet.

    Raises:
        EngineError: a graph is rejected or cannot be built, or the folder cannot be written.
        BundleError: a graph is missing or damaged.
    """
    present = [graph for graph in GRAPHS if bundle.has(graph)]
    return [build_graph(bundle, graph, provider, target, plan, progress) for graph in present]


def build_graph(
    bundle: Bundle,
    graph: GraphName,
    provider: Provider,
    target: Target,
    plan: ShapePlan,
    progress: Progress = lambda *_: None,
) -> BuiltEngine:
    """Build the engine of one graph, unless an engine of the same identity is there already."""
    folder = bundle.folder / FOLDER
    source = bundle.graph_path(graph)
    parsed = ParsedGraph(source, provider)
    identity = EngineIdentity(
        graph=graph,
        graph_sha256=bundle.manifest.files[source.name].sha256,
        precision=bundle.manifest.precision,
        provider=provider.name,
        provider_version=provider.version,
        target=target,
        profiles=plan.profiles(graph, parsed.inputs),
    )
    path = folder / identity.file_name
    if path.exists() and _is_whole(path):
        return BuiltEngine(graph, path, fresh=False)
    slug = "-".join((provider.name, provider.version, target.device or "any")).replace(" ", "_").replace("/", "_")
    capabilities = target.compute_capabilities if provider.builds_without_gpu else ()
    payload = parsed.build(identity.profiles, capabilities, folder / f"{slug}.timings", progress)
    return BuiltEngine(graph, write_engine(folder, identity, payload), fresh=True)


def _is_whole(path: Path) -> bool:
    try:
        read_header(path)
    except EngineError:
        return False
    return True
