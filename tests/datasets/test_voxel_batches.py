# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.datasets.scene_augment import normalized_colors
from pc3dcli.datasets.voxel_batches import LabelledCloud, LabelledClouds, VoxelConfig, VoxelData, voxelized
from pc3dcli.errors import FormatError, InputError

PLAIN = VoxelConfig(voxel=0.5, augment=False, min_points=1)


def some_cloud(num=400, seed=0, colors=True) -> LabelledCloud:
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(0, 6, (num, 3)).astype(np.float32)
    left, low = np.flatnonzero(xyz[:, 0] < 3), np.flatnonzero(xyz[:, 2] < 2)
    rgb = rng.integers(0, 256, (num, 3)).astype(np.uint8) if colors else None
    return LabelledCloud(xyz, rgb, (left, low), (np.arange(10), np.zeros(0, np.int64)))


def points_of(batch, cloud: LabelledCloud) -> np.ndarray:
    """Return which point of a cloud each voxel of a batch of it stands for, by colour."""
    rows = {tuple(row): point for point, row in enumerate(normalized_colors(cloud.rgb, 0).tolist())}
    return np.array([rows[tuple(row)] for row in batch.features.tolist()])


def data_of(*clouds: LabelledCloud, config=PLAIN) -> VoxelData:
    return VoxelData(LabelledClouds(tuple(f"s{i}" for i in range(len(clouds))), clouds.__getitem__), config)


def test_voxels_are_the_cells_of_the_grid_in_order():
    xyz = np.array([[1.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.4, 0.2, 0.1], [np.nan, 0, 0], [0.6, 0.2, 0.3]])
    voxels = voxelized(xyz, 0.5)
    assert voxels.coords.tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]
    assert voxels.point.tolist() == [1, 2, 0]  # the first of its points in file order
    assert voxels.of_point.tolist() == [2, 0, 1, -1, 1]


@pytest.mark.parametrize("shift", [0.0, -7.3, 12345.6])
def test_where_a_cloud_lies_changes_nothing(shift):
    xyz = np.random.default_rng(0).uniform(0, 6, (500, 3))
    first, second = voxelized(xyz, 0.5), voxelized(xyz + shift, 0.5)
    assert np.array_equal(first.coords, second.coords) and np.array_equal(first.of_point, second.of_point)
    assert first.coords.min(axis=0).tolist() == [0, 0, 0]


def test_planes_at_multiples_of_a_voxel_are_one_layer():
    rng = np.random.default_rng(0)
    floor = np.c_[rng.uniform(0, 6, (5000, 2)), rng.normal(0, 1e-6, 5000)]
    assert np.unique(voxelized(np.concatenate((floor, floor + [0, 0, 3])), 0.5).coords[:, 2]).tolist() == [0, 6]


def test_a_sample_loses_voxels_up_to_the_wanted_share():
    cloud = some_cloud()
    whole = len(data_of(cloud).batch([0]).coords)
    config = VoxelConfig(voxel=0.5, augment=False, min_points=1, thin=0.5)
    shares = [len(data_of(cloud, config=config).batch([0], epoch=epoch).coords) / whole for epoch in range(40)]
    assert 0.4 < min(shares) < 0.6 and max(shares) > 0.95 and abs(np.mean(shares) - 0.75) < 0.1
    batch = data_of(cloud, config=config).batch([0])
    assert batch.instances.max() < len(batch.coords) and len(batch.xyz) == len(batch.features) == len(batch.coords)


def test_order_of_points_changes_voxels_in_no_way_but_their_points():
    xyz = np.random.default_rng(0).uniform(0, 6, (500, 3))
    order = np.random.default_rng(1).permutation(500)
    first, second = voxelized(xyz, 0.5), voxelized(xyz[order], 0.5)
    assert np.array_equal(first.coords, second.coords)
    assert np.array_equal(first.of_point[order], second.of_point)


def test_far_clouds_are_refused_where_their_numbers_are_too_coarse():
    near = np.random.default_rng(0).uniform(0, 1, (50, 3))
    far = near + 1e6
    assert len(voxelized(far, 0.02).coords) > 10  # doubles are fine enough
    with pytest.raises(InputError, match=r"1e\+06 m are 0\.062 m apart as float32, too coarse"):
        voxelized(far.astype(np.float32), 0.02)
    with pytest.raises(InputError, match="too coarse"):
        data_of(LabelledCloud(far.astype(np.float32), None), config=VoxelConfig(voxel=0.02)).batch([0])


