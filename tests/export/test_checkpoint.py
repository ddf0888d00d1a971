"""Every naming is understood; whatever is wrong with a file is said in one line."""

import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fpc_deploy
from export.checkpoint import (
    Geometry,
    LoadedModel,
    TrainedFor,
    load_checkpoint,
    save_checkpoint,
)
from export.limits import _has_plain_blocks, check_config
from export.model import ModelConfig
from runtime.errors import CheckpointError
from tests.conftest import TINY, seeded_model
from tests.export.namings import State, fpc_naming, transreid_naming

GEOMETRY = Geometry(backbone=TINY.backbone, image_size=(TINY.height, TINY.width), stride=TINY.stride, heads=TINY.heads)


def written(folder: Path, state: object) -> Path:
    path = folder / "checkpoint.pth"
    torch.save(state, path)
    return path


def same_parameters(loaded: LoadedModel, *, decoder: bool) -> None:
    expected = seeded_model().state_dict()
    found = loaded.model.state_dict()
    names = [name for name in expected if (decoder or not name.startswith("decoder.")) and "num_batches" not in name]
    assert [name for name in names if not torch.equal(found[name], expected[name])] == []
    assert (loaded.model.decoder is not None) == decoder


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="bare"),
        pytest.param(lambda state: {f"module.{key}": value for key, value in state.items()}, id="module prefix"),
        pytest.param(lambda state: {"model": state, "epoch": 3}, id="under model"),
        pytest.param(lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}, id="under state_dict"),
        pytest.param(lambda state: {key: value.double() for key, value in state.items()}, id="float64"),
    ],
)
def test_fpc_naming(tmp_path: Path, wrap: object) -> None:
    loaded = load_checkpoint(written(tmp_path, wrap(fpc_naming(seeded_model()))), GEOMETRY)  # type: ignore[operator]
    assert loaded.source_format == "fpc"
    assert loaded.model.config == TINY
    same_parameters(loaded, decoder=True)
    assert {"classifier.weight", "rec_classifier.weight", "base.fc.weight", "base.norm.weight"} <= set(loaded.unused)


@pytest.mark.parametrize("jigsaw", [False, True], ids=["plain", "jigsaw"])
def test_transreid_naming(tmp_path: Path, jigsaw: bool) -> None:
    loaded = load_checkpoint(written(tmp_path, transreid_naming(seeded_model(), jigsaw=jigsaw)), GEOMETRY)
    assert loaded.source_format == "transreid"
    same_parameters(loaded, decoder=False)
    assert ("b2.1.weight" in loaded.unused) == jigsaw


def test_own_format_keeps_configuration_and_hash(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "own.pth", seeded_model(), {"epoch": 7})
    loaded = load_checkpoint(tmp_path / "own.pth")
    assert loaded.model.config == TINY
    same_parameters(loaded, decoder=True)
    renamed = load_checkpoint(written(tmp_path, fpc_naming(seeded_model())), GEOMETRY)
    assert loaded.model_hash == renamed.model_hash  # of the parameters, whatever file they came in
    assert (
        loaded.model_hash != load_checkpoint(written(tmp_path, fpc_naming(seeded_model(seed=1))), GEOMETRY).model_hash
    )


@pytest.mark.parametrize(
    ("size", "stride", "patches"),
    [((256, 128), 11, 242), ((256, 128), 12, 210), ((256, 128), 16, 128), ((384, 128), 12, 310), ((224, 224), 16, 196)],
)
def test_geometry_is_read_from_the_position_table(
    tmp_path: Path, size: tuple[int, int], stride: int, patches: int
) -> None:
    config = ModelConfig(embed_dim=64, depth=2, heads=1, height=size[0], width=size[1], stride=stride, cameras=2)
    assert config.patches == patches
    loaded = load_checkpoint(written(tmp_path, fpc_naming(seeded_model(config))))
    assert (loaded.model.config.grid, loaded.model.config.patches) == (config.grid, patches)


def test_a_position_table_that_fits_two_geometries_is_asked_about(tmp_path: Path) -> None:
    config = ModelConfig(embed_dim=64, depth=2, heads=1, height=256, width=128, stride=8, cameras=2)
    path = written(tmp_path, fpc_naming(seeded_model(config)))
    with pytest.raises(CheckpointError, match=r"fits 256x128 .* stride 8 and 384x192 .*: give --image-size"):
        load_checkpoint(path)
    assert load_checkpoint(path, Geometry(image_size=(256, 128))).model.config.stride == 8


def test_own_format_says_how_the_model_was_trained(tmp_path: Path) -> None:
    recipe = {"keep_rate": 0.6, "prune_at": [0, 2], "decoder_tokens": "query+gallery", "learning_rate": 1}
    save_checkpoint(tmp_path / "own.pth", seeded_model(), {"training": {"recipe": recipe}})
    assert load_checkpoint(tmp_path / "own.pth").trained_for == TrainedFor(0.6, (0, 2), "query+gallery")
    for name, wrong in (("keep_rate", "most"), ("prune_at", ["a"]), ("decoder_tokens", "some")):
        save_checkpoint(tmp_path / "bad.pth", seeded_model(), {"training": {"recipe": recipe | {name: wrong}}})
        with pytest.raises(CheckpointError, match="its recipe cannot be read"):
            load_checkpoint(tmp_path / "bad.pth")


