"""Small data sets of striped people: enough to tell identities and cameras apart, drawn in no time."""

from pathlib import Path

import numpy as np
from PIL import Image


def draw_person(path: Path, identity: int, camera: int, take: int, size: tuple[int, int] = (64, 32)) -> None:
    """Save a picture whose stripes tell the identity, its brightness the camera, its noise the take."""
    colours = np.random.default_rng(identity).uniform(40, 215, (4, 3))
    image = np.repeat(colours, size[0] // 4, axis=0)[:, None] * np.ones((1, size[1], 1))
    noise = np.random.default_rng([identity, camera, take]).normal(0, 25, (*size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(image + noise + 12 * camera, 0, 255).astype(np.uint8)).save(path)


def draw_market(folder: Path, identities: int = 8, cameras: int = 3, gallery_takes: int = 2) -> Path:
    """Make a data set in Market-1501 naming, with a stranger and a junk picture in the gallery."""
    for identity in range(1, identities + 1):
        for camera in range(1, cameras + 1):
            name = f"{identity:04d}_c{camera}s1_{{:06d}}_00.png"
            draw_person(folder / "query" / name.format(0), identity, camera, 0)
            for take in range(1, gallery_takes + 1):
                draw_person(folder / "bounding_box_test" / name.format(take), identity, camera, take)
    draw_person(folder / "bounding_box_test" / "0000_c1s1_000900_00.png", 900, 1, 0)
    draw_person(folder / "bounding_box_test" / "-1_c1s1_000901_00.png", 901, 1, 0)
    (folder / "bounding_box_train").mkdir()
    return folder
