# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.geometry.heat import heat_bounds, interpolate_heat, shown_heat


def test_weights_by_hand():
    centers = np.array([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0], [9, 9, 9]])
    heat = interpolate_heat(np.zeros((1, 3)), centers, np.array([3.0, 6.0, 0.0, 100.0]))
    assert heat.tolist() == pytest.approx([3 * 2 / 3 + 6 / 6])  # squared distances 1, 4, 4
    assert heat.dtype == np.float32


def test_a_center_has_its_own_score():
    rng = np.random.default_rng(0)
    centers, scores = rng.normal(size=(9, 3)), rng.normal(size=9)
    np.testing.assert_allclose(interpolate_heat(centers, centers, scores), scores, atol=1e-4)


def test_it_is_that_of_the_networks():
    import torch

    from pc3dcli.nn.point_sampling import interpolate3

    rng = np.random.default_rng(1)
    xyz, centers, scores = rng.normal(size=(50, 3)), rng.normal(size=(8, 3)), rng.normal(size=8)
    tensors = [torch.from_numpy(values.astype(np.float32))[None] for values in (xyz, centers, scores[:, None])]
    np.testing.assert_allclose(interpolate_heat(xyz, centers, scores), interpolate3(*tensors)[0, :, 0], atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_centers(count):
    heat = interpolate_heat(np.random.default_rng(2).normal(size=(4, 3)), np.zeros((count, 3)), np.full(count, 2.0))
    assert heat.tolist() == [2.0] * 4


def test_shown_range():
    shown = shown_heat(np.linspace(-5, 5, 101))
    assert shown[0] == 0
    assert shown[-1] == 1
    assert shown[50] == pytest.approx(0.5)
    assert shown_heat(np.ones(3)).tolist() == [0.5] * 3
    assert heat_bounds(np.linspace(-5, 5, 101)) == pytest.approx((-4.8, 4.8))
