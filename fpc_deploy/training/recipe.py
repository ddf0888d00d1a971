"""What may be chosen in training; the defaults are the paper's recipe."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from export.model import DecoderTokens, ModelConfig, keep_counts
from runtime.errors import CheckpointError

Phase = Literal["encoder", "decoder"]
Optimizer = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    The defaults are those of section 4.1 of the paper and the configuration its authors published (that of TransReID,
    He et al. 2021): SGD with momentum, 0.008 with cosine decay and warm-up, soft-margin triplet loss, 64 images a
    batch, 4 of each identity, flip, pad 10 and crop, erasing.

    Attributes:
        keep_rate: share of patches that survives each pruning block.
        lowest_keep_rate: each pruned batch of phase 1 draws its keep rate between this and `keep_rate`, so that one
            model serves every keep rate between at export; None trains at `keep_rate` alone, as published.
        prune_at: blocks that prune, counted from 0.
        encoder_epochs: of phase 1.
        decoder_epochs: of phase 2.
        batch_size: images a batch.
        images_per_identity: of a batch.
        optimizer: "sgd" for pretrained weights; "adamw" for a transformer trained from scratch.
        learning_rate: of the encoder at the end of the warm-up.
        decoder_learning_rate: of phase 2.
        warm_up: share of a phase's steps over which the rate rises from a hundredth.
        weight_decay: of matrices; vectors have none.
        label_smoothing: of the cross entropy; 0 as published.
        margin: of the triplet loss; 0 is the soft margin, log(1 + exp(positive - negative)), as published.
        cls_weight: weight of a contrast of the [cls] of the token memory by cosine, by which stage M ranks and which
            the published losses reach only through the last block; 0 as published.
        patch_weight: weight of a contrast of the patches of the token memory by their best matches, which EMD stands
            on; 0 as published.
        unknown_camera: probability that a training image hides its camera, so that the row for unknown cameras learns.
        dense_epochs: epochs at the start that prune nothing: attention knows nothing yet.
        dense_share: share of later batches that prune nothing, as the gallery is encoded.
        flip: probability of a mirror image.
        padding: pixels around an image before a crop of its size is cut out.
        erasing: probability that a rectangle of noise hides part of an image.
        jitter: brightness and contrast change by up to this share; 0 as published.
        neighbours: K, nearest images of the training set that rebuild a query in phase 2.
        alpha: weight of EMD in choosing them from the 100 nearest by cosine; 0 leaves EMD out.
        decoder_tokens: whether the query's own tokens join its neighbours'.
        seed: decides everything random.
        evaluate_every: epochs from one mAP to the next; the last epoch always has one.
    """

    keep_rate: float = 0.8
    lowest_keep_rate: float | None = None
    prune_at: tuple[int, ...] = (3, 6, 9)
    encoder_epochs: int = 120
    decoder_epochs: int = 20
    batch_size: int = 64
    images_per_identity: int = 4
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.008
    decoder_learning_rate: float = 0.008
    warm_up: float = 0.05
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    margin: float = 0.0
    cls_weight: float = 0.0
    patch_weight: float = 0.0
    unknown_camera: float = 0.3
    dense_epochs: int = 0
    dense_share: float = 0.0
    flip: float = 0.5
    padding: int = 10
    erasing: float = 0.5
    jitter: float = 0.0
    neighbours: int = 10
    alpha: float = 0.0
    decoder_tokens: DecoderTokens = "gallery"
    seed: int = 0
    evaluate_every: int = 10

    def epochs(self, phase: Phase) -> int:
        """Return how many epochs a phase has."""
        return self.encoder_epochs if phase == "encoder" else self.decoder_epochs

    def keep(self, config: ModelConfig) -> dict[int, int]:
        """Return {block: patches that survive it} of the sparse encoder."""
        return keep_counts(config.patches, self.keep_rate, self.prune_at)

    def check(self, config: ModelConfig) -> None:
        """Refuse numbers that cannot be trained with.

        Raises:
            CheckpointError: one is out of range; the message names its option.
        """
        for name in ("unknown_camera", "dense_share", "flip", "erasing", "jitter", "alpha", "warm_up"):
            _demand(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "0 to 1")
        _demand("keep_rate", self.keep_rate, 0 < self.keep_rate <= 1, "above 0 and at most 1")
        low = self.lowest_keep_rate
        _demand("lowest_keep_rate", low, low is None or 0 < low <= self.keep_rate, "above 0 and at most --keep-rate")
        _demand("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "0 to below 1")
        for name in ("encoder_epochs", "decoder_epochs", "neighbours", "evaluate_every"):
            _demand(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        for name in ("learning_rate", "decoder_learning_rate"):
            _demand(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        for name in ("weight_decay", "margin", "cls_weight", "patch_weight", "padding", "dense_epochs"):
            _demand(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        _demand("images_per_identity", self.images_per_identity, self.images_per_identity >= 2, "2 or more")
        fits = self.batch_size % self.images_per_identity == 0 and self.batch_size > self.images_per_identity
        _demand("batch_size", self.batch_size, fits, "a multiple of the images of an identity, two identities or more")
        blocks = config.depth - 1
        inside = all(0 <= block < blocks for block in self.prune_at)
        _demand("prune_at", ",".join(map(str, self.prune_at)), inside, f"shared blocks, 0 to {blocks - 1}")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Name the settings in which two recipes (or model configurations), as mappings, differ."""
    return [f"{name} {old.get(name)} -> {new.get(name)}" for name in new if old.get(name) != new.get(name)]


def recipe_from(settings: dict[str, Any]) -> Recipe:
    """Return the recipe that a checkpoint holds as a mapping; unknown names are left out."""
    known = {field.name for field in fields(Recipe)}
    settings = {name: value for name, value in settings.items() if name in known}
    return Recipe(**settings | {"prune_at": tuple(settings.get("prune_at", Recipe.prune_at))})


def _demand(name: str, value: object, holds: bool, wanted: str) -> None:
    if not holds:
        raise CheckpointError(f"--{name.replace('_', '-')} {value} does not fit: give {wanted}")
