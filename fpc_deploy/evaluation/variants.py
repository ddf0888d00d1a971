"""Other bundles of the same checkpoint: exported on the fly for sweeps, and the strategies that no bundle holds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.checkpoint import Geometry, LoadedModel, load_checkpoint
from export.model import FPCModel, keep_counts, normalise
from export.write import ExportOptions, Report, export_bundle
from fpc_deploy.evaluation.rows import DropStrategy
from runtime.bundle import Bundle, Manifest
from runtime.encoder import Features
from runtime.errors import CheckpointError


class Variants:
    """Bundles that differ from a given one in how they prune, and in nothing else.

    Args:
        base: the given bundle, in fp32.
        checkpoint: what it was exported from.
        folder: where to export to.
        report: called with one line per step of an export.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is not what the bundle was exported from, or the bundle was
            converted to another precision since.
    """

    def __init__(self, base: Bundle, checkpoint: Path, folder: Path, report: Report) -> None:
        manifest = base.manifest
        if manifest.precision != "fp32":
            raise CheckpointError(
                f"{base.folder} is {manifest.precision}: sweeps export fp32 variants; give the fp32 bundle it came from"
            )
        self.base, self._folder, self._report = base, folder, report
        self._checkpoint, self._geometry = checkpoint, _geometry(manifest)
        self._loaded: LoadedModel = load_checkpoint(checkpoint, self._geometry)
        if self._loaded.model_hash != manifest.model.model_hash:
            raise CheckpointError(f"{base.folder} was not exported from {checkpoint}: their parameters differ")

    @property
    def prune_at(self) -> tuple[int, ...]:
        """Blocks that the base prunes at; of an unpruned one, those that export chooses by default."""
        return self.base.manifest.keep_schedule.blocks or self._loaded.trained_for.prune_at

    def bundle(self, keep_rate: float, prune_at: tuple[int, ...]) -> Bundle:
        """Return the variant that keeps `keep_rate` of the patches at each block of `prune_at`.

        Raises:
            CheckpointError: a keep rate out of range, or a block the model has not.
            ParityError: a graph does not answer as the torch model does.
        """
        manifest = self.base.manifest
        schedule = manifest.keep_schedule
        if (keep_rate, prune_at if keep_rate < 1 else ()) == (schedule.keep_rate, schedule.blocks):
            return self.base
        out = self._folder / f"keep-{keep_rate:g}-at-{'-'.join(map(str, prune_at))}"
        if out.exists():
            return Bundle.open(out)
        options = ExportOptions(
            keep_rate=keep_rate,
            prune_at=prune_at,
            camera_names=manifest.cameras.names,
            matching=manifest.matching,
        )
        if manifest.decoder_tokens is not None:
            options = replace(options, decoder_tokens=manifest.decoder_tokens)
        return export_bundle(self._checkpoint, out, options, self._geometry, self._report)

    def torch_encoder(self, bundle: Bundle, drop: DropStrategy, seed: int) -> "TorchQueryEncoder":
        """Return an encoder that prunes as often and as much as `bundle`, but other patches."""
        schedule = bundle.manifest.keep_schedule
        keep = keep_counts(bundle.manifest.model.patches, schedule.keep_rate, schedule.blocks)
        return TorchQueryEncoder(self._loaded.model, keep, drop, seed)


class TorchQueryEncoder:
    """The sparse encoder in torch, for the drop strategies that are there to be compared with and are never exported.

    Random choice cannot be a constant graph that answers the same each time. Here it comes from a seed; with another
    batch size the same seed chooses other patches.

    Args:
        model: in eval mode.
        keep: {block: patches that survive}.
        drop: which patches go.
        seed: of the random choice.
    """

    def __init__(self, model: FPCModel, keep: dict[int, int], drop: DropStrategy, seed: int) -> None:
        self._model, self._keep, self._drop = model, keep, drop
        self._state = torch.Generator().manual_seed(seed).get_state()

    def encode(self, crops: NDArray[np.uint8], camera: NDArray[np.int64]) -> Features:
        """Encode (B, H, W, 3) uint8 crops of (B,) cameras; see `runtime.encoder.Encoder.encode`."""
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._state)  # the model draws from the global generator
            pixels = normalise(torch.from_numpy(crops))
            encoded = self._model.encode(pixels, torch.from_numpy(camera), self._keep, self._drop)
            _, descriptor = self._model.head(encoded.tokens)
            self._state = torch.get_rng_state()
        tokens = encoded.tokens.numpy()
        return Features(tokens[:, 0], tokens[:, 1:], descriptor.numpy(), encoded.kept.numpy())


def _geometry(manifest: Manifest) -> Geometry:
    """What the bundle knows of the checkpoint, so that nothing has to be guessed again."""
    model, size = manifest.model, manifest.preprocessing
    if model.source_format == "fpc-deploy":
        return Geometry()  # its checkpoint says so itself
    return Geometry(model.backbone, (size.height, size.width), model.stride, model.heads)
