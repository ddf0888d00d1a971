"""`fpc-deploy train`: a data set becomes a checkpoint."""

import logging
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from fpc_deploy.commands.options import parse_size, whole_numbers
from runtime.errors import FpcError, MissingExtraError

log = logging.getLogger(__name__)
MODEL_OPTIONS = ("pretrained", "backbone", "embed_dim", "depth", "heads", "image_size", "patch_size", "stride")
"""What a checkpoint to start from decides by itself."""


class PhaseName(str, Enum):
    """Which of the two phases run."""

    encoder = "encoder"
    decoder = "decoder"
    both = "both"


class OptimizerName(str, Enum):
    """What moves the weights."""

    sgd = "sgd"
    adamw = "adamw"


class PrecisionName(str, Enum):
    """Of matrix products."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class DecoderTokens(str, Enum):
    """What the decoder reads besides the mean [cls]."""

    gallery = "gallery"
    query_and_gallery = "query+gallery"


# None stands for the default of `Recipe` or `ModelConfig`, which are written there and nowhere else.
def train(
    dataset: Annotated[Path, typer.Argument(help="Folder with bounding_box_train, as in Market-1501.")],
    out: Annotated[Path, typer.Option(help="Folder of the run: state, history, plot, model.pth.")],
    phase: Annotated[PhaseName, typer.Option(help="encoder: phase 1; decoder: phase 2, after --start.")] = (
        PhaseName.both
    ),
    start: Annotated[Path | None, typer.Option(help="Checkpoint to start from instead of random weights.")] = None,
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="Start from timm's ImageNet weights of the backbone, as the paper does."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    test_set: Annotated[
        Path | None, typer.Option(help="Data set whose query and gallery give mAP on the way; DATASET by default.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="timm ViT whose blocks to use.")] = None,
    embed_dim: Annotated[int | None, typer.Option(help="Width of a token.")] = None,
    depth: Annotated[int | None, typer.Option(help="Blocks, the head's included.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads.")] = None,
    image_size: Annotated[str | None, typer.Option(help="Crop size, HEIGHTxWIDTH.")] = None,
    patch_size: Annotated[int | None, typer.Option(help="Side of a patch in pixels.")] = None,
    stride: Annotated[int | None, typer.Option(help="Step from patch to patch in pixels.")] = None,
    keep_rate: Annotated[float | None, typer.Option(help="Share of patches that survives a pruning block.")] = None,
    lowest_keep_rate: Annotated[
        float | None, typer.Option(help="Each batch draws its keep rate between this and --keep-rate.")
    ] = None,
    prune_at: Annotated[str | None, typer.Option(help="Blocks that prune, counted from 0, as in 3,6,9.")] = None,
    dense_epochs: Annotated[int | None, typer.Option(help="First epochs, which prune nothing.")] = None,
    dense_share: Annotated[float | None, typer.Option(help="Share of later batches that prune nothing.")] = None,
    encoder_epochs: Annotated[int | None, typer.Option(help="Epochs of phase 1.")] = None,
    decoder_epochs: Annotated[int | None, typer.Option(help="Epochs of phase 2.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a batch.")] = None,
    images_per_identity: Annotated[int | None, typer.Option(help="Images of each person in a batch.")] = None,
    optimizer: Annotated[OptimizerName | None, typer.Option(help="adamw for training from scratch.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of phase 1, after the warm-up.")] = None,
    decoder_learning_rate: Annotated[float | None, typer.Option(help="Of phase 2.")] = None,
    warm_up: Annotated[float | None, typer.Option(help="Share of the steps over which the rate rises.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of matrices.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Of the cross entropy.")] = None,
    margin: Annotated[float | None, typer.Option(help="Of the triplet loss; 0 is the soft margin.")] = None,
    cls_weight: Annotated[float | None, typer.Option(help="Of a contrast of the memory's [cls] tokens.")] = None,
    patch_weight: Annotated[float | None, typer.Option(help="Of a contrast of the memory's patches.")] = None,
    unknown_camera: Annotated[float | None, typer.Option(help="Probability that an image hides its camera.")] = None,
    flip: Annotated[float | None, typer.Option(help="Probability of a mirror image.")] = None,
    padding: Annotated[int | None, typer.Option(help="Pixels around an image before it is cut.")] = None,
    erasing: Annotated[float | None, typer.Option(help="Probability of an erased rectangle.")] = None,
    jitter: Annotated[float | None, typer.Option(help="Change of brightness and contrast, 0 to 1.")] = None,
    neighbours: Annotated[int | None, typer.Option(help="K, images that rebuild a query.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of EMD in choosing them; 0 is cosine alone.")] = None,
    decoder_tokens: Annotated[DecoderTokens | None, typer.Option(help="What the decoder reads.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides everything random.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Epochs from one mAP to the next.")] = None,
    precision: Annotated[PrecisionName, typer.Option(help="auto: bfloat16 where it is fast.")] = PrecisionName.auto,
    threads: Annotated[int | None, typer.Option(help="Threads of torch on a CPU.")] = None,
) -> None:
    """Train an FPC model: first the sparse encoder, then the decoder. The defaults are the paper's recipe."""
    given = {name: value for name, value in locals().items() if value is not None}
    ignored = [f"--{name.replace('_', '-')}" for name in MODEL_OPTIONS if given.get(name, False) is not False]
    if start and ignored:
        raise FpcError(f"the model is that of --start {start}: leave {', '.join(ignored)} out")
    try:
        import torch

        from fpc_deploy.training.device import choose_compute
        from fpc_deploy.training.train import TrainingPlan, train_model
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train") from error
    if threads:
        torch.set_num_threads(threads)
    config, recipe = _settings(given)
    plan = TrainingPlan(dataset, out, config, recipe, phase.value, start, pretrained, resume, test_set)
    compute = choose_compute(precision.value)
    log.info("training on %s, products in %s", compute.device, "bfloat16" if compute.bfloat16 else "float32")
    with _Bar() as bar:
        checkpoint = train_model(plan, compute, bar.watcher())
    typer.echo(f"trained: {checkpoint}")


