import logging
from pathlib import Path

import pytest

from calibration.protocol import Labels, relate
from fpc_deploy.evaluation.crops import read_crops, warn_of_strange_cameras
from fpc_deploy.evaluation.datasets import GALLERY_CAMERA, QUERY_CAMERA, read_test_set
from runtime.bundle import Cameras
from runtime.errors import SourceError
from tests.fpc_deploy.evaluation.people import draw_person


def test_market_1501(market: Path) -> None:
    found = read_test_set(market)
    assert (found.name, len(found.query), len(found.gallery), found.has_cameras) == ("striped", 24, 49, True)
    assert {image.camera for image in found.query} == {"c1", "c2", "c3"}
    assert {image.identity for image in found.gallery} - {image.identity for image in found.query} == {"0000"}


@pytest.mark.parametrize(
    ("query", "gallery", "name", "camera"),
    [
        pytest.param("query", "bounding_box_test", "{:04d}_c2_f0046182.jpg", "c2", id="DukeMTMC-reID"),
        pytest.param("occluded_body_images", "whole_body_images", "{0:03d}/{0:03d}_01.tif", None, id="Occluded-REID"),
        pytest.param("partial_body_images", "whole_body_images", "{:03d}_001.jpg", None, id="Partial-REID"),
        pytest.param(
            "test/occluded_body_images", "test/whole_body_images", "{0:04d}/{0:04d}_c2_f01.jpg", "c2", id="P-DukeMTMC"
        ),
    ],
)
def test_layouts(tmp_path: Path, query: str, gallery: str, name: str, camera: str | None) -> None:
    for folder in (query, gallery):
        for identity in (3, 17):
            draw_person(tmp_path / folder / name.format(identity), identity, 2, 0)
    found = read_test_set(tmp_path)

    assert [int(image.identity) for image in found.query] == [3, 17]
    assert [int(image.identity) for image in found.gallery] == [3, 17]
    assert {image.camera for image in found.query} == {camera or QUERY_CAMERA}
    assert {image.camera for image in found.gallery} == {camera or GALLERY_CAMERA}
    assert all(query in str(image.path) for image in found.query)


def test_p_dukemtmc_is_scored_by_sides_and_encoded_by_cameras(tmp_path: Path) -> None:
    """An image of the query's person by the query's camera counts, as in published figures."""
    for folder in ("test/occluded_body_images", "test/whole_body_images"):
        draw_person(tmp_path / folder / "0003/0003_c2_f01.jpg", 3, 2, 0)
    found = read_test_set(tmp_path)
    assert found.query[0].camera == found.gallery[0].camera == "c2"
    labels = Labels.of([("3", "c2")])
    relations = relate(found.score_query(labels), found.score_gallery(labels))
    assert relations.matches.tolist() == [[True]]
    assert not relate(labels, labels).matches.any()  # which another data set would leave out


def test_partial_reid_is_not_taken_for_occluded_reid(tmp_path: Path) -> None:
    """It comes with occluded images too, which are no queries of its protocol."""
    for folder in ("partial_body_images", "occluded_body_images", "whole_body_images"):
        draw_person(tmp_path / folder / "001_001.jpg", 1, 1, 0)
    assert read_test_set(tmp_path).query[0].path.parent.name == "partial_body_images"


def test_an_unknown_layout_is_told_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "probe").mkdir()
    with pytest.raises(SourceError) as caught:
        read_test_set(tmp_path)
    for part in (
        "query and bounding_box_test",
        "partial_body_images",
        "test/whole_body_images",
        "found the folders probe",
    ):
        assert part in str(caught.value)


def test_an_empty_query_folder(tmp_path: Path) -> None:
    (tmp_path / "query").mkdir()
    draw_person(tmp_path / "bounding_box_test" / "0001_c1_1.png", 1, 1, 0)
    with pytest.raises(SourceError, match="query labels no image"):
        read_test_set(tmp_path)


def test_a_file_or_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a folder"):
        read_test_set(tmp_path / "absent")


def test_cameras_named_for_some_images_only(tmp_path: Path) -> None:
    draw_person(tmp_path / "occluded_body_images" / "1" / "0001_c1_1.png", 1, 1, 0)
    draw_person(tmp_path / "whole_body_images" / "1" / "a.png", 1, 1, 1)
    with pytest.raises(SourceError, match=r"a\.png names no camera"):
        read_test_set(tmp_path)


def test_broken_images_are_named_and_left_out(market: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = read_test_set(market).query
    broken = tmp_path / "0001_c1_broken.png"
    broken.write_bytes(images[0].path.read_bytes()[:200])
    mixed = [*images[:3], images[0].__class__(broken, "1", "c1"), *images[3:5]]

    parts = list(read_crops(mixed, (64, 32), batch=2))
    assert [done for done, _ in parts] == [2, 4, 6]
    assert [image for _, crops in parts for image in crops.images] == list(images[:5])
    assert sum(len(crops.pixels) for _, crops in parts) == 5
    assert f"{broken} is damaged or cut short" in caplog.text


@pytest.mark.parametrize(
    ("cameras", "expected"),
    [
        pytest.param(Cameras(trained=2, names=("c1", "c2")), "cameras c3 of striped are outside", id="one-too-many"),
        pytest.param(Cameras(trained=3), "does not name its 3 cameras", id="no-names"),
        pytest.param(Cameras(trained=3, names=("c1", "c2", "c3")), "", id="all-known"),
        pytest.param(Cameras(trained=0), "", id="model-without-cameras"),
    ],
)
def test_cameras_outside_the_table_are_named(
    market: Path, cameras: Cameras, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_strange_cameras(cameras, read_test_set(market).query, "striped")
    assert expected in caplog.text
    assert bool(expected) == bool(caplog.text)
