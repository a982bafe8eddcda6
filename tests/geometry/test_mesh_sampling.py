# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.geometry.mesh_sampling import sample_surface

XYZ = np.array([[0, 0, 0], [4, 0, 0], [4, 1, 0], [0, 1, 0], [0, 0, 1], [7, 7, 7]], np.float32)


def test_areas_and_uniformity():
    faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 4], [5, 5, 5]])  # 2 + 2 + 0.5 and a triangle without area
    points = sample_surface(XYZ, faces, 40_000, np.random.default_rng(0))
    is_flat = points[:, 2] == 0
    assert is_flat.mean() == pytest.approx(4 / 4.5, abs=0.01)
    flat = points[is_flat]
    assert np.histogram2d(flat[:, 0], flat[:, 1], bins=(8, 2), range=((0, 4), (0, 1)))[0] / len(flat) == pytest.approx(
        1 / 16, abs=0.005
    )
    wall = points[~is_flat]
    assert (wall[:, 0] == 0).all() and (wall[:, 1] + wall[:, 2] <= 1 + 1e-12).all()
    assert wall[:, 1].mean() == pytest.approx(1 / 3, abs=0.02)


def test_seeds():
    faces = np.array([[0, 1, 2]])
    first, again, other = (sample_surface(XYZ, faces, 9, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_last_triangle_without_area_is_never_picked():
    class Last:
        def random(self, size):
            return np.full(size, np.nextafter(1, 0))

    points = sample_surface(XYZ, np.array([[0, 1, 2], [5, 5, 5]]), 3, Last())
    assert (points[:, 2] == 0).all()


@pytest.mark.parametrize("faces", [[[0, 0, 0]], [[0, 1, 1]], np.zeros((0, 3), int)])
def test_no_area(faces):
    with pytest.raises(ValueError, match="no area"):
        sample_surface(XYZ, np.array(faces), 3, np.random.default_rng(0))


def test_not_finite():
    xyz = np.array([[0, 0, 0], [1e200, 0, 0], [0, 1e200, 0]])
    with pytest.raises(ValueError, match="no area"):
        sample_surface(xyz, np.array([[0, 1, 2]]), 3, np.random.default_rng(0))