def test_a_decoder_that_no_phase_trained_is_left_out(tmp_path: Path) -> None:
    encoder, decoder = {"phase": "encoder", "epoch": 1}, {"phase": "decoder", "epoch": 1}
    for history, has_decoder in (([encoder], False), ([encoder, decoder], True), ([decoder], True), (None, True)):
        save_checkpoint(tmp_path / "own.pth", seeded_model(), {"training": {"history": history}})
        assert (load_checkpoint(tmp_path / "own.pth").model.decoder is not None) == has_decoder


def test_the_demo_model_is_what_it_was() -> None:
    loaded = load_checkpoint(Path(fpc_deploy.__file__).parent / "demo_model" / "demo.pth")
    assert loaded.model.decoder is not None
    assert loaded.model_hash == "800ff7c8f4d9d1bf358936fcf1fc4dd136b1e4733861672754be22d10a61debf"


def test_looking_at_a_backbone_draws_nothing() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    _has_plain_blocks.cache_clear()
    check_config(TINY)
    assert torch.equal(before, torch.get_rng_state())


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, ("never",))


def truncated(folder: Path) -> Path:
    path = written(folder, fpc_naming(seeded_model()))
    path.write_bytes(path.read_bytes()[:20_000])
    return path


def with_code(folder: Path, protocol: int) -> Path:
    path = folder / "code.pth"
    path.write_bytes(pickle.dumps({"model": Attack()}, protocol=protocol))
    return path


def own_with(folder: Path, change: dict[str, object]) -> Path:
    save_checkpoint(folder / "own.pth", seeded_model())
    content = torch.load(folder / "own.pth", weights_only=True)
    content["config"] |= change
    return written(folder, content)


def own_state_with(folder: Path, change: dict[object, object]) -> Path:
    save_checkpoint(folder / "own.pth", seeded_model())
    content = torch.load(folder / "own.pth", weights_only=True)
    content["model"] |= change
    return written(folder, content)


def vit_small(folder: Path) -> Path:
    config = ModelConfig(embed_dim=768, depth=2, heads=8, mlp_ratio=3.0, qkv_bias=False, height=64, width=32)
    return written(folder, transreid_naming(seeded_model(replace(config, cameras=1)), jigsaw=False))


def state_with(folder: Path, change: object) -> Path:
    state: State = fpc_naming(seeded_model())
    change(state)  # type: ignore[operator]
    return written(folder, state)


