# SPDX-License-Identifier: Apache-2.0
import io

import numpy as np
import pytest

from pc3dcli.worlds.shapes import CLASSES, DETAILS, make_shapes, write_shapes


@pytest.fixture(scope="module")
def shapes():
    return make_shapes(240, 3, 512)


def test_sizes_classes_and_parts(shapes):
    assert shapes.points.shape == (240, 512, 3) and shapes.points.dtype == np.float32
    assert len(CLASSES) == 12 and np.bincount(shapes.label).tolist() == [20] * 12
    assert not np.array_equal(shapes.label, np.sort(shapes.label))
    assert (shapes.part.sum(axis=1) == round(0.18 * 512)).all()
    assert shapes.part[:, :50].mean() == pytest.approx(0.18, abs=0.03)  # mixed, not in two blocks


def test_shapes_are_normalised(shapes):
    assert np.abs(shapes.points.mean(axis=1)).max() < 1e-6
    assert np.linalg.norm(shapes.points, axis=2).max(axis=1) == pytest.approx(1, abs=1e-6)


def test_seeds():
    first, again, other = make_shapes(12, 0, 64), make_shapes(12, 0, 64), make_shapes(12, 1, 64)
    assert np.array_equal(first.points, again.points) and np.array_equal(first.part, again.part)
    assert not np.array_equal(first.points, other.points)


def test_details_stand_on_top(shapes):
    for points, part in zip(shapes.points, shapes.part, strict=True):
        detail, base = points[part == 1], points[part == 0]
        assert detail[:, 2].mean() > np.quantile(base[:, 2], 0.8)


def test_surfaces():
    """Noise-free distances of the points to the surfaces they were drawn on, and the share of each of a box's faces."""
    from pc3dcli.worlds import shapes as world

    rng = np.random.default_rng(0)
    ring = world._on_half_torus(3, 20_000, rng)
    distance = np.hypot(np.hypot(ring[..., 0], ring[..., 2]) - 0.22, ring[..., 1])
    assert np.allclose(distance, 0.05) and ring[..., 2].min() > -1e-9
    outer = (np.hypot(ring[..., 0], ring[..., 2]) > 0.22).mean()  # (pi R + 2 r) / (2 pi R) of the area
    assert outer == pytest.approx(0.5 + 0.05 / (np.pi * 0.22), abs=0.01)
    box = world._on_box(np.array([[1.0, 2.0, 4.0]]), 40_000, rng)[0]
    shares = [(np.abs(np.abs(box[:, axis]) - size / 2) < 1e-12).mean() for axis, size in enumerate((1, 2, 4))]
    assert shares == pytest.approx([8 / 14, 4 / 14, 2 / 14], abs=0.01)
    tin = world._on_cylinder(np.array([0.5]), np.array([1.0]), 40_000, rng)[0]
    assert (np.abs(tin[:, 2]) == 0.5).mean() == pytest.approx(1 / 3, abs=0.01)
    cone = world._on_cone(1, 0.18, 0.35, 20_000, rng)[0]
    assert np.allclose(np.hypot(cone[:, 0], cone[:, 1]) / 0.18 + cone[:, 2] / 0.35, 1)
    assert (cone[:, 2] < 0.35 / 2).mean() == pytest.approx(0.75, abs=0.01)


def test_classes_differ_by_their_details(shapes):
    """Lateral extent of the detail points: pegs are the widest, cones the narrowest."""
    width = np.array(
        [np.ptp(points[part == 1, :2], axis=0).max() for points, part in zip(shapes.points, shapes.part, strict=True)]
    )
    mean = [width[shapes.label % 4 == kind].mean() for kind in range(4)]
    assert DETAILS[int(np.argmin(mean))] == "fin" or DETAILS[int(np.argmin(mean))] == "cone"
    assert min(mean[0], mean[3]) > max(mean[1], mean[2])


def test_written_bytes_repeat():
    first, again = io.BytesIO(), io.BytesIO()
    write_shapes(first, make_shapes(12, 0, 32))
    write_shapes(again, make_shapes(12, 0, 32))
    assert first.getvalue() == again.getvalue()
