"""The loop over epochs, the same for both phases."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fpc_deploy.training.batches import Batches
from fpc_deploy.training.images import ImageSet
from fpc_deploy.training.optimisation import LARGEST_GRADIENT, create_optimizer, create_schedule
from fpc_deploy.training.phases import TrainingPhase
from fpc_deploy.training.record import Progress, Subject, save_progress
from fpc_deploy.training.score import Score
from fpc_deploy.training.seeding import seed_epoch
from runtime.errors import FpcError

SMOOTHING = 0.9
"""Share of the old value in the loss shown by the progress bar."""


@dataclass(frozen=True)
class Watcher:
    """Who is told how a run goes.

    Attributes:
        step: called after each step with the phase, steps done, steps in all, and the smoothed loss.
        epoch: called after each epoch with its line of the history.
    """

    step: Callable[[str, int, int, float], None] = lambda phase, done, total, loss: None
    epoch: Callable[[dict[str, Any]], None] = lambda line: None


def run_phase(
    phase: TrainingPhase,
    subject: Subject,
    images: ImageSet,
    progress: Progress,
    run: Path,
    score: Callable[[], Score | None],
    watcher: Watcher,
) -> None:
    """Train the epochs of a phase that are still to do; the state is written after each.

    Raises:
        FpcError: the loss is no longer a number.
        OSError: the state cannot be written.
    """
    recipe = subject.recipe
    batches = Batches(images.identities, recipe)
    epochs, total = recipe.epochs(progress.phase), len(batches) * recipe.epochs(progress.phase)
    modules = phase.parameters()
    optimizer = create_optimizer(modules, recipe, progress.phase)
    schedule = create_schedule(optimizer, total, recipe)
    if progress.optimizer:
        optimizer.load_state_dict(progress.optimizer)
    while progress.epoch < epochs:
        started, summed, shown = time.monotonic(), 0.0, 0.0
        seed_epoch(recipe.seed, progress.phase, progress.epoch)
        phase.start_epoch()
        for number, index in enumerate(batches):
            step = progress.epoch * len(batches) + number
            schedule.step_update(step)
            loss = phase.loss(index, progress.epoch)
            value = float(loss.detach())
            if value != value or value in (float("inf"), float("-inf")):
                raise FpcError(
                    f"the loss is {value} in epoch {progress.epoch + 1} of phase {progress.phase}: "
                    "give a lower learning rate or a longer --warm-up"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(modules.parameters(), LARGEST_GRADIENT)
            optimizer.step()
            summed += value
            shown = SMOOTHING * shown + (1 - SMOOTHING) * value if number else value
            watcher.step(progress.phase, step + 1, total, shown)
        progress.epoch += 1
        line = {"phase": progress.phase, "epoch": progress.epoch, "loss": summed / len(batches)}
        line |= {"rate": optimizer.param_groups[0]["lr"], "seconds": time.monotonic() - started}
        if progress.epoch % recipe.evaluate_every == 0 or progress.epoch == epochs:
            measured = score()
            line |= {"mAP": measured.mean_average_precision, "rank1": measured.rank1} if measured else {}
        progress.history.append(line)
        progress.optimizer = optimizer.state_dict()
        save_progress(run, subject, progress)
        watcher.epoch(line)