BAD = {
    "missing file": (lambda folder: folder / "none.pth", "is not a file"),
    "a folder": (lambda folder: folder, "is not a file"),
    "empty file": (lambda folder: (folder / "x.pth", (folder / "x.pth").write_bytes(b""))[0], "not a torch checkpoint"),
    "text": (lambda folder: (folder / "x.pth", (folder / "x.pth").write_text("hello"))[0], "x.pth"),
    "truncated": (truncated, "truncated"),
    "code": (lambda folder: with_code(folder, 2), "could run code"),
    "code in a newer pickle": (lambda folder: with_code(folder, 4), "could run code"),
    "code in an archive": (lambda folder: written(folder, {"model": Attack()}), "could run code"),
    "a backbone from elsewhere": (
        lambda folder: own_with(folder, {"backbone": "hf-hub:somebody/vit"}),
        "'hf-hub:somebody/vit' is no timm ViT",
    ),
    "an absurd width": (lambda folder: own_with(folder, {"embed_dim": 10**9}), "embed_dim is 1000000000"),
    "a depth that is no number": (lambda folder: own_with(folder, {"depth": "many"}), "depth is 'many'"),
    "heads that do not divide": (lambda folder: own_with(folder, {"heads": 7}), "does not divide into 7 heads"),
    "heads that are no number": (lambda folder: own_with(folder, {"heads": True}), "heads is True"),
    "a backbone that is no text": (lambda folder: own_with(folder, {"backbone": 3}), "3 is no timm ViT"),
    "a backbone of other blocks": (
        lambda folder: own_with(folder, {"backbone": "vit_relpos_small_patch16_224"}),
        "vit_relpos_small_patch16_224 is not made of plain ViT blocks",
    ),
    "a width that is not whole": (lambda folder: own_with(folder, {"embed_dim": 64.0}), "embed_dim is 64.0"),
    "a stride that is not whole": (lambda folder: own_with(folder, {"stride": 2.5}), "stride is 2.5"),
    "a number of many digits": (lambda folder: own_with(folder, {"depth": 10**600}), "depth is 1000"),
    "a tensor for a size": (lambda folder: own_with(folder, {"depth": torch.ones(9, 9)}), "depth is Tensor"),
    "a coefficient of text": (
        lambda folder: own_with(folder, {"camera_coefficient": "x"}),
        "camera_coefficient is 'x'",
    ),
    "a coefficient of NaN": (
        lambda folder: own_with(folder, {"camera_coefficient": float("nan")}),
        "camera_coefficient is nan",
    ),
    "a bias of text": (lambda folder: own_with(folder, {"qkv_bias": "no"}), "qkv_bias is 'no'"),
    "a crop within a patch": (
        lambda folder: own_with(folder, {"height": 16, "width": 16, "patch_size": 64}),
        "a 16x16 crop holds no patch of 64",
    ),
    "sizes that fill the memory": (
        lambda folder: own_with(folder, {"height": 4096, "width": 4096, "patch_size": 1, "stride": 1}),
        "16777216 patches, 3 cameras. take 1,0",
    ),
    "a tensor that repeats itself": (
        lambda folder: own_state_with(folder, {"pos_embed": torch.zeros(1).expand(1, 2**24, 64)}),
        "pos_embed is larger than what is stored of it",
    ),
    "complex numbers": (
        lambda folder: own_state_with(folder, {"cls_token": torch.zeros(1, 1, 64, dtype=torch.complex64)}),
        "cls_token is complex64",
    ),
    "a sparse tensor": (
        lambda folder: own_state_with(folder, {"cls_token": torch.zeros(1, 1, 64).to_sparse()}),
        "cls_token is float32, sparse_coo",
    ),
    "a counter with a shape": (
        lambda folder: own_state_with(folder, {"head.bottleneck.num_batches_tracked": torch.zeros(3).long()}),
        r"misshapen parameters: head.bottleneck.num_batches_tracked is \(3,\)",
    ),
    "a name that is no text in our own": (
        lambda folder: own_state_with(folder, {7: torch.ones(1)}),
        "names a parameter 7",
    ),
    "a name that is no text": (
        lambda folder: written(folder, {"model": {7: torch.ones(1)}}),
        "names a parameter 7",
    ),
    "a sparse tensor of others": (
        lambda folder: state_with(folder, lambda s: s.update({"base.cls_token": s["base.cls_token"].to_sparse()})),
        "base.cls_token is float32, sparse_coo",
    ),
    "complex numbers of others": (
        lambda folder: state_with(folder, lambda s: s.update({"base.cls_token": s["base.cls_token"].cfloat()})),
        "base.cls_token is complex64",
    ),
    "a camera table without a shape": (
        lambda folder: state_with(folder, lambda s: s.update({"base.sie_embed": torch.tensor(1.0)})),
        r"base.sie_embed is \(\)",
    ),
    "a camera table of one row": (
        lambda folder: state_with(folder, lambda s: s.update({"base.sie_embed": torch.ones(64)})),
        r"base.sie_embed is \(64,\)",
    ),
    "a model without width": (
        lambda folder: state_with(folder, lambda s: s.update({"base.patch_embed.proj.weight": torch.ones(0, 3, 9, 9)})),
        "checkpoint.pth",
    ),
    "a block of many digits": (
        lambda folder: state_with(folder, lambda s: s.update({f"base.blocks.{'9' * 5000}.x": torch.ones(1)})),
        "fit nothing",
    ),
    "TransReID's vit_small": (vit_small, "no attn.qkv.bias at width 768, as TransReID's vit_small"),
    "a foreign setting": (lambda folder: own_with(folder, {"shell": "rm"}), "damaged fpc-deploy checkpoint"),
    "a list": (lambda folder: written(folder, [1, 2]), "holds no state dict but list"),
    "a resnet": (lambda folder: written(folder, {"layer1.weight": torch.ones(2)}), "neither an FPC nor a TransReID"),
    "missing key": (
        lambda folder: state_with(folder, lambda s: s.pop("rec_b.0.attn.qkv.weight")),
        "missing parameters: rec_b.0.attn.qkv.weight",
    ),
    "misshapen key": (
        lambda folder: state_with(folder, lambda s: s.update({"bottleneck.weight": torch.ones(3)})),
        r"misshapen parameters: bottleneck.weight is \(3,\), expected \(64,\)",
    ),
    "unknown key": (
        lambda folder: state_with(folder, lambda s: s.update({"base.pos_embedding": s.pop("base.pos_embed")})),
        r"fit nothing: base.pos_embedding",
    ),
    "misspelt key": (
        lambda folder: state_with(folder, lambda s: s.update({"b1.0.atn.qkv.weight": s.pop("b1.0.attn.qkv.weight")})),
        r"b1.0.atn.qkv.weight \(nearest: b1.0.attn.qkv.weight\)",
    ),
    "NaN": (
        lambda folder: state_with(folder, lambda s: s["base.cls_token"].fill_(float("nan"))),
        "NaN or infinity: base.cls_token",
    ),
    "odd grid": (
        lambda folder: state_with(folder, lambda s: s.update({"base.pos_embed": torch.zeros(1, 8, 64)})),
        "--image-size HxW and --stride",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files(tmp_path: Path, make: object, message: str) -> None:
    path: Path = make(tmp_path)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path, GEOMETRY)
    assert "\n" not in str(caught.value)
    assert re.search(re.escape(str(path)), str(caught.value))
    assert not Path("never").exists()
