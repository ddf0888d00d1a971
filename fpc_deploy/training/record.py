"""The state of a run on disk: everything that a run needs to go on, written after every epoch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.checkpoint import read_tensors, save_checkpoint
from export.model import FPCModel
from fpc_deploy.training.recipe import Phase, Recipe, differences
from runtime.errors import CheckpointError

LAST, FINAL = "last.pth", "model.pth"
"""The running state, with the optimizer's; and the trained model, fit for `fpc-deploy export`."""


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        phase: the phase that runs.
        epoch: epochs of it that are done.
        history: {"phase", "epoch", "loss", "rate", "seconds", and where measured "mAP", "rank1"} of each epoch.
        optimizer: state of the phase's optimizer after `epoch` epochs.
    """

    phase: Phase
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    optimizer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What is trained and by which recipe."""

    model: FPCModel
    classifier: nn.Linear
    recipe: Recipe
    camera_names: tuple[str, ...]
    identity_names: tuple[str, ...]


def save_progress(run: Path, subject: Subject, progress: Progress) -> None:
    """Write `RUN/last.pth`, beside and renamed: a run cut off at any moment goes on from a whole file."""
    state = {"classifier": subject.classifier.state_dict(), **asdict(progress)}
    state |= {"recipe": _recipe(subject.recipe), "identity_names": list(subject.identity_names)}
    save_checkpoint(run / LAST, subject.model, {"camera_names": list(subject.camera_names), "training": state})


def save_final(run: Path, subject: Subject, history: list[dict[str, Any]]) -> Path:
    """Write `RUN/model.pth`: model, classifier, camera names and recipe, without the optimizer's state."""
    state = {"classifier": subject.classifier.state_dict(), "history": history, "recipe": _recipe(subject.recipe)}
    state["identity_names"] = list(subject.identity_names)
    save_checkpoint(run / FINAL, subject.model, {"camera_names": list(subject.camera_names), "training": state})
    return run / FINAL


def load_progress(run: Path, subject: Subject) -> Progress:
    """Fill the subject from `RUN/last.pth` and return how far the run had come.

    Raises:
        CheckpointError: the file is missing or damaged, or was written for another recipe, model or data set.
    """
    path = run / LAST
    content = read_tensors(path)
    state = content.get("training")
    needed = {"classifier", "phase", "epoch", "history", "optimizer", "recipe", "identity_names"}
    if not isinstance(state, dict) or needed - set(state):
        raise CheckpointError(f"{path} holds no state of a training run: give a folder that `train` wrote")
    changed = differences(dict(content["config"]), asdict(subject.model.config))
    changed += differences(state["recipe"], _recipe(subject.recipe))
    if changed:
        raise CheckpointError(f"{path} was trained otherwise: {', '.join(changed)}; give the same options to resume")
    if state["identity_names"] != list(subject.identity_names):
        raise CheckpointError(f"{path} was trained on other people: give the same data set to resume")
    try:
        subject.model.load_state_dict(content["model"])
        subject.classifier.load_state_dict(state["classifier"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    return Progress(state["phase"], state["epoch"], state["history"], state["optimizer"])


def load_classifier(path: Path, classifier: nn.Linear, identity_names: tuple[str, ...]) -> bool:
    """Fill the classifier from a checkpoint of phase 1; False where it has none for these people."""
    state: Mapping[str, Any] = read_tensors(path).get("training") or {}
    if not isinstance(state, dict) or state.get("identity_names") != list(identity_names):
        return False
    weight: Tensor | None = state.get("classifier", {}).get("weight")
    if weight is None or weight.shape != classifier.weight.shape:
        return False
    with torch.no_grad():
        classifier.weight.copy_(weight)
    return True


def _recipe(recipe: Recipe) -> dict[str, Any]:
    return asdict(recipe) | {"prune_at": list(recipe.prune_at)}
