"""Every naming is understood; whatever is wrong with a file is said in one line."""

import pickle
import re
from pathlib import Path

import pytest
import torch

from export.checkpoint import Geometry, LoadedModel, TrainedFor, load_checkpoint, save_checkpoint
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


def test_own_format_says_how_the_model_was_trained(tmp_path: Path) -> None:
    recipe = {"keep_rate": 0.6, "prune_at": [0, 2], "decoder_tokens": "query+gallery", "learning_rate": 1}
    save_checkpoint(tmp_path / "own.pth", seeded_model(), {"training": {"recipe": recipe}})
    assert load_checkpoint(tmp_path / "own.pth").trained_for == TrainedFor(0.6, (0, 2), "query+gallery")
    for name, wrong in (("keep_rate", "most"), ("prune_at", ["a"]), ("decoder_tokens", "some")):
        save_checkpoint(tmp_path / "bad.pth", seeded_model(), {"training": {"recipe": recipe | {name: wrong}}})
        with pytest.raises(CheckpointError, match="its recipe cannot be read"):
            load_checkpoint(tmp_path / "bad.pth")


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
