"""Calibration data: which images are used, and which sets are refused or warned about."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration.crops import load_calibration_set, neighbour_correlation
from calibration.protocol import Labels, relate
from calibration.split import MAX_MATES, MAX_PEOPLE, MAX_QUERIES, split_people, spread
from runtime.datasets import LabelledImage
from runtime.errors import SourceError
from tests.calibration.conftest import MakeImages, smooth


def test_people_and_cameras_take_turns() -> None:
    images = [
        LabelledImage(Path(f"{person}{camera}{number}"), person, camera)
        for person in "abcd"
        for camera in ("c1", "c2", "c3")
        for number in range(5)
    ]
    order = spread(images, seed=0)
    assert sorted(map(str, (image.path for image in order))) == sorted(str(image.path) for image in images)
    assert {image.identity for image in order[:4]} == set("abcd")
    first_rounds = [(image.identity, image.camera) for image in order[:12]]
    assert len(set(first_rounds)) == 12


def seen(people: int, cameras: Sequence[str] = ("c1", "c2"), times: int = 3) -> list[LabelledImage]:
    """Each person so many times on every camera."""
    return [
        LabelledImage(Path(f"{person}{camera}{number}"), str(person), camera)
        for person in range(1, people + 1)
        for camera in cameras
        for number in range(times)
    ]


def test_held_out_people_are_in_no_other_part() -> None:
    split = split_people(seen(40), seed=0)
    assert split is not None
    asked, mates, used = (
        {image.identity for image in part} for part in (split.queries, split.gallery, split.calibrate)
    )
    assert len(asked) == 10
    assert asked == mates
    assert not asked & used
    assert len(split.queries) + len(split.gallery) + len(split.calibrate) == 40 * 6
    relations = relate(*(Labels.of([(i.identity, i.camera) for i in part]) for part in (split.queries, split.gallery)))
    assert relations.matches.any(axis=1).all()


def test_many_people_give_one_or_two_queries_each() -> None:
    split = split_people(seen(400), seed=0)
    assert split is not None
    assert len({image.identity for image in split.queries}) == MAX_PEOPLE
    assert (len(split.queries), len(split.gallery)) == (MAX_QUERIES, MAX_MATES)


@pytest.mark.parametrize(
    ("images", "phrase"),
    [
        (seen(31), "too few people"),
        (seen(60, ("c1",)), "one camera only"),
        (seen(60, ("c1",), 1), "seen once"),
        ([LabelledImage(Path(str(n)), "", "") for n in range(99)], "no labels"),
        ([LabelledImage(Path(str(n)), "0000", f"c{n % 3}") for n in range(99)], "distractors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_people_to_find_nobody_is_split(images: list[LabelledImage], phrase: str) -> None:
    assert split_people(images, seed=0) is None, phrase


def test_unknown_cameras_are_taken_for_different_ones() -> None:
    split = split_people(seen(40, ("",)), seed=0)
    assert split is not None
    assert len(split.queries) == 10


def test_labelled_people_are_held_out_with_labels(make_images: MakeImages) -> None:
    data = load_calibration_set(make_images(smooth(160, 0)), 512, 64, 32)
    assert data.labels is not None
    query, gallery = data.labels
    assert (len(query), len(data.held_out)) == (20, 20)
    assert len(gallery) == len(data.gallery) == 20 + 64
    assert len(data.crops) == 120
    assert relate(query, gallery).matches.any(axis=1).all()
    assert not {crop.tobytes() for crop in data.crops} & {crop.tobytes() for crop in data.held_out}


def test_a_seed_makes_the_choice(make_images: MakeImages) -> None:
    folder = make_images(smooth(40, 0))
    first, again = (load_calibration_set(folder, 16, 64, 32, seed=1) for _ in range(2))
    other = load_calibration_set(folder, 16, 64, 32, seed=2)
    assert np.array_equal(first.crops, again.crops)
    assert not np.array_equal(first.crops, other.crops)


def test_held_out_crops_are_never_calibrated_on(make_images: MakeImages) -> None:
    data = load_calibration_set(make_images(smooth(40, 0)), 512, 64, 32)
    assert (len(data.crops), len(data.held_out)) == (30, 10)
    assert not {crop.tobytes() for crop in data.crops} & {crop.tobytes() for crop in data.held_out}
    assert data.warnings == ("calibrated on 30 crops of the 512 asked for: there are no more",)


def test_folders_without_labels_will_do(make_images: MakeImages) -> None:
    folder = make_images(smooth(20, 0))
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"crop{number}.png")
    assert len(load_calibration_set(folder, 16, 64, 32).crops) == 15


@pytest.mark.parametrize("count", [0, 1, 5, 15])
def test_too_few_images_fail(make_images: MakeImages, count: int) -> None:
    folder = make_images(smooth(count, 0)) if count else make_images(np.empty((0, 64, 32, 3), np.uint8))
    phrase = f"has {count} usable images of {count} .*at least 16 are needed" if count else "holds no images"
    with pytest.raises(SourceError, match=phrase):
        load_calibration_set(folder, 512, 64, 32)


def test_a_missing_folder_fails(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        load_calibration_set(tmp_path / "nowhere", 512, 64, 32)


def test_a_folder_of_other_files_fails(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(SourceError, match="holds no images"):
        load_calibration_set(tmp_path, 512, 64, 32)


def test_unreadable_images_are_left_out_and_counted(make_images: MakeImages) -> None:
    folder = make_images(smooth(20, 0))
    for path in sorted(folder.iterdir())[:3]:
        path.write_bytes(b"\x89PNG broken")
    data = load_calibration_set(folder, 16, 64, 32)
    assert len(data.crops) + len(data.held_out) == 17
    assert "3 images could not be read" in data.warnings


@pytest.mark.parametrize("kind", ["unreadable", "blank", "repeated"])
def test_images_that_teach_nothing_do_not_count(make_images: MakeImages, kind: str) -> None:
    folder = make_images(smooth(20, 0))
    for path in sorted(folder.iterdir())[1:]:
        if kind == "unreadable":
            path.write_bytes(b"no image at all")
        elif kind == "blank":
            Image.new("RGB", (32, 64), (9, 120, 30)).save(path)
        else:
            path.write_bytes(sorted(folder.iterdir())[0].read_bytes())
    with pytest.raises(SourceError, match="has 1 usable images of 20"):
        load_calibration_set(folder, 16, 64, 32)


def test_too_small_a_count_is_refused(make_images: MakeImages) -> None:
    with pytest.raises(SourceError, match="--count 5: at least 16"):
        load_calibration_set(make_images(smooth(20, 0)), 5, 64, 32)


@pytest.mark.parametrize("size", [(64, 32), (256, 128), (32, 16)])
def test_noise_is_warned_about(make_images: MakeImages, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, *size, 3), dtype=np.uint8)
    (warning,) = load_calibration_set(make_images(noise), 15 + 1, 64, 32).warnings[1:]
    assert warning.startswith("the images look like noise, not photographs")


def test_photograph_like_crops_are_not_warned_about(make_images: MakeImages) -> None:
    data = load_calibration_set(make_images(smooth(24, 0)), 16, 64, 32)
    assert data.warnings == ()


def test_neighbour_correlation_of_a_gradient_and_of_a_chessboard() -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 4, (64, 64, 3))
    board = np.broadcast_to((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[:, :, None], (64, 64, 3))
    assert neighbour_correlation(ramp) > 0.9
    assert neighbour_correlation(board) < -0.9
