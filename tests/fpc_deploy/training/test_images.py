"""Reading a training set: what it holds and what is said of sets that cannot be trained on."""

import logging
from pathlib import Path

import pytest
import torch

from fpc_deploy.training.images import read_test_images, read_training_images
from runtime.errors import FpcError, ImageError, SourceError
from tests.fpc_deploy.training.conftest import draw_picture, write_dataset


def test_images_are_bytes_with_numbers_for_names(dataset: Path) -> None:
    images = read_training_images(dataset, 24, 12)

    assert (images.crops.shape, images.crops.dtype) == ((24, 24, 12, 3), torch.uint8)
    assert images.identity_names == ("0001", "0002", "0003", "0004", "0005", "0006")
    assert images.camera_names == ("c1", "c2")
    assert images.identities.tolist() == [person for person in range(6) for _ in range(4)]
    assert set(images.cameras.tolist()) == {0, 1}


def test_distractors_and_junk_are_nobody_to_learn(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set") / "bounding_box_train"
    draw_picture(90, 1).save(folder / "0000_c1s1_000001_00.png")
    draw_picture(91, 1).save(folder / "-1_c1s1_000001_00.png")

    assert len(read_training_images(folder.parent, 32, 16)) == 24


def test_a_set_without_queries_has_no_test(tmp_path: Path) -> None:
    assert read_test_images(tmp_path, 32, 16) is None
    for name in ("query", "bounding_box_test"):  # as a set rendered for training only has them
        (tmp_path / name).mkdir()
    assert read_test_images(tmp_path, 32, 16) is None


def test_one_image_of_a_person_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_dataset(tmp_path / "set") / "bounding_box_train"
    draw_picture(77, 1).save(folder / "0077_c1s1_000001_00.png")

    with caplog.at_level(logging.WARNING):
        read_training_images(folder.parent, 32, 16)

    assert "1 identities have one image (0077)" in caplog.text


@pytest.mark.parametrize(
    ("identities", "images", "message"),
    [(1, 4, "1 identities"), (3, 1, "one image of each identity")],
    ids=["one person", "nobody twice"],
)
def test_sets_that_teach_nothing(tmp_path: Path, identities: int, images: int, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_training_images(write_dataset(tmp_path / "set", identities, images), 32, 16)


def test_no_training_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no folder bounding_box_train"):
        read_training_images(tmp_path, 32, 16)


def test_an_empty_training_folder(tmp_path: Path) -> None:
    (tmp_path / "bounding_box_train").mkdir()

    with pytest.raises(FpcError, match="labels no image"):
        read_training_images(tmp_path, 32, 16)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set") / "bounding_box_train"
    (folder / "0001_c1s1_000009_00.jpg").write_bytes(b"\xff\xd8\xff broken")

    with pytest.raises(ImageError, match=r"0001_c1s1_000009_00\.jpg"):
        read_training_images(folder.parent, 32, 16)