def _settings(given: dict[str, Any]) -> tuple[Any, Any]:
    """Sort the options given into the model's configuration and the recipe."""
    from dataclasses import fields, replace

    from export.model import ModelConfig
    from fpc_deploy.training.recipe import Recipe
    from fpc_deploy.training.start import backbone_config

    given = {name: value.value if isinstance(value, Enum) else value for name, value in given.items()}
    if "prune_at" in given:
        given["prune_at"] = whole_numbers("--prune-at", given["prune_at"])
    if "image_size" in given:
        height, width = parse_size(given["image_size"])
        given |= {"height": height, "width": width}
    model = {field.name for field in fields(ModelConfig)} & given.keys()
    recipe = {field.name for field in fields(Recipe)} & given.keys()
    # ImageNet's weights fit the sizes of their own ViT alone
    config = backbone_config(given.get("backbone", ModelConfig.backbone)) if given["pretrained"] else ModelConfig()
    return replace(config, **{name: given[name] for name in model}), Recipe(**{name: given[name] for name in recipe})


class _Bar:
    """A bar over the steps of a phase; a line for each epoch."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
        )  # fmt: skip
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "_Bar":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def watcher(self) -> Any:
        """Return what training tells its steps and epochs to."""
        from fpc_deploy.training.loop import Watcher

        return Watcher(self._step, self._epoch)

    def _step(self, phase: str, done: int, total: int, loss: float) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(phase, total=total, loss="")
        self._bars.update(self._tasks[phase], completed=done, loss=f"{loss:.3f}")

    def _epoch(self, line: dict[str, Any]) -> None:
        score = f", mAP {line['mAP']:.1f}, rank 1 {line['rank1']:.1f}" if "mAP" in line else ""
        log.info("%s epoch %d: loss %.3f%s, %.0f s", line["phase"], line["epoch"], line["loss"], score, line["seconds"])
