"""A bundle appears whole and proven, or not at all."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from export import write
from export.checkpoint import Geometry, save_checkpoint
from export.graphs import EncoderGraph, MatcherGraph
from export.model import DecoderTokens
from export.write import ExportOptions, export_bundle
from runtime.bundle import Bundle, MatchSettings
from runtime.errors import BundleError, CheckpointError, ParityError
from tests.conftest import TINY, TINY_EXPORT, seeded_model
from tests.export.namings import transreid_naming
from tests.export.test_checkpoint import GEOMETRY

GRAPHS = ("query_encoder", "gallery_encoder", "matcher", "decoder")


def ports(model: onnx.ModelProto) -> dict[str, tuple[int, list[int | str]]]:
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in (*model.graph.input, *model.graph.output)
    }


def test_graphs_have_the_ports_of_the_contract(tiny_bundle: Bundle) -> None:
    f32, i64, u8 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.UINT8
    found = {name: ports(onnx.load(tiny_bundle.graph_path(name))) for name in GRAPHS}  # type: ignore[arg-type]
    assert found["query_encoder"] == {
        "crops": (u8, ["B", 64, 32, 3]),
        "camera": (i64, ["B"]),
        "cls": (f32, ["B", 64]),
        "patches": (f32, ["B", 7, 64]),
        "descriptor": (f32, ["B", 64]),
        "kept": (i64, ["B", 7]),
    }
    assert found["gallery_encoder"]["patches"] == (f32, ["B", 10, 64])
    assert "kept" not in found["gallery_encoder"]
    assert found["matcher"] == {
        "query_cls": (f32, ["B", 64]),
        "query_patches": (f32, ["B", 7, 64]),
        "candidate_cls": (f32, ["B", "C", 64]),
        "candidate_patches": (f32, ["B", "C", "N", 64]),
        "emd": (f32, ["B", "C"]),
    }
    assert found["decoder"] == {
        "neighbour_cls": (f32, ["B", "K", 64]),
        "neighbour_patches": (f32, ["B", "K", "N", 64]),
        "neighbour_mask": (f32, ["B", "K"]),
        "descriptor": (f32, ["B", 64]),
    }


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_are_static_and_lean(tiny_bundle: Bundle, name: str) -> None:
    model = onnx.load(tiny_bundle.graph_path(name))  # type: ignore[arg-type]
    assert next(o.version for o in model.opset_import if o.domain == "") >= 17
    ops = Counter(node.op_type for node in model.graph.node)
    assert not ops.keys() & {"If", "Loop", "Scan", "Shape", "Expand", "ConstantOfShape", "Range", "NonZero", "Where"}
    assert "ReduceMean" not in ops or name == "query_encoder"  # there it averages attention over heads, not a LayerNorm
    constants = {tensor.name for tensor in model.graph.initializer}
    computed = [n.name for n in model.graph.node if n.op_type in {"TopK", "Reshape"} and n.input[1] not in constants]
    assert computed == []
    text = model.SerializeToString()
    assert str(Path.cwd()).encode() not in text, "the graph holds a path of the machine that exported it"
    if "encoder" in name:
        casts = [node for node in model.graph.node if "crops" in node.input]
        assert [node.op_type for node in casts] == ["Cast"]
        # two a block of the three shared ones; the head norms [cls] and the rest apart, then twice the one row
        assert ops["LayerNormalization"] == 2 * 3 + 4
        assert ops["TopK"] == (2 if name == "query_encoder" else 0)


def test_manifest_reports_what_was_proved(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    assert {row.graph for row in manifest.parity} == {*GRAPHS, "compact_matcher", "compact_decoder"}
    assert all(row.batches == (1, 3, 2) for row in manifest.parity)
    assert all(0 < row.max_abs < 1e-5 for row in manifest.parity), manifest.parity
    assert manifest.kept_overlap == {"block 1": 1.0, "block 2": 1.0}
    assert manifest.keep_schedule.kept == (8, 7)
    assert manifest.cameras.index_of("till") == 1
    assert manifest.cameras.index_of("roof") == manifest.cameras.unknown == 3


@pytest.mark.parametrize(
    ("tokens", "weights", "keep_rate"),
    [
        ("query+gallery", "cls", 0.8),
        ("gallery", "mean", 0.8),
        ("gallery", "cls", 1.0),
        ("query+gallery", "mean", 0.3),
        ("gallery", "cls", 0.01),  # a single patch survives
    ],
)
def test_options_are_proved_too(
    tiny_checkpoint: Path, tmp_path: Path, tokens: DecoderTokens, weights: str, keep_rate: float
) -> None:
    matching = MatchSettings(sinkhorn_weights=weights)  # type: ignore[arg-type]
    options = ExportOptions(keep_rate, (1, 2), decoder_tokens=tokens, matching=matching)
    bundle = export_bundle(tiny_checkpoint, tmp_path / "bundle", options)
    assert max(row.max_abs for row in bundle.manifest.parity) < 1e-5
    decoder = ports(onnx.load(bundle.graph_path("decoder")))
    assert ("query_patches" in decoder) == (tokens == "query+gallery")


def test_transreid_has_no_decoder_and_says_so(tmp_path: Path) -> None:
    torch.save(transreid_naming(seeded_model(), jigsaw=True), tmp_path / "transreid.pth")
    bundle = export_bundle(tmp_path / "transreid.pth", tmp_path / "bundle", TINY_EXPORT, GEOMETRY)
    assert not bundle.has("decoder")
    assert bundle.manifest.decoder_tokens is None
    assert "no decoder: stages S and M only" in bundle.manifest.notes[0]
    assert "bottleneck_1.weight" in bundle.manifest.notes[1]


def test_a_wrong_graph_is_refused_and_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(EncoderGraph):
        """Drops the camera."""

        def forward(self, crops: torch.Tensor, camera: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return super().forward(crops, camera * 0)

    monkeypatch.setattr(write, "EncoderGraph", Forgetful)
    with pytest.raises(ParityError, match=r"query_encoder .*sample \d"):
        export_bundle(tiny_checkpoint, tmp_path / "out" / "bundle", TINY_EXPORT)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_matcher_of_fewer_steps_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "MatcherGraph", lambda steps, weights: MatcherGraph(steps - 3, weights))
    with pytest.raises(ParityError, match="matcher differs from the torch model in emd"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", TINY_EXPORT)


def test_overwriting_is_asked_for_and_whole(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export_bundle(tiny_checkpoint, out, TINY_EXPORT)
    (out / "left over").write_text("x")
    with pytest.raises(BundleError, match="--overwrite"):
        export_bundle(tiny_checkpoint, out, TINY_EXPORT)
    export_bundle(tiny_checkpoint, out, replace(TINY_EXPORT, keep_rate=0.5, overwrite=True))
    assert json.loads((out / "bundle.json").read_text())["keep_schedule"]["keep_rate"] == 0.5
    assert not (out / "left over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_left_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("x")
    with pytest.raises(BundleError, match="holds other things"):
        export_bundle(tiny_checkpoint, tmp_path, replace(TINY_EXPORT, overwrite=True))
    assert (tmp_path / "holiday.jpg").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep_rate": 0.0}, "--keep-rate"),
        ({"keep_rate": 1.5}, "--keep-rate"),
        ({"prune_at": (3,)}, "--prune-at 3: of this model only blocks 0 to 2 can prune"),
        ({"prune_at": (1, 1)}, "--prune-at 1,1: a block prunes once"),
        ({"camera_names": ("a",)}, "1 camera names for a model of 3 cameras"),
    ],
)
def test_options_that_do_not_fit(
    tiny_checkpoint: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        export_bundle(tiny_checkpoint, tmp_path / "b", replace(TINY_EXPORT, **change))  # type: ignore[arg-type]
    assert not (tmp_path / "b").exists()


def test_a_checkpoint_that_says_what_it_is_takes_no_geometry(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="says itself what its geometry is: leave out --backbone"):
        export_bundle(tiny_checkpoint, tmp_path / "b", TINY_EXPORT, Geometry(heads=4))
    assert not (tmp_path / "b").exists()


def test_a_model_without_cameras(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pth", seeded_model(replace(TINY, cameras=0)))
    bundle = export_bundle(tmp_path / "x.pth", tmp_path / "b", ExportOptions(prune_at=(1,)))
    assert bundle.manifest.cameras.unknown == 0
