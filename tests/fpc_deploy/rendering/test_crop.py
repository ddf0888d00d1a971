"""What a crop shows: people keep their clothes, cameras differ, hidden shares are measured."""

from collections import Counter

import numpy as np
import pytest

from fpc_deploy.rendering import Camera, Crop, Occlusion, draw_camera, draw_person, generator, render_crop
from fpc_deploy.rendering.arrays import Floats

CAMERAS = [draw_camera(3, number) for number in (1, 2, 3)]


def crop(identity: int, camera: Camera, number: int = 0, occlusion: Occlusion | None = None) -> Crop:
    rng = generator(3, "test", identity, camera.number, number)
    return render_crop(draw_person(3, identity), camera, rng, occlusion or Occlusion(), heading=0.4 * number)


def clothing(picture: Crop) -> Floats:
    """Return the middle colour of the person's upper and lower half, (6,), each of mean brightness 1."""
    rows = np.arange(picture.mask.shape[0])[:, None]
    parts = []
    for low, high in ((0.2, 0.45), (0.55, 0.8)):
        place = picture.mask & (rows > low * len(rows)) & (rows < high * len(rows))
        parts.append(np.median(picture.image[place], axis=0))
    colour = np.concatenate(parts)
    return np.asarray(colour / colour.mean(), np.float32)


def test_the_same_generator_gives_the_same_crop() -> None:
    first, second = crop(4, CAMERAS[0]), crop(4, CAMERAS[0])
    assert np.array_equal(first.image, second.image)
    assert first.hidden == second.hidden == 0.0


def test_a_person_looks_more_like_itself_than_like_others_across_cameras() -> None:
    people = range(8, 72, 6)  # no two of one family
    first = np.stack([clothing(crop(identity, CAMERAS[0])) for identity in people])
    second = np.stack([clothing(crop(identity, CAMERAS[1], 1)) for identity in people])
    distance = np.linalg.norm(first[:, None] - second[None], axis=-1)
    same, others = np.diag(distance), distance[~np.eye(len(distance), dtype=bool)]
    assert np.median(same) < 0.6 * np.median(others)


def test_colour_alone_does_not_name_a_person() -> None:
    people = [draw_person(3, identity) for identity in range(400)]
    wearers = Counter(person.upper.cloth.base for person in people)
    assert np.mean([wearers[person.upper.cloth.base] > 1 for person in people]) > 0.4
    assert len({(person.lower, person.bag, person.hair_style, person.hair) for person in people}) == len(people)


def test_cameras_differ_in_colour_and_brightness() -> None:
    cameras = [draw_camera(3, number) for number in range(1, 7)]
    shots = np.stack(
        [[crop(identity, camera).image.mean(axis=(0, 1)) for identity in range(4)] for camera in cameras]
    )  # (camera, person, channel), of 255
    red, _, blue = shots.mean(axis=1).T
    assert np.ptp(np.log(red / blue)) > 0.12  # colour balance
    brightness = shots.mean(axis=(1, 2))
    assert brightness.max() / brightness.min() > 1.2


@pytest.mark.parametrize("kind", ["object", "person"])
def test_the_hidden_share_lies_in_the_range(kind: str) -> None:
    crops = [crop(identity, CAMERAS[identity % 3], 0, Occlusion(kind, 0.3, 0.5)) for identity in range(6)]
    assert np.mean([0.3 <= picture.hidden <= 0.5 for picture in crops]) >= 5 / 6
    assert all((picture.cover == "person") == (kind == "person") for picture in crops)


def test_the_hidden_share_is_what_the_mask_lost() -> None:
    free, covered = crop(5, CAMERAS[1]), crop(5, CAMERAS[1], 0, Occlusion("object", 0.3, 0.6))
    lost = 1 - (covered.mask & free.mask).sum() / free.mask.sum()
    assert lost == pytest.approx(covered.hidden, abs=0.02)


def test_height_sets_the_size() -> None:
    rng = generator(3, "tall")
    tall = render_crop(draw_person(3, 1), CAMERAS[0], rng, height=256)
    assert tall.image.shape == (256, 128, 3)
    assert tall.image.dtype == np.uint8
    assert tall.mask.shape == (256, 128)


def test_front_and_back_of_a_print_differ() -> None:
    identity = next(
        number
        for number in range(500)
        if draw_person(3, number).upper.logo == "front" and draw_person(3, number).bag == "none"
    )
    person = draw_person(3, identity)
    front = render_crop(person, CAMERAS[0], generator(3, "side"), heading=0.0)
    back = render_crop(person, CAMERAS[0], generator(3, "side"), heading=np.pi)
    chest = front.mask & back.mask
    chest[:30] = chest[60:] = False
    assert np.abs(front.image[chest].astype(int) - back.image[chest]).mean() > 6
