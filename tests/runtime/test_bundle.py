"""A bundle from elsewhere is checked before it is believed."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.bundle import Bundle, MatchSettings
from runtime.encoder import Encoder
from runtime.errors import BundleError


@pytest.fixture
def copied(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bundle.folder, tmp_path / "bundle")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    change(manifest)
    (folder / "bundle.json").write_text(json.dumps(manifest))


def point_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


MANIFESTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (lambda f: (f / "bundle.json").unlink(), "holds no bundle.json"),
    "not JSON": (lambda f: (f / "bundle.json").write_text("{"), "not readable JSON"),
    "not text": (lambda f: (f / "bundle.json").write_bytes(b"\xff\xfe\x00"), "not readable JSON"),
    "deeply nested": (lambda f: (f / "bundle.json").write_text("[" * 200_000), "not readable JSON"),
    "a list": (lambda f: (f / "bundle.json").write_text("[]"), "no schema_version"),
    "newer schema": (
        lambda f: edit(f, lambda m: m.update(schema_version=99)),
        "schema version 99.* upgrade fpc-deploy",
    ),
    "field missing": (lambda f: edit(f, lambda m: m.pop("cameras")), "cameras: Field required"),
    "field strange": (lambda f: edit(f, lambda m: m.update(extra=1)), "extra: Extra inputs"),
    "size absurd": (lambda f: edit(f, lambda m: m["preprocessing"].update(height=10**9)), "preprocessing.height"),
    "width absurd": (lambda f: edit(f, lambda m: m["model"].update(embed_dim=10**12)), "model.embed_dim"),
    "cameras absurd": (lambda f: edit(f, lambda m: m["cameras"].update(trained=10**22)), "cameras.trained"),
    "path escapes": (
        lambda f: edit(f, lambda m: m["files"].update({"../evil.onnx": m["files"]["decoder.onnx"]})),
        "points outside its folder",
    ),
    "absolute path": (
        lambda f: edit(f, lambda m: m["files"].update({"/etc/passwd": m["files"]["decoder.onnx"]})),
        "points outside its folder",
    ),
    "symbolic link": (lambda f: point_elsewhere(f / "decoder.onnx"), "is a symbolic link"),
}


@pytest.mark.parametrize(("damage", "message"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_bad_manifests(copied: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copied)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(copied)
    assert "\n" not in str(caught.value)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


GRAPHS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte": (flip_a_byte, "has SHA-256"),
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "bytes, the manifest says"),
    "gone": (lambda p: p.unlink(), "is missing"),
}


@pytest.mark.parametrize(("damage", "message"), GRAPHS.values(), ids=GRAPHS.keys())
def test_a_graph_that_is_not_the_one_named_is_never_loaded(
    copied: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(copied / "query_encoder.onnx")
    bundle = Bundle.open(copied)  # the manifest itself is fine
    with pytest.raises(BundleError, match=message):
        Encoder(bundle, sparse=True)
    Encoder(bundle, sparse=False, engine="onnxruntime")  # `auto` is measured by the query encoder


def test_binding_tells_what_differs(tiny_bundle: Bundle) -> None:
    other = tiny_bundle.binding.model_copy(update={"precision": "int8"})
    assert tiny_bundle.binding.differences(tiny_bundle.binding) == []
    assert tiny_bundle.binding.differences(other) == ["precision (fp32 against int8)"]


def test_parameters_taken_for_another_number_of_heads_are_another_model(tiny_bundle: Bundle) -> None:
    """They have the same hash, and other descriptors; of old galleries nobody knows."""
    binding = tiny_bundle.binding
    other = binding.model_copy(update={"heads": 4})
    assert binding.differences(other) == ["heads (2 against 4)"]
    old = binding.model_copy(update={"heads": None, "backbone": None})
    assert binding.differences(old) == old.differences(binding) == []


def test_an_endless_temperature_is_none() -> None:
    """JSON has no infinity, and all neighbours count alike."""
    settings = MatchSettings(neighbour_temperature=0.05).with_changes({"neighbour_temperature": math.inf})
    assert settings.neighbour_temperature is None
    with pytest.raises(BundleError, match="neighbour-temperature nan"):
        settings.with_changes({"neighbour_temperature": math.nan})
