"""Engine files: one that was made for something else is refused, with the command that builds the right one."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.engines.engine_file import (
    FOLDER,
    MAGIC,
    EngineIdentity,
    Target,
    Wanted,
    find_engine,
    read_header,
    read_payload,
    write_engine,
)
from runtime.errors import EngineError

PAYLOAD = b"not machine code" * 64
SHA = hashlib.sha256(b"graph").hexdigest()
ORIN = Target(device="Orin", compute_capabilities=("8.7",))


def identity(**changes: object) -> EngineIdentity:
    plain = EngineIdentity(
        graph="decoder",
        graph_sha256=SHA,
        precision="fp16",
        provider="tensorrt",
        provider_version="10.3.0",
        target=ORIN,
        profiles=({"neighbour_cls": ((1, 1, 8), (2, 4, 8), (2, 4, 8))},),
    )
    return plain.model_copy(update=changes)


def wanted(**changes: str) -> Wanted:
    plain = Wanted(
        graph="decoder",
        graph_sha256=SHA,
        provider="tensorrt",
        provider_version="10.3.0",
        device="Orin",
        compute_capability="8.7",
    )
    return plain.model_copy(update=changes)


def write(bundle: Path, **changes: object) -> Path:
    return write_engine(bundle / FOLDER, identity(**changes), PAYLOAD)


def test_an_engine_made_for_this_device_is_found_whole(tmp_path: Path) -> None:
    path = write(tmp_path)
    found, header = find_engine(tmp_path, wanted())
    assert found == path
    assert header.identity == identity()
    assert read_payload(found, header) == PAYLOAD


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        pytest.param({"device": "NVIDIA H100"}, "device NVIDIA H100 (8.7) here, Orin (8.7) in the file", id="device"),
        pytest.param({"compute_capability": "8.6"}, "device Orin (8.6) here, Orin (8.7) in the file", id="capability"),
        pytest.param({"provider_version": "10.7.0"}, "provider_version 10.7.0 here, 10.3.0 in the file", id="version"),
        pytest.param({"provider": "tensorrt-rtx"}, "provider tensorrt-rtx here, tensorrt in the file", id="provider"),
        pytest.param({"graph_sha256": "f" * 64}, "graph_sha256 ffffffff", id="another bundle's graph"),
    ],
)
def test_an_engine_made_for_something_else_is_refused(tmp_path: Path, change: dict[str, str], phrase: str) -> None:
    write(tmp_path)
    with pytest.raises(EngineError) as caught:
        find_engine(tmp_path, wanted(**change))
    provider = change.get("provider", "tensorrt")
    assert phrase in str(caught.value)
    assert f"build it: fpc-deploy build {tmp_path} --provider {provider}" in str(caught.value)


def test_a_portable_engine_runs_on_its_capabilities_only(tmp_path: Path) -> None:
    write(tmp_path, target=Target(device=None, compute_capabilities=("8.6", "8.9")))
    assert find_engine(tmp_path, wanted(device="any", compute_capability="8.9"))
    with pytest.raises(EngineError, match=r"compute capability 8.6, 8.9 in the file"):
        find_engine(tmp_path, wanted())


def test_an_engine_put_in_the_place_of_one_with_another_profile_is_refused(tmp_path: Path) -> None:
    small = write(tmp_path)
    large = write(tmp_path, profiles=({"neighbour_cls": ((1, 1, 8), (32, 10, 8), (32, 10, 8))},))
    assert small != large
    small.replace(large)
    with pytest.raises(EngineError, match=f"was renamed: by its header it is {small.name}"):
        find_engine(tmp_path, wanted())


def test_of_two_profiles_the_larger_batch_is_taken(tmp_path: Path) -> None:
    write(tmp_path)
    large = write(tmp_path, profiles=({"neighbour_cls": ((1, 1, 8), (32, 10, 8), (32, 10, 8))},))
    assert find_engine(tmp_path, wanted())[0] == large


def truncate(content: bytes) -> bytes:
    return content[:-1]


def flip_last(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def lengthen_header(content: bytes) -> bytes:
    return MAGIC + (2**31).to_bytes(4, "little") + content[len(MAGIC) + 4 :]


def rename_device(content: bytes) -> bytes:
    return content.replace(b'"Orin"', b'"Thor"')


@pytest.mark.parametrize(
    ("damage", "phrase"),
    [
        pytest.param(lambda _: b"", "is no engine file", id="empty"),
        pytest.param(lambda _: b"\x7fELF" + bytes(500), "is no engine file", id="foreign"),
        pytest.param(lengthen_header, "is no engine file", id="absurd header length"),
        pytest.param(truncate, "bytes, its header says", id="cut short"),
        pytest.param(rename_device, "was renamed", id="header edited"),
        pytest.param(flip_last, "is damaged", id="payload changed"),
    ],
)
def test_a_damaged_file_is_never_deserialised(tmp_path: Path, damage: Callable[[bytes], bytes], phrase: str) -> None:
    path = write(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(EngineError, match=phrase):
        read_payload(path, read_header(path))


def test_a_bundle_without_engines_says_how_to_build_them(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match=r"has no engine of decoder for Orin and tensorrt 10\.3\.0; build it: fpc-deploy"
    ):
        find_engine(tmp_path, wanted())


def test_an_unwritable_folder_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file where the folder goes")
    with pytest.raises(EngineError, match="cannot be made: File exists"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]
