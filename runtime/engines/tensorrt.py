"""Running a TensorRT engine, with pycuda for device memory and streams.

What costs time to allocate is allocated once, for the largest shapes the engine takes: device buffers, pinned host
buffers, the stream and the execution context.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engines.cuda_device import Device, current_device
from runtime.engines.engine_file import Header, Wanted, find_engine, read_payload, rebuild_command
from runtime.engines.profiles import Profile, Shape, profile_for
from runtime.engines.protocol import Array, TensorSpec
from runtime.engines.providers import load_provider
from runtime.errors import EngineError, first_line


class TensorRTEngine:
    """A graph of a bundle in the engine that was built for this device and version.

    Args:
        graph: path of the ONNX file in its bundle; the engine lies in the folder `engines` beside it.
        graph_sha256: of the ONNX file.
        provider_name: `tensorrt` or `tensorrt-rtx`.

    Raises:
        EngineError: no engine was built for this graph, device and version, or it does not deserialise.
        MissingExtraError: TensorRT or pycuda is not installed.
    """

    def __init__(self, graph: Path, graph_sha256: str, provider_name: str = "tensorrt") -> None:
        provider, device = load_provider(provider_name), current_device()
        wanted = Wanted(
            graph=graph.stem,
            graph_sha256=graph_sha256,
            provider=provider.name,
            provider_version=provider.version,
            device=device.name,
            compute_capability=device.compute_capability,
        )
        path, header = find_engine(graph.parent, wanted)
        self._bundle, self._provider, self._path = graph.parent, provider, path
        self._profiles = header.identity.profiles
        self._cuda_context = device.handle.retain_primary_context()
        with self._on_device("load"):
            self._load(header, device)

    @property
    def name(self) -> str:
        """Engine and device."""
        return self._provider.name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the engine, in its order."""
        return tuple(buffer.spec for buffer in self._buffers.values() if buffer.is_input)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the engine, in its order."""
        return tuple(buffer.spec for buffer in self._buffers.values() if not buffer.is_input)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the engine, in several parts if the batch is larger than any profile; see `Engine.run`."""
        self._check(inputs)
        batch = len(next(iter(inputs.values())))
        largest = max(span[2][0] for span in self._profiles[-1].values())
        slices = [slice(start, start + largest) for start in range(0, batch, largest)]
        with self._on_device("run"):
            parts = [self._run_part({name: value[part] for name, value in inputs.items()}) for part in slices]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @contextmanager
    def _on_device(self, doing: str) -> Iterator[None]:
        """Let the block use the GPU, in whatever thread; what the GPU or its driver refuses is an EngineError."""
        self._cuda_context.push()
        try:
            yield
        except EngineError:
            raise
        except Exception as error:  # pycuda has a class per cause, out of memory one of them; TensorRT a RuntimeError
            raise EngineError(f"{self._provider.name} cannot {doing} {self._path}: {first_line(error)}") from error
        finally:
            self._cuda_context.pop()

    def _load(self, header: Header, device: Device) -> None:
        import pycuda.driver as cuda

        trt, identity = self._provider.module, header.identity
        runtime = self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        engine = runtime.deserialize_cuda_engine(read_payload(self._path, header))
        if engine is None:
            raise EngineError(
                f"{self._path} does not deserialise on {device.name} ({device.compute_capability}) with "
                f"{self._provider.name} {self._provider.version}, although it was built for {identity.target} with "
                f"{identity.provider_version}; build it again: {rebuild_command(self._bundle, self._provider.name)}"
            )
        _demand_profiles(engine, self._profiles, self._path)
        self._engine, self._cuda = engine, cuda
        self._stream = cuda.Stream()
        context = self._context = engine.create_execution_context()
        if context is None:
            raise EngineError(f"{self._path} gets no execution context: is there enough memory on {device.name}?")
        self._profile = 0  # the one a new context has
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        self._buffers = {name: _Buffer(trt, cuda, engine, name, self._most(name)) for name in names}
        self._set_addresses()

    def _set_addresses(self) -> None:
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, int(buffer.device))

    def _most(self, name: str) -> Shape:
        """Largest shape of an input; of an output, its own with the batch, candidates and neighbours of the inputs'."""
        last = self._profiles[-1]
        if name in last:
            return last[name][2]
        batch = max(span[2][0] for span in last.values())
        candidates = last["candidate_cls"][2][1] if "candidate_cls" in last else 1
        shape = tuple(self._engine.get_tensor_shape(name))
        return tuple(size if size >= 0 else (candidates if axis else batch) for axis, size in enumerate(shape))

    def _check(self, inputs: Mapping[str, Array]) -> None:
        expected = {spec.name: spec for spec in self.inputs}
        if set(inputs) != set(expected):
            raise EngineError(f"{self._path.name} takes {', '.join(expected)}, not {', '.join(inputs)}")
        for name, value in inputs.items():
            if value.dtype != expected[name].dtype or value.ndim != len(expected[name].shape):
                raise EngineError(f"{self._path.name} takes {expected[name]}, not {name} {value.dtype} {value.shape}")
        if len({len(value) for value in inputs.values()}) != 1 or not len(next(iter(inputs.values()))):
            shapes = {name: value.shape for name, value in inputs.items()}
            raise EngineError(f"{self._path.name} was given inputs of different or empty batches: {shapes}")

    def _run_part(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        shapes = {name: value.shape for name, value in inputs.items()}
        index = profile_for(self._profiles, shapes)
        if index is None:
            raise EngineError(
                f"{self._path.name} was built for {self._profiles[-1]}, not for {shapes}: build an engine for these "
                f"shapes: {rebuild_command(self._bundle, self._provider.name)} with --batch, --candidates, --neighbours"
            )
        context, stream, cuda = self._context, self._stream, self._cuda
        if index != self._profile:
            context.set_optimization_profile_async(index, stream.handle)
            self._profile = index
            self._set_addresses()  # nothing promises that they outlast the switch
        for name, value in inputs.items():
            buffer = self._buffers[name]
            host = buffer.host[: value.size]
            np.copyto(host.reshape(value.shape), value)
            cuda.memcpy_htod_async(buffer.device, host, stream)
            context.set_input_shape(name, value.shape)
        if not context.execute_async_v3(stream.handle):
            raise EngineError(f"{self._provider.name} failed to run {self._path.name} on {shapes}")
        answers: dict[str, Array] = {}
        for name, buffer in self._buffers.items():
            if not buffer.is_input:
                shape = tuple(context.get_tensor_shape(name))
                host = buffer.host[: prod(shape)]
                cuda.memcpy_dtoh_async(host, buffer.device, stream)
                answers[name] = host.reshape(shape)
        stream.synchronize()
        return {name: np.array(answer) for name, answer in answers.items()}  # the pinned buffers are used again


class _Buffer:
    """Device and pinned host memory of one tensor, for its largest shape."""

    def __init__(self, trt: Any, cuda: Any, engine: Any, name: str, most: Shape) -> None:
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        shape = tuple(engine.get_tensor_shape(name))
        self.is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        self.spec = TensorSpec(name, tuple(size if size >= 0 else None for size in shape), dtype.name)
        self.host: Array = cuda.pagelocked_empty(prod(most), dtype)
        self.device = cuda.mem_alloc(self.host.nbytes)


def _demand_profiles(engine: Any, profiles: tuple[Profile, ...], path: Path) -> None:
    """Check that the engine takes the shapes its header claims."""
    held = engine.num_optimization_profiles
    for index, spans in enumerate(profiles[:held]):
        for name, span in spans.items():
            found = tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(name, index))
            if found != span:
                raise EngineError(f"{path} takes {name} {found}, its header says {span}: build it again")
    if held != len(profiles):
        raise EngineError(f"{path} holds {held} profiles, its header says {len(profiles)}: build it again")
