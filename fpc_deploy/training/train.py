"""Training a model from a data set: set up, phase 1, phase 2, the trained checkpoint."""

import copy
import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from export.limits import check_config
from export.model import FPCModel, ModelConfig
from fpc_deploy.training.device import Compute, choose_compute
from fpc_deploy.training.images import ImageSet, read_test_images, read_training_images
from fpc_deploy.training.loop import Watcher, run_phase
from fpc_deploy.training.memory import encode_images
from fpc_deploy.training.phases import DecoderPhase, EncoderPhase
from fpc_deploy.training.plot import plot_history
from fpc_deploy.training.recipe import Phase, Recipe
from fpc_deploy.training.record import LAST, Progress, Subject, load_classifier, load_progress, save_final
from fpc_deploy.training.score import Score, score_model
from fpc_deploy.training.start import camera_names, given_model, pretrained_model, random_model, renumber_cameras
from runtime.errors import CheckpointError, FpcError, SourceError
from runtime.files import whole_file

HISTORY, PLOT = "history.json", "training.png"
CLASSIFIER_DEVIATION = 0.001
"""Of the classifier's first weights, as in the published code (`weights_init_classifier`)."""

Phases = Literal["encoder", "decoder", "both"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPlan:
    """One run of training.

    Attributes:
        dataset: folder in the layout of Market-1501.
        run: folder of the run's state and results.
        config: size of a model trained from scratch; its number of cameras is that of the data set.
        recipe: how it is trained.
        phases: which of the phases run.
        start: checkpoint to start from instead of random weights; phase 2 alone needs one.
        pretrained: start from timm's ImageNet weights of the backbone, as the paper does.
        resume: go on with what `run` holds.
        test_set: data set whose query and gallery give mAP on the way; `dataset` when None.
    """

    dataset: Path
    run: Path
    config: ModelConfig = field(default_factory=ModelConfig)
    recipe: Recipe = field(default_factory=Recipe)
    phases: Phases = "both"
    start: Path | None = None
    pretrained: bool = False
    resume: bool = False
    test_set: Path | None = None


def train_model(plan: TrainingPlan, compute: Compute | None = None, watcher: Watcher | None = None) -> Path:
    """Train and return the checkpoint, `RUN/model.pth`, which goes straight into `fpc-deploy export`.

    Raises:
        SourceError: the data set cannot be trained on.
        CheckpointError: the plan does not fit, or a checkpoint cannot be read.
        FpcError: the run's folder is taken or cannot be written, or the loss is no longer a number.
    """
    compute, watcher = compute or choose_compute(), watcher or Watcher()
    torch.manual_seed(plan.recipe.seed)
    if plan.start is None and plan.phases == "decoder":
        raise CheckpointError("phase decoder starts from a trained encoder: give its checkpoint by --start")
    given = given_model(plan.start) if plan.start else None
    config = given.config if given else plan.config
    check_config(config)
    plan.recipe.check(config)
    _claim(plan)
    images = read_training_images(plan.dataset, config.height, config.width)
    model = given or _new_model(plan, len(images.camera_names))
    names = camera_names(plan.start, config, images.camera_names) if plan.start else images.camera_names
    images = renumber_cameras(images, names, model.config)
    asked = plan.test_set or plan.dataset
    tests = read_test_images(asked, config.height, config.width)
    if tests is None:
        if plan.test_set:
            raise SourceError(
                f"{asked} has no images in query and bounding_box_test: give --test-set a data set with both"
            )
        log.info("%s has no images in query and bounding_box_test: no mAP on the way", asked)
    else:
        tests = renumber_cameras(tests[0], names, model.config), renumber_cameras(tests[1], names, model.config)
    subject = _subject(plan, model, images, compute)
    progress = load_progress(plan.run, subject) if plan.resume else Progress(_phases(plan)[0])
    if progress.phase not in _phases(plan):
        raise CheckpointError(
            f"{plan.run} is in phase {progress.phase}: give --phase {progress.phase} or --phase both to resume it"
        )
    try:
        for phase in _phases(plan)[_phases(plan).index(progress.phase) :]:
            if phase != progress.phase:
                progress = Progress(phase, history=progress.history)
            _run(subject, images, tests, progress, plan, compute, watcher)
        return save_final(plan.run, subject, progress.history)
    except OSError as error:
        raise FpcError(f"cannot write {plan.run}: {error.strerror or error}") from error


def _claim(plan: TrainingPlan) -> None:
    """Make the run's folder; one that holds a run is only touched to resume it."""
    taken = (plan.run / LAST).exists()
    if taken and not plan.resume:
        raise FpcError(f"{plan.run} holds a run: give --resume to go on with it, or another --out")
    if plan.resume and not taken:
        raise FpcError(f"{plan.run} holds no run to resume: leave --resume out")
    try:
        plan.run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FpcError(f"cannot write {plan.run}: {error.strerror or error}") from error


def _phases(plan: TrainingPlan) -> tuple[Phase, ...]:
    return ("encoder", "decoder") if plan.phases == "both" else (plan.phases,)


def _new_model(plan: TrainingPlan, cameras: int) -> FPCModel:
    config = replace(plan.config, cameras=cameras)
    return pretrained_model(config) if plan.pretrained else random_model(config)


def _subject(plan: TrainingPlan, model: FPCModel, images: ImageSet, compute: Compute) -> Subject:
    """Put a classifier beside the model: random, or that of the checkpoint to start from."""
    classifier = nn.Linear(model.config.embed_dim, len(images.identity_names), bias=False)
    nn.init.normal_(classifier.weight, std=CLASSIFIER_DEVIATION)
    if plan.start is not None and not load_classifier(plan.start, classifier, images.identity_names):
        if plan.phases == "decoder":
            raise CheckpointError(
                f"{plan.start} has no classifier of these {len(images.identity_names)} people: "
                "give the model.pth of phase 1 on this data set, or --phase both"
            )
        log.info("%s has no classifier of these people: a new one is trained", plan.start)
    model.to(compute.device)
    classifier.to(compute.device)
    return Subject(model, classifier, plan.recipe, images.camera_names, images.identity_names)


def _run(
    subject: Subject,
    images: ImageSet,
    tests: tuple[ImageSet, ImageSet] | None,
    progress: Progress,
    plan: TrainingPlan,
    compute: Compute,
    watcher: Watcher,
) -> None:
    """Run one phase and keep history and plot up to date."""
    model, recipe = subject.model, subject.recipe
    if progress.phase == "encoder":
        phase: EncoderPhase | DecoderPhase = EncoderPhase(model, subject.classifier, images, recipe, compute)
    else:
        if progress.epoch == 0:
            model.decoder = copy.deepcopy(model.head)  # as the authors do: it starts as the trained head
        memory = encode_images(model, images, {}, compute)
        phase = DecoderPhase(model, subject.classifier, images, recipe, compute, memory)

    def score() -> Score | None:
        return score_model(model, *tests, recipe, compute, progress.phase) if tests else None

    def epoch(line: dict[str, object]) -> None:
        with whole_file(plan.run / HISTORY) as part:
            part.write_text(json.dumps(progress.history, indent=1) + "\n", encoding="utf-8")
        plot_history(progress.history, plan.run / PLOT)
        watcher.epoch(line)

    run_phase(phase, subject, images, progress, plan.run, score, Watcher(watcher.step, epoch))