def test_a_cloud_that_spans_too_much_is_refused():
    with pytest.raises(InputError, match="its points span"):
        voxelized(np.array([[0.0, 0, 0], [1e6, 0, 0]]), 0.02)


@pytest.mark.parametrize("xyz", [np.zeros((0, 3)), np.full((4, 3), np.nan)])
def test_no_point_is_refused_with_the_name_of_the_scene(xyz):
    with pytest.raises(FormatError, match="s0: its cloud has no point"):
        data_of(LabelledCloud(xyz, None)).batch([0])


def test_a_batch_holds_what_the_cloud_says():
    cloud = some_cloud()
    batch = data_of(cloud).batch([0])
    voxels = voxelized(cloud.xyz.astype(np.float64), 0.5)
    assert batch.ids == ["s0"] and batch.coords[:, 1:].tolist() == voxels.coords.tolist()
    low = cloud.xyz[voxels.point].min(axis=0)  # far from the origin single precision would be coarse
    np.testing.assert_allclose(batch.xyz, cloud.xyz[voxels.point] - low, atol=1e-6)
    for number, index in enumerate(cloud.instances):
        found = batch.instances[1, batch.instances[0] == number].tolist()
        assert sorted(found) == np.flatnonzero(np.isin(voxels.point, index)).tolist()
    unsure = batch.ignored[1, batch.ignored[0] == 0].tolist()
    assert sorted(unsure) == np.flatnonzero(np.isin(voxels.point, np.arange(10))).tolist() and 1 not in batch.ignored[0]
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(batch.features, (cloud.rgb[voxels.point] / 255 - mean) / deviation, rtol=1e-5, atol=1e-6)


def test_scenes_of_a_batch_follow_each_other():
    first, second = some_cloud(seed=0), some_cloud(seed=1, num=300)
    both = data_of(first, second).batch([1, 0])
    singles = [data_of(first, second).batch([index]) for index in (1, 0)]
    count = len(singles[0].coords)
    assert both.scene.tolist() == [0, 0, 1, 1] and both.ids == ["s1", "s0"]
    assert (both.coords[:count, 0] == 0).all() and (both.coords[count:, 0] == 1).all()
    assert both.coords[count:, 1:].tolist() == singles[1].coords[:, 1:].tolist()
    later = both.instances[:, both.instances[0] >= 2]
    assert (later[0] - 2).tolist() == singles[1].instances[0].tolist()
    assert (later[1] - count).tolist() == singles[1].instances[1].tolist()


def test_small_instances_are_no_targets():
    cloud = some_cloud()
    sizes = [len(index) for index in cloud.instances]
    batch = data_of(cloud, config=VoxelConfig(voxel=0.5, augment=False, min_points=min(sizes) + 1)).batch([0])
    assert len(batch.scene) == 1


def test_a_scene_follows_from_seed_epoch_and_index_alone():
    clouds = [some_cloud(seed=k) for k in range(3)]
    config = VoxelConfig(voxel=0.5, min_points=1)
    alone = data_of(*clouds, config=config).batch([2], seed=5, epoch=1)
    data = data_of(*clouds, config=config)
    data.batch([0, 1], seed=5, epoch=0)
    together = data.batch([0, 2], seed=5, epoch=1)
    count = int((together.coords[:, 0] == 0).sum())
    assert together.xyz[count:].tolist() == alone.xyz.tolist()
    for other in (data.batch([2], seed=6, epoch=1), data.batch([2], seed=5, epoch=2)):
        assert other.xyz.shape != alone.xyz.shape or not np.array_equal(other.xyz, alone.xyz)


def test_a_large_scene_is_cut_to_a_neighbourhood():
    cloud = some_cloud(num=4000)
    config = VoxelConfig(voxel=0.5, augment=False, min_points=1, max_voxels=200)
    batch = data_of(cloud, config=config).batch([0])
    assert len(batch.coords) == 200 and batch.instances[1].max() < 200
    whole = voxelized(cloud.xyz.astype(np.float64), 0.5).coords
    kept = batch.coords[:, 1:3].numpy()

    def is_center(c):
        return np.square(kept - c[:2]).sum(1).max() <= np.sort(np.square(whole[:, :2] - c[:2]).sum(1))[199]

    assert any(is_center(c) for c in whole)  # of some voxel these are the nearest
    for number, index in enumerate(cloud.instances):
        is_in = np.isin(points_of(batch, cloud), index)
        found = batch.instances[1, batch.instances[0] == number]
        assert sorted(found.tolist()) == np.flatnonzero(is_in).tolist()


