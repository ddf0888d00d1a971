"""A trained model in half precision, without what only training needs: the form in which the demo model is shipped.

python -m fpc_deploy.training.ship RUN/model.pth fpc_deploy/demo_model/demo.pth
"""

import sys
from pathlib import Path

from export.checkpoint import load_checkpoint, read_tensors, save_checkpoint
from runtime.errors import FpcError


def ship_model(trained: Path, out: Path) -> Path:
    """Write a checkpoint of half the size; `load_checkpoint` gives float32 again.

    Args:
        trained: `model.pth` of a run.
        out: where to.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    model = load_checkpoint(trained).model.half()
    content = read_tensors(trained)
    recipe = (content.get("training") or {}).get("recipe")
    # The recipe stays: export takes keep rate, blocks and decoder tokens from it.
    save_checkpoint(out, model, {"camera_names": content.get("camera_names", []), "training": {"recipe": recipe}})
    return out


if __name__ == "__main__":
    try:
        ship_model(Path(sys.argv[1]), Path(sys.argv[2]))
    except FpcError as error:
        sys.exit(f"error: {error}")
