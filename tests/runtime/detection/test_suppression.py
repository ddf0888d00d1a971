"""Non-maximum suppression."""

import numpy as np

from runtime.detection.suppression import intersection_over_union, suppress


def test_suppression() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 4], [20, 20, 30, 30], [2, 0, 12, 10]], np.float32)
    overlap = intersection_over_union(boxes)
    np.testing.assert_allclose(overlap[0], [1, 9 / 11, 0.4, 0, 8 / 12], rtol=1e-6)
    assert suppress(boxes, np.array([0.8, 0.9, 0.7, 0.6, 0.5], np.float32), 0.45).tolist() == [1, 2, 3]
    assert suppress(boxes[:0], np.zeros(0, np.float32), 0.45).tolist() == []