def test_without_colour_features_are_zero_where_the_network_is_to_know_such():
    gray = data_of(some_cloud(colors=False), config=VoxelConfig(voxel=0.5, gray_share=0.1))
    assert not gray.batch([0]).features.any()
    with pytest.raises(InputError, match="its cloud has no colour"):
        data_of(some_cloud(colors=False)).batch([0])
    config = VoxelConfig(voxel=0.5, augment=False, gray_share=0.5)
    data = data_of(some_cloud(), config=config)
    grays = [not data.batch([0], seed=seed).features.any() for seed in range(200)]
    assert 70 < sum(grays) < 130


def test_points_that_are_not_finite_are_left_out():
    cloud = some_cloud()
    cloud.xyz[:5] = np.nan
    for config in (PLAIN, VoxelConfig(voxel=0.5, min_points=1)):
        batch = data_of(cloud, config=config).batch([0])
        assert batch.xyz.isfinite().all() and (batch.coords >= 0).all()


def test_clouds_are_read_once_while_they_fit():
    reads = []
    cloud = some_cloud()

    def load(index):
        reads.append(index)
        return cloud

    for cache, expected in ((1 << 30, 1), (0, 3)):
        reads.clear()
        data = VoxelData(LabelledClouds(("a",), load), VoxelConfig(voxel=0.5, cache_bytes=cache))
        for epoch in range(3):
            data.batch([0], epoch=epoch)
        assert len(reads) == expected


class Seen:
    """Views of the points that masks (N,) bool tell, one a frame."""

    nbytes = 0

    def __init__(self, *masks: np.ndarray) -> None:
        self.masks = masks

    def __len__(self) -> int:
        return len(self.masks)

    def seen(self, first: int, last: int) -> np.ndarray:
        return np.logical_or.reduce(self.masks[first : last + 1])


def test_a_part_of_a_cloud_keeps_its_labels():
    cloud = some_cloud()
    is_in = np.random.default_rng(0).random(len(cloud.xyz)) < 0.3
    part = cloud.part(is_in)
    assert np.array_equal(part.xyz, cloud.xyz[is_in]) and np.array_equal(part.rgb, cloud.rgb[is_in])
    for whole, cut in zip((*cloud.instances, *cloud.ignored), (*part.instances, *part.ignored), strict=True):
        assert np.array_equal(np.flatnonzero(is_in)[cut], whole[is_in[whole]])


def test_a_partial_view_is_what_some_frames_in_a_row_see():
    cloud = some_cloud()
    frame = np.arange(len(cloud.xyz)) % 8
    cloud = LabelledCloud(cloud.xyz, cloud.rgb, cloud.instances, cloud.ignored, Seen(*(frame == k for k in range(8))))
    config = VoxelConfig(voxel=0.01, augment=False, min_points=1, partial_share=1.0, partial_frames=(1, 2))
    data, counts = data_of(cloud, config=config), set()
    for epoch in range(40):
        batch = data.batch([0], epoch=epoch)
        frames = sorted(set(frame[points_of(batch, cloud)].tolist()))
        assert frames == list(range(frames[0], frames[-1] + 1)) and 1 <= len(frames) <= 3
        assert len(batch.coords) == int(np.isin(frame, frames).sum())
        counts.add(len(frames))
    assert counts == {1, 2, 3}  # one frame where the last of all is the first


def test_the_share_of_partial_views_is_kept():
    cloud = some_cloud()
    cloud = LabelledCloud(cloud.xyz, cloud.rgb, cloud.instances, cloud.ignored, Seen(np.arange(len(cloud.xyz)) < 50))
    data = data_of(cloud, config=VoxelConfig(voxel=0.01, augment=False, partial_share=0.5))
    sizes = [len(data.batch([0], epoch=epoch).coords) for epoch in range(100)]
    assert set(sizes) == {50, len(cloud.xyz)} and 30 < sizes.count(50) < 70


def test_a_view_of_nothing_gives_the_whole_scene():
    cloud = some_cloud()
    cloud = LabelledCloud(cloud.xyz, cloud.rgb, cloud.instances, cloud.ignored, Seen(np.zeros(len(cloud.xyz), bool)))
    data = data_of(cloud, config=VoxelConfig(voxel=0.01, augment=False, partial_share=1.0))
    assert len(data.batch([0]).coords) == len(cloud.xyz)
