# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import convolve

from pc3dcli.datasets import scene_augment
from pc3dcli.datasets.scene_augment import augmented_colors, augmented_points, elastic_distortion, normalized_colors


def points(num=300, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).uniform([0, 0, 0], [6, 4, 2.5], (num, 3))


@pytest.mark.parametrize(("granularity", "magnitude"), [(0.2, 0.4), (0.8, 1.6)])
def test_elastic_distortion_equals_the_slow_definition(granularity, magnitude):
    """Noise on a grid one node larger on each side, blurred twice along each axis, interpolated linearly."""
    xyz = points()
    found = elastic_distortion(xyz, granularity, magnitude, np.random.default_rng(7))
    low = xyz.min(0)
    dims = ((xyz - low).max(0) // granularity).astype(int) + 3
    noise = np.random.default_rng(7).standard_normal((*dims, 3))
    for _ in range(2):
        for axis in range(3):
            shape = [1, 1, 1, 1]
            shape[axis] = 3
            noise = convolve(noise, np.ones(shape) / 3, mode="constant", cval=0)
    axes = [low[i] - granularity + granularity * np.arange(dims[i]) for i in range(3)]
    expected = xyz + magnitude * RegularGridInterpolator(axes, noise, bounds_error=False, fill_value=0)(xyz)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_huge_scene_is_bent_with_bounded_memory(monkeypatch):
    monkeypatch.setattr(scene_augment, "MAX_NODES", 1000)
    xyz = 1000 * points()
    assert np.isfinite(elastic_distortion(xyz, 0.2, 0.4, np.random.default_rng(0))).all()


def test_distances_change_by_a_tenth_and_bending_at_most(monkeypatch):
    monkeypatch.setattr(scene_augment, "ELASTIC_SHARE", 0.0)
    xyz = points()
    reach = np.linalg.norm(xyz[:, None] - xyz[None], axis=2)
    for seed in range(20):
        moved = augmented_points(xyz, np.random.default_rng(seed))
        ratio = np.linalg.norm(moved[:, None] - moved[None], axis=2)[reach > 0] / reach[reach > 0]
        assert ratio.min() >= 0.9 - 1e-9 and ratio.max() <= 1.1 + 1e-9


def test_up_stays_up_within_seven_degrees_a_side(monkeypatch):
    monkeypatch.setattr(scene_augment, "ELASTIC_SHARE", 0.0)
    up = np.array([[0.0, 0, 0], [0, 0, 1.0], [1.0, 0, 0], [0, 1.0, 0]])
    turns = []
    for seed in range(300):
        moved = augmented_points(up, np.random.default_rng(seed))
        axis = moved[1] - moved[0]
        assert axis[2] / np.linalg.norm(axis) > np.cos(0.19)
        level = moved[2] - moved[0]
        turns.append(np.arctan2(level[1], level[0]))
    assert np.ptp(turns) > 6  # about z all around


def test_colours_stay_in_range_and_always_change():
    rgb = np.random.default_rng(0).integers(0, 256, (100, 3)).astype(np.uint8)
    found = [augmented_colors(rgb, np.random.default_rng(seed)) for seed in range(200)]
    assert all(one.min() >= 0 and one.max() <= 255 for one in found)
    assert all(not np.array_equal(one, rgb) for one in found)
    shifts = np.array([(one - rgb).mean(axis=0) for one in found])
    assert 60 < np.ptp(shifts) < 250 and np.abs(shifts - shifts.mean(axis=1, keepdims=True)).max() < 60
    black = augmented_colors(np.zeros((5, 3), np.uint8), np.random.default_rng(3))
    assert (black == black[0]).all()  # all points alike


def test_normalisation_is_that_of_imagenet():
    rgb = np.array([[255, 0, 127.5]])
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.5 - 0.406) / 0.225]
    np.testing.assert_allclose(normalized_colors(rgb, 1)[0], expected, rtol=1e-6)
    assert normalized_colors(None, 4).tolist() == [[0, 0, 0]] * 4
