"""Layout, disjointness, determinism and truth of a rendered data set."""

import csv
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpc_deploy.rendering import DatasetPlan, render_dataset
from fpc_deploy.rendering.plan import GALLERY, QUERY, TRAIN, pictures
from runtime.errors import FpcError

PLAN = DatasetPlan(identities=6, cameras=2, seed=5, train_images=3, gallery_images=2, distractors=1, junk=0.5)
NAME = re.compile(r"(-1|\d{4})_c(\d)s\d_(\d{6})_\d\d\.jpg")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_dataset(tmp_path_factory.mktemp("set") / "out", PLAN)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def truth(folder: Path) -> list[dict[str, str]]:
    with (folder / "truth.csv").open() as stream:
        return list(csv.DictReader(stream))


def identities(folder: Path) -> set[int]:
    return {int(path.name.split("_")[0]) for path in folder.iterdir()}


def test_layout_is_that_of_market(rendered: Path) -> None:
    assert {path.name for path in rendered.iterdir()} == {TRAIN, QUERY, GALLERY, "truth.csv"}
    for name in (TRAIN, QUERY, GALLERY):
        for path in (rendered / name).iterdir():
            assert NAME.fullmatch(path.name), path
            with Image.open(path) as image:
                assert (image.size, image.mode, image.format) == ((64, 128), "RGB", "JPEG")
    assert len(list((rendered / TRAIN).iterdir())) == 3 * 2 * 3
    assert len(list((rendered / QUERY).iterdir())) == 3 * 2
    assert len(list((rendered / GALLERY).iterdir())) == 3 * 2 * 2 + 3 + 2


def test_train_and_test_people_are_disjoint(rendered: Path) -> None:
    assert identities(rendered / TRAIN) == {1, 2, 3}
    assert identities(rendered / QUERY) == {4, 5, 6}
    assert identities(rendered / GALLERY) == {-1, 0, 4, 5, 6}


def test_two_workers_draw_the_same_bytes_as_one(rendered: Path, tmp_path: Path) -> None:
    again = render_dataset(tmp_path / "again", PLAN, workers=2)
    assert digest(again) == digest(rendered)


def test_another_seed_gives_other_pictures(rendered: Path, tmp_path: Path) -> None:
    small = DatasetPlan(identities=2, cameras=2, seed=6, train_images=1, gallery_images=1)
    other = render_dataset(tmp_path / "other", small)
    assert not set(digest(other).values()) & set(digest(rendered).values())


def test_truth_names_every_picture_once(rendered: Path) -> None:
    named = [(row["folder"], row["file"]) for row in truth(rendered)]
    found = {(path.parent.name, path.name) for path in rendered.rglob("*.jpg")}
    assert len(named) == len(set(named)) == len(found)
    assert set(named) == found


def test_queries_are_hidden_as_stated(rendered: Path) -> None:
    rows = [row for row in truth(rendered) if row["folder"] == QUERY]
    assert all(row["cover"] != "none" for row in rows)
    assert all(0.2 <= float(row["hidden"]) <= 0.7 for row in rows), rows


def test_names_stay_apart_in_a_large_plan() -> None:
    plan = DatasetPlan(identities=60, cameras=6, seed=1, distractors=100, junk=100)
    names = [(picture.folder, picture.name) for picture in pictures(plan)]
    assert len(names) == len(set(names))


def test_a_training_person_passes_some_of_many_cameras() -> None:
    plan = DatasetPlan(identities=50, cameras=20, seed=3, train_share=0.8, train_images=2, train_cameras=5)
    seen: dict[int, list[int]] = {}
    for picture in pictures(plan):
        if picture.folder == TRAIN:
            seen.setdefault(picture.identity, []).append(picture.camera)

    assert all(len(cameras) == 10 and len(set(cameras)) == 5 for cameras in seen.values())
    assert {camera for cameras in seen.values() for camera in cameras} == set(range(1, 21))
    assert {p.camera for p in pictures(plan) if p.folder == QUERY} == set(range(1, 21))  # test people pass them all


def test_shares_of_occlusion_are_as_stated() -> None:
    plan = DatasetPlan(identities=200, cameras=6, seed=2)
    by_folder: dict[str, list[str]] = {TRAIN: [], QUERY: [], GALLERY: []}
    for picture in pictures(plan):
        by_folder[picture.folder].append(picture.occlusion.kind)
    share = {name: np.mean([kind != "none" for kind in kinds]) for name, kinds in by_folder.items()}
    assert share[QUERY] == 1.0
    assert share[TRAIN] == pytest.approx(0.5, abs=0.05)
    assert share[GALLERY] == pytest.approx(0.1, abs=0.04)
    assert 0.4 < np.mean([kind == "person" for kind in by_folder[QUERY]]) < 0.6


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        pytest.param(DatasetPlan(identities=1), "identities", id="one identity"),
        pytest.param(DatasetPlan(cameras=4, train_cameras=5), "train-cameras", id="more cameras than there are"),
        pytest.param(DatasetPlan(cameras=1), "cameras", id="one camera"),
        pytest.param(DatasetPlan(seed=-1), "seed", id="negative seed"),
        pytest.param(DatasetPlan(train_share=1.5), "train-share", id="share above one"),
        pytest.param(DatasetPlan(height=100), "height", id="odd height"),
        pytest.param(DatasetPlan(gallery_images=0), "image counts", id="no gallery"),
    ],
)
def test_a_bad_plan_is_refused(plan: DatasetPlan, words: str, tmp_path: Path) -> None:
    with pytest.raises(FpcError, match=words):
        render_dataset(tmp_path / "out", plan)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_things_is_kept(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(FpcError, match="holds other things"):
        render_dataset(tmp_path, PLAN, overwrite=overwrite)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_overwrite_replaces_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = DatasetPlan(identities=2, cameras=2, train_images=1, gallery_images=1)
    render_dataset(out, small)
    (out / "old.txt").write_text("old")
    with pytest.raises(FpcError, match="--overwrite"):
        render_dataset(out, small)
    render_dataset(out, small, overwrite=True)
    assert {path.name for path in out.iterdir()} == {TRAIN, QUERY, GALLERY, "truth.csv"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FpcError, match="cannot write"):
        render_dataset(tmp_path / "file" / "out", PLAN)
    with pytest.raises(FpcError, match="is not a folder"):
        render_dataset(tmp_path / "file", PLAN)


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    small = DatasetPlan(identities=2, cameras=2, train_images=1, gallery_images=1)
    render_dataset(tmp_path / "out", small, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]
