# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.geometry.voxels import voxel_centers, voxel_downsample, voxel_groups, voxel_keys, voxel_offset, voxel_reach


def test_keys_agree_exactly_when_cells_agree():
    points = np.random.default_rng(0).uniform(-1, 1, (300, 3))
    keys, cells = voxel_keys(points, 0.3), np.floor(points / 0.3)
    same_cell = (cells[:, None] == cells[None]).all(axis=2)
    assert ((keys[:, None] == keys[None]) == same_cell).all()
    assert np.abs(voxel_centers(keys, 0.3) - points).max() <= 0.15 + 1e-6


def test_offsets_move_whole_cells_in_any_direction():
    points = np.random.default_rng(1).uniform(-1, 1, (50, 3))
    for step in [(1, 0, 0), (0, -1, 0), (-2, 3, -1)]:
        moved = voxel_keys(points + np.array(step) * 0.25, 0.25)
        assert (moved == voxel_keys(points, 0.25) + voxel_offset(*step)).all()


def test_downsampling_averages_points_and_values_of_a_voxel():
    points = np.array([[0.1, 0.1, 0.1], [5.0, 5, 5], [0.3, 0.3, 0.3]], np.float32)
    value = np.array([2, 7, 4])
    means, averaged = voxel_downsample(points, 1.0, value)
    assert means.dtype == np.float32
    assert np.allclose(means, [[0.2, 0.2, 0.2], [5, 5, 5]])
    assert averaged.tolist() == [3, 7]
    keys, group, counts = voxel_groups(points, 1.0)
    assert group.tolist() == [0, 1, 0]
    assert counts.tolist() == [2, 1]
    assert (np.sort(keys) == keys).all()


def test_downsampling_ignores_the_order_of_points():
    rng = np.random.default_rng(2)
    points = rng.normal(size=(500, 3))
    shuffled = rng.permutation(500)
    assert np.allclose(voxel_downsample(points, 0.2)[0], voxel_downsample(points[shuffled], 0.2)[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9])
def test_points_without_a_voxel_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        voxel_keys(np.array([[0.0, bad, 0]]), 0.02)


def test_reach_is_as_far_as_keys_go():
    far = np.array([[voxel_reach(0.02), 0, -voxel_reach(0.02)]])
    assert voxel_keys(far, 0.02).shape == (1,)
    with pytest.raises(ValueError, match="origin"):
        voxel_keys(far + 0.04, 0.02)


def test_no_points_give_no_voxels():
    assert len(voxel_downsample(np.zeros((0, 3)), 0.1)[0]) == 0
