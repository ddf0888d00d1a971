"""An engine on disk: a header that says what it was built for, then what TensorRT made of the graph.

Loading an engine on another device or version crashes or answers nonsense, so the payload is not even read before the
header has been compared with what is wanted. The name of the file holds a digest of the header's identity, so a file
that was renamed, or put in the place of another, is noticed too. Hashes find damage and mix-ups, not malice: a payload
is machine code, and a bundle with engines is as trustworthy as whoever built it.
"""

import hashlib
import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runtime.engines.profiles import Span
from runtime.errors import EngineError
from runtime.files import whole_file

MAGIC = b"FPCENGINE1\n"
MAX_HEADER_BYTES = 2**20
FOLDER = "engines"
SUFFIX = ".engine"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Target(_Record):
    """What an engine runs on.

    Attributes:
        device: the GPU's name, for an engine tuned on it; None for one that runs on every GPU of these capabilities.
        compute_capabilities: `8.6`, ascending.
    """

    device: str | None
    compute_capabilities: tuple[str, ...] = Field(min_length=1)

    def __str__(self) -> str:
        capabilities = ", ".join(self.compute_capabilities)
        return f"compute capability {capabilities}" if self.device is None else f"{self.device} ({capabilities})"


class EngineIdentity(_Record):
    """What an engine was built from, by and for. Two engines of one identity are interchangeable.

    Attributes:
        graph: name of the graph in its bundle.
        graph_sha256: of the ONNX file.
        precision: of the bundle.
        provider: `tensorrt` or `tensorrt-rtx`.
        provider_version: exact version; engines do not move between versions.
        target: device or compute capabilities.
        profiles: shapes, one entry a profile.
    """

    graph: str
    graph_sha256: str
    precision: str
    provider: str
    provider_version: str
    target: Target
    profiles: tuple[dict[str, Span], ...]

    @property
    def file_name(self) -> str:
        """Name of the file that an engine of this identity lies in."""
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()
        return f"{self.graph}-{digest[:16]}{SUFFIX}"


class Header(_Record):
    """First part of an engine file."""

    identity: EngineIdentity
    payload_bytes: int = Field(ge=0)
    payload_sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Wanted(_Record):
    """What an engine must be built for to be run here.

    Attributes:
        graph: name of the graph.
        graph_sha256: of the ONNX file in the bundle.
        provider: that will run it.
        provider_version: of the provider that is installed.
        device: name of the GPU.
        compute_capability: of the GPU, `8.6`.
    """

    graph: str
    graph_sha256: str
    provider: str
    provider_version: str
    device: str
    compute_capability: str

    def differences(self, found: EngineIdentity) -> list[str]:
        """Return one phrase for each thing that `found` was built for and is not so here."""
        differs = [
            f"{name} {mine[:16]} here, {its[:16]} in the file"
            for name in ("graph", "graph_sha256", "provider", "provider_version")
            if (mine := getattr(self, name)) != (its := getattr(found, name))
        ]
        target = found.target
        if self.compute_capability not in target.compute_capabilities or target.device not in {None, self.device}:
            differs.append(f"device {self.device} ({self.compute_capability}) here, {target} in the file")
        return differs


def write_engine(folder: Path, identity: EngineIdentity, payload: bytes) -> Path:
    """Write an engine into `folder`; the file appears whole or not at all.

    Raises:
        EngineError: the folder cannot be written.
    """
    header = Header(
        identity=identity, payload_bytes=len(payload), payload_sha256=hashlib.sha256(payload).hexdigest()
    ).model_dump_json()
    path = folder / identity.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"{folder} cannot be made: {error.strerror or error}") from error
    with whole_file(path, EngineError) as part, part.open("wb") as file:
        file.write(MAGIC)
        file.write(len(header.encode()).to_bytes(4, "little"))
        file.write(header.encode())
        file.write(payload)
    return path


def read_header(path: Path) -> Header:
    """Read and check the header of an engine file.

    Raises:
        EngineError: not an engine file, cut short, or under another name than its identity's.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
            length = int.from_bytes(file.read(4), "little")
            text = file.read(length) if magic == MAGIC and length <= MAX_HEADER_BYTES else b""
        size = path.stat().st_size
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error}; build it again with `fpc-deploy build`") from error
    try:
        header = Header.model_validate(json.loads(text))
    except (ValueError, ValidationError, RecursionError) as error:
        raise EngineError(f"{path} is no engine file of fpc-deploy: build it again with `fpc-deploy build`") from error
    expected = len(MAGIC) + 4 + length + header.payload_bytes
    if size != expected:
        raise EngineError(
            f"{path} has {size} bytes, its header says {expected}: build it again with `fpc-deploy build`"
        )
    if path.name != header.identity.file_name:
        raise EngineError(
            f"{path} was renamed: by its header it is {header.identity.file_name}; "
            "build it again with `fpc-deploy build`"
        )
    return header


def read_payload(path: Path, header: Header) -> bytes:
    """Read what TensorRT deserialises, after `read_header` has accepted the file.

    Raises:
        EngineError: the payload is not the one that the header describes.
    """
    with path.open("rb") as file:
        file.seek(-header.payload_bytes, os.SEEK_END)
        payload = file.read()
    if hashlib.sha256(payload).hexdigest() != header.payload_sha256:
        raise EngineError(f"{path} is damaged: its payload has another SHA-256; build it again with `fpc-deploy build`")
    return payload


def find_engine(bundle: Path, wanted: Wanted) -> tuple[Path, Header]:
    """Return the engine of a bundle that may run here; of several, the one for the largest batch.

    Raises:
        EngineError: none was built for this graph, device and version; it says what was found instead, and the
            command that builds one.
    """
    fitting: list[tuple[int, str, Path, Header]] = []
    refused: list[str] = []
    for path in sorted((bundle / FOLDER).glob(f"{wanted.graph}-*{SUFFIX}")):
        try:
            header = read_header(path)
        except EngineError as error:
            refused.append(str(error))
            continue
        differs = wanted.differences(header.identity)
        if differs:
            refused.append(f"{path.name}: {'; '.join(differs)}")
        else:
            largest = max(span[2][0] for profile in header.identity.profiles for span in profile.values())
            fitting.append((largest, path.name, path, header))
    if not fitting:
        found = f" (refused: {' | '.join(refused)})" if refused else ""
        raise EngineError(
            f"{bundle} has no engine of {wanted.graph} for {wanted.device} and {wanted.provider} "
            f"{wanted.provider_version}{found}; build it: {rebuild_command(bundle, wanted.provider)}"
        )
    _, _, path, header = max(fitting, key=lambda entry: entry[:2])
    return path, header


def rebuild_command(bundle: Path, provider: str) -> str:
    """Return the command line that builds the engines of a bundle."""
    return f"fpc-deploy build {bundle} --provider {provider}"
