"""Fitting frames into the inputs of detectors."""

from collections.abc import Callable

import numpy as np
import pytest

from runtime.detection.letterbox import Letterbox, centre_letterbox, corner_letterbox, fit


def test_letterboxes_fill_with_grey_where_their_family_does() -> None:
    image = np.full((100, 200, 3), 255, np.uint8)
    corner = fit(image, corner_letterbox((100, 200), (64, 64)), (64, 64))
    centre = fit(image, centre_letterbox((100, 200), (64, 64)), (64, 64))
    assert np.unique(corner[:32]).tolist() == np.unique(centre[16:48]).tolist() == [255]
    assert np.unique(corner[32:]).tolist() == np.unique(np.delete(centre, slice(16, 48), axis=0)).tolist() == [114]


def test_shrinking_blends_the_four_neighbours_only() -> None:
    column = np.arange(0, 250, 10, dtype=np.uint8)[:24]
    image = np.repeat(np.tile(column, (24, 1))[:, :, None], 3, axis=2)
    shrunk = fit(image, corner_letterbox((24, 24), (8, 8)), (8, 8))
    # Output pixel i looks at 3 * (i + 0.5) - 0.5 = 3 i + 1: the middle one of three, not their mean of 5.
    np.testing.assert_array_equal(shrunk[0, :, 0], column[1::3])
    image[:, 0::3] = 255
    assert fit(image, corner_letterbox((24, 24), (8, 8)), (8, 8))[0, 0, 0] == column[1]


@pytest.mark.parametrize("letterbox", [corner_letterbox, centre_letterbox])
@pytest.mark.parametrize("frame", [(432, 768), (768, 432), (1, 5000), (416, 416), (33, 47), (5, 5)])
def test_corners_of_the_frame_come_back_to_where_they_were(
    letterbox: Callable[[tuple[int, int], tuple[int, int]], Letterbox], frame: tuple[int, int]
) -> None:
    place = letterbox(frame, (416, 416))
    assert 0 < place.height <= 416
    assert 0 < place.width <= 416
    inside = np.array([[place.left, place.top, place.left + place.width, place.top + place.height]], np.float32)
    expected = [[0, 0, frame[1], frame[0]]]
    # Sizes are whole input pixels: the far corner may be off by one of them.
    np.testing.assert_allclose(place.to_frame(inside), expected, atol=1 / place.scale + 1e-3)
    assert fit(np.zeros((*frame, 3), np.uint8), place, (416, 416)).shape == (416, 416, 3)
