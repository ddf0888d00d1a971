"""Draws the crops on which engines are timed and compared, in `runtime/engines/probe`.

Run by `python -m benchmarks.probe_crops`. Twelve people, each in front of two of four cameras; the second time
something hides 20 to 70 % of the person.
"""

from pathlib import Path

from PIL import Image

from fpc_deploy.rendering import Occlusion, draw_camera, draw_person, generator, render_crop
from runtime.engines.trial import PROBE_FOLDER

SEED = 4104
PEOPLE, CAMERAS = 12, 4
QUALITY = 85


def main(folder: Path = PROBE_FOLDER) -> None:
    cameras = [draw_camera(SEED, number) for number in range(CAMERAS)]
    for number in range(PEOPLE):
        person = draw_person(SEED, number)
        for view, kind in enumerate(("none", ("object", "person")[number % 2])):
            camera = cameras[(number + view) % CAMERAS]
            crop = render_crop(person, camera, generator(SEED, "probe", number, view), Occlusion(kind))
            Image.fromarray(crop.image).save(folder / f"{number:02}-{view}.jpg", quality=QUALITY)


if __name__ == "__main__":
    main()
