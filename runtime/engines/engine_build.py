"""From an ONNX graph to a TensorRT engine. Needs neither torch nor onnx, so it runs on the box that runs the engine.

Types come from the graph alone: the network is strongly typed, and TF32 is off because what the graph keeps in float32
(softmax, Sinkhorn, the scores that pruning chooses by) it keeps there on purpose.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runtime.engines.profiles import Profile, Shape
from runtime.engines.providers import Provider
from runtime.errors import EngineError, FpcError
from runtime.files import whole_file

log = logging.getLogger(__name__)

Progress = Callable[[str, str | None, int, int], None]
"""Called with (phase, the phase it is part of, steps done, steps in all)."""


class ParsedGraph:
    """An ONNX graph that TensorRT has accepted, node by node.

    Args:
        graph: the ONNX file.
        provider: TensorRT or TensorRT-RTX.

    Attributes:
        inputs: {input: shape}, -1 where an axis is dynamic.

    Raises:
        EngineError: the parser rejects a node; the message names it.
    """

    def __init__(self, graph: Path, provider: Provider) -> None:
        self._graph, self._provider, self._trt = graph, provider, provider.module
        trt = self._trt
        self._logger = _make_logger(trt)
        builder = self._builder = trt.Builder(self._logger)
        network = self._network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = self._parser = trt.OnnxParser(network, self._logger)  # owns the weights: lives as long as the network
        if not parser.parse(graph.read_bytes()) or parser.num_errors:
            errors = [parser.get_error(number) for number in range(parser.num_errors)]
            raise EngineError(f"{provider.name} {provider.version} rejects {graph}: {_explain(errors)}")
        tensors = [network.get_input(number) for number in range(network.num_inputs)]
        self.inputs: dict[str, Shape] = {tensor.name: tuple(tensor.shape) for tensor in tensors}

    def build(
        self,
        profiles: Sequence[Profile],
        compute_capabilities: Sequence[str] = (),
        timings: Path | None = None,
        progress: Progress = lambda *_: None,
    ) -> bytes:
        """Return the serialised engine.

        Args:
            profiles: shapes it is to take.
            compute_capabilities: targets of TensorRT-RTX, `8.6`; TensorRT builds for the device at hand.
            timings: file that keeps measured timings between builds; unused where the provider measures none.
            progress: called at every step.

        Raises:
            EngineError: the builder fails; the message holds its first errors.
        """
        trt, provider = self._trt, self._provider
        config = self._configure(profiles, compute_capabilities)
        config.progress_monitor = monitor = _make_monitor(trt, progress)
        if provider.has_timing_cache and timings is not None:
            self._use_timings(config, _read_timings(timings))
        memory = self._builder.build_serialized_network(self._network, config)
        del monitor  # TensorRT holds no reference to it
        if memory is None:
            reason = "; ".join(self._logger.errors[:2]) or "it gives no reason"
            raise EngineError(f"{provider.name} {provider.version} cannot build {self._graph}: {reason}")
        if provider.has_timing_cache and timings is not None:
            cache = config.get_timing_cache()
            if cache is not None:
                _write_timings(timings, bytes(cache.serialize()))
        return bytes(memory)

    def _configure(self, profiles: Sequence[Profile], compute_capabilities: Sequence[str]) -> Any:
        trt, builder = self._trt, self._builder
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        for spans in profiles:
            profile = builder.create_optimization_profile()
            for name, (least, best, most) in spans.items():
                profile.set_shape(name, least, best, most)
            config.add_optimization_profile(profile)
        if compute_capabilities:
            config.num_compute_capabilities = len(compute_capabilities)
            for place, capability in enumerate(compute_capabilities):
                target = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")
                config.set_compute_capability(target, place)
        return config

    def _use_timings(self, config: Any, kept: bytes) -> None:
        """Let a build use the timings of earlier ones; those of another device or version are begun anew."""
        cache = config.create_timing_cache(kept)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            log.info("the timings of earlier builds do not fit this device and version: they are measured again")
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def known_capabilities(provider: Provider) -> tuple[str, ...]:
    """Return the compute capabilities that TensorRT-RTX builds for: `("7.5", "8.0", ...)`."""
    trt = provider.module
    names = [name[2:] for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    return tuple(f"{name[:-1]}.{name[-1]}" for name in sorted(names, key=int))


def _explain(errors: Sequence[Any]) -> str:
    """Name each rejected node on one line; quantisation that is not symmetric gets its reason."""
    reasons = []
    for error in errors:
        text = " ".join(str(error.desc()).split())
        operator = str(error.node_operator())
        if operator in {"QuantizeLinear", "DequantizeLinear"} and "zero" in text.lower():
            text = (
                "its zero point is not 0, and TensorRT runs symmetric quantisation only: make the INT8 bundle with "
                "`fpc-deploy calibrate`, which writes zero point 0"
            )
        reasons.append(f"node {error.node()} {error.node_name()} ({operator}): {text}")
    shown = " | ".join(reasons[:3]) or "no node is named: the file is no ONNX graph"
    return shown if len(reasons) <= 3 else f"{shown} | and {len(reasons) - 3} more"


def _make_logger(trt: Any) -> Any:
    """Return a TensorRT logger that passes warnings on to `logging` and keeps errors for the exception."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            line = " ".join(message.split())
            if severity in {trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR}:
                self.errors.append(line)
                log.debug("%s", line)
            elif severity == trt.ILogger.Severity.WARNING:
                log.debug("%s", line)

    return Logger()


def _make_monitor(trt: Any, progress: Progress) -> Any:
    """Return a TensorRT progress monitor that calls `progress`; Ctrl-C ends the build at the next step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, tuple[str | None, int]] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = (parent_phase, num_steps)
            progress(phase_name, parent_phase, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            parent, steps = self.phases.get(phase_name, (None, step + 1))
            try:
                progress(phase_name, parent, step + 1, steps)
            except KeyboardInterrupt:
                return False
            return True

        def phase_finish(self, phase_name: str) -> None:
            parent, steps = self.phases.pop(phase_name, (None, 1))
            progress(phase_name, parent, steps, steps)

    return Monitor()


def _read_timings(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # the first build here


def _write_timings(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_bytes(content)
    except (OSError, FpcError) as error:
        log.warning("timings cannot be kept in %s: %s", path, error)
