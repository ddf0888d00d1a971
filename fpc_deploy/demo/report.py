"""The demo's page: what was seen, which patches survived, who rebuilt the query, and the verdict."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from export.checkpoint import load_checkpoint
from export.model import FPCModel, ModelConfig, normalise
from fpc_deploy.demo.track import Track
from runtime.bundle import Bundle
from runtime.events import Neighbour
from runtime.gallery import Gallery
from runtime.images import read_image

TEMPLATE = Path(__file__).with_name("report.html")
NEIGHBOURS_SHOWN = 5
DARK = 0.2
"""Brightness of a pruned place, of full."""


def write_report(out: Path, bundle: Bundle, checkpoint: Path, tracks: Sequence[Track]) -> Path:
    """Write `report.html`, one page that holds its pictures.

    Args:
        out: folder of the demo, with its gallery.
        bundle: that was run.
        checkpoint: that was exported; its torch model tells which patches each block pruned.
        tracks: with the events that name them.
    """
    model = load_checkpoint(checkpoint).model
    with Gallery.open(out / "gallery", bundle.binding) as gallery:
        rows = [_row(track, model, bundle, gallery) for track in tracks]
        entries = len(gallery)
    known = [track for track in tracks if track.truth is not None]
    right = sum(track.right for track in known)
    share = right / len(known) if known else 0.0
    names = list(dict.fromkeys(track.camera for track in tracks))
    page = jinja2.Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = page.render(
        right=right,
        known=known,
        strangers=[track for track in tracks if track.truth is None],
        least=bundle.manifest.matching.min_own_similarity,
        share=share,
        percent=round(100 * share),
        events=sum(len(track.events) for track in tracks),
        entries=entries,
        cameras=[
            {"name": name, "tracks": [row for row, track in zip(rows, tracks, strict=True) if track.camera == name]}
            for name in names
        ],
        model=f"a model of {sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters",
        blocks=bundle.manifest.keep_schedule.blocks,
        hash=bundle.manifest.model.model_hash[:12],
        keep_rate=bundle.manifest.keep_schedule.keep_rate,
        parity=f"{max(row.max_abs for row in bundle.manifest.parity):.0e}",
    )
    path = out / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def surviving(crop: NDArray[np.uint8], places: NDArray[np.int64], config: ModelConfig) -> NDArray[np.uint8]:
    """Return the crop with everything dark that no patch in `places` covers.

    Args:
        crop: (H, W, 3) uint8 RGB.
        places: (k,) int64 places in the row-major patch grid.
        config: geometry of the patches.
    """
    lit = np.full(crop.shape[:2], DARK)
    columns = config.grid[1]
    for place in places:
        top, left = config.stride * (int(place) // columns), config.stride * (int(place) % columns)
        lit[top : top + config.patch_size, left : left + config.patch_size] = 1
    return np.asarray(crop * lit[..., None], np.uint8)


def _row(track: Track, model: FPCModel, bundle: Bundle, gallery: Gallery) -> dict[str, Any]:
    event = track.clearest
    return {
        "number": track.number,
        "seconds": f"{event.pts_s:.1f} s" if event.pts_s is not None else "",
        "crop": _data_url(track.crop),
        "pruned": _pruned(track.crop, model, bundle),
        "neighbours": [_neighbour(near, track.truth, gallery) for near in event.neighbours[:NEIGHBOURS_SHOWN]],
        "named": track.named or "nobody",
        "truth": track.truth or "a stranger",
        "right": track.right,
        "similarity": _rounded(event.similarity),
        "own_similarity": _rounded(event.own_similarity),
        "events": len(track.events),
    }


def _pruned(crop: NDArray[np.uint8], model: FPCModel, bundle: Bundle) -> list[dict[str, Any]]:
    schedule = bundle.manifest.keep_schedule
    keep = dict(zip(schedule.blocks, schedule.kept, strict=True))
    with torch.inference_mode():
        pixels = normalise(torch.from_numpy(crop[None]))
        encoded = model.encode(pixels, torch.tensor([model.config.cameras]), keep)
    places, pictures = np.arange(model.config.patches), []
    for block in keep:
        places = places[encoded.kept_at[block][0].numpy()]
        pictures.append({"image": _data_url(surviving(crop, places, model.config)), "kept": len(places)})
    return pictures


def _neighbour(near: Neighbour, truth: str | None, gallery: Gallery) -> dict[str, Any]:
    [entry] = gallery.entries([near.entry])
    image = _data_url(read_image(Path(entry.source)))
    return {
        "image": image,
        "identity": near.identity,
        "distance": f"{near.distance:.3f}",
        "same": near.identity == truth,
    }


def _rounded(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _data_url(image: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
