# SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.metrics.rotated_iou import intersection_area

_spec = importlib.util.spec_from_file_location("kitti_oracle", Path(__file__).with_name("kitti_oracle.py"))
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)


def boxes(rng, count):
    return np.column_stack([rng.normal(0, 2, (count, 2)), rng.uniform(0.1, 5, (count, 2)), rng.uniform(-4, 4, count)])


@pytest.mark.parametrize(
    ("a", "b", "area"),
    [
        ((0, 0, 4, 2, 0.3), (0, 0, 4, 2, 0.3), 8),  # equal
        ((0, 0, 4, 2, 0.3), (0, 0, 2, 1, 0.9), 2),  # inside
        ((0, 0, 4, 2, 0), (0, 0, 4, 2, np.pi / 2), 4),  # a cross: the union is no convex polygon
        ((0, 0, 4, 2, 0), (4, 0, 4, 2, 0), 0),  # a shared edge
        ((0, 0, 2, 2, 0), (2, 2, 2, 2, 0), 0),  # a shared corner
        ((0, 0, 2, 2, 0), (9, 9, 2, 2, 1), 0),
        ((0, 0, 2, 2, 0), (0, 0, 2, 2, np.pi / 4), 8 * (np.sqrt(2) - 1)),  # a regular octagon
        ((0, 0, -4, 2, 0), (0, 0, 4, -2, 0), 8),  # signs do not matter
        ((0, 0, 0, 0, 0), (0, 0, 4, 2, 0), 0),
    ],
)
def test_known_areas(a, b, area):
    pair = np.array([a], float), np.array([b], float)
    assert intersection_area(*pair)[0] == pytest.approx(area, abs=1e-14)
    assert intersection_area(*reversed(pair))[0] == pytest.approx(area, abs=1e-14)


def test_aligned_boxes_of_binary_numbers_are_exact():
    a, b = np.array([[1.5, 7, 4.25, 2, 0]]), np.array([[2.25, 7, 4.25, 2, 0]])
    assert intersection_area(a, b)[0] == 7.0  # and so 7 / (8.5 + 8.5 - 7) is the double 0.7, not above it


def test_equals_clipping():
    rng = np.random.default_rng(0)
    a, b = boxes(rng, 900), boxes(rng, 900)
    b[:100] = a[:100]
    b[100:200] = a[100:200] + rng.normal(0, 1e-9, (100, 5))
    b[200:300] = a[200:300] + rng.normal(0, 1e-16, (100, 5))
    b[300:400, 4] = a[300:400, 4] + np.pi / 2 * rng.integers(0, 4, 100)
    expected = [oracle.clipped_area(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(intersection_area(a, b), expected, rtol=0, atol=1e-13)


def test_moving_both_changes_nothing():
    rng = np.random.default_rng(1)
    a, b = boxes(rng, 200), boxes(rng, 200)
    turn = np.array([[np.cos(0.7), np.sin(0.7)], [-np.sin(0.7), np.cos(0.7)]])
    moved = [np.column_stack([box[:, :2] @ turn + [30, -5], box[:, 2:4], box[:, 4] + 0.7]) for box in (a, b)]
    np.testing.assert_allclose(intersection_area(*moved), intersection_area(a, b), atol=1e-12)


def test_no_pairs():
    assert intersection_area(np.zeros((0, 5)), np.zeros((0, 5))).shape == (0,)
