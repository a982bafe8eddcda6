# SPDX-License-Identifier: Apache-2.0
import numpy as np
import torch

from pc3dcli.geometry.farthest import farthest_order
from pc3dcli.nn.point_sampling import farthest_points


def test_line():
    line = np.array([[1, 0, 0], [2, 0, 0], [3, 0, 0], [11, 0, 0]], np.float32)
    assert farthest_order(line, 4).tolist() == [0, 3, 2, 1]  # spec 6.2, test 2


def test_same_as_the_sampler_of_the_networks():
    rng = np.random.default_rng(0)
    for scale in (1.0, 0.05):  # the second has many points near the origin, which are skipped
        clouds = (rng.normal(size=(3, 300, 3)) * scale).astype(np.float32)
        clouds[1, 40:80] = clouds[1, :40]
        expected = farthest_points(torch.from_numpy(clouds), 120).numpy()
        assert np.array_equal(np.stack([farthest_order(cloud, 120) for cloud in clouds]), expected)


def test_nothing_left_to_pick():
    cloud = np.zeros((5, 3), np.float32)
    assert farthest_order(cloud, 4).tolist() == [0, 0, 0, 0]


def test_prefix_and_permutation():
    cloud = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32) + 3
    whole = farthest_order(cloud, 60)
    assert np.array_equal(farthest_order(cloud, 20), whole[:20]) and sorted(whole) == list(range(60))
