# SPDX-License-Identifier: Apache-2.0
"""The readers on real recordings."""

import numpy as np
import pytest

from pc3dcli.datasets import open_scenes
from pc3dcli.datasets.scene import RgbdFrame
from pc3dcli.formats.cloud import read_cloud


def test_redkitchen(shared_data):
    (ref,) = open_scenes(shared_data / "rgbd_redkitchen")
    scene = ref.open()
    assert (scene.dataset, len(scene.frames), scene.up, scene.skipped) == ("7scenes", 200, "-y", ())
    assert [frame.frame for frame in scene.frames[:3]] == ["000000", "000005", "000010"]
    assert scene.frames[0].K[0, 0] == 585 and scene.notes == ()
    # what one frame measures lies where the next one says it does
    first, second = (RgbdFrame(scene.root, frame) for frame in scene.frames[:2])
    v, u = np.nonzero(first.depth)
    pixels = np.stack([u, v, np.ones_like(u)]).astype(np.float64)
    points = np.linalg.inv(first.K) @ pixels * first.depth[v, u]
    moved = np.linalg.inv(second.world_from_cam) @ first.world_from_cam @ np.vstack([points, np.ones(points.shape[1])])
    x, y, z = second.K @ moved[:3]
    x, y = np.round(x / z).astype(int), np.round(y / z).astype(int)
    seen = (x >= 0) & (x < 640) & (y >= 0) & (y < 480)
    there = second.depth[y[seen], x[seen]]
    gap = np.abs(there - z[seen])[there > 0]
    assert np.median(gap) < 0.02


def test_shelf_with_its_depth_scale(shared_data):
    (ref,) = open_scenes(shared_data / "rgbd_gt_shelf")
    scene = ref.open(depth_scale=0.0001)
    assert (len(scene.frames), scene.up) == (15, "z")
    depth = RgbdFrame(scene.root, scene.frames[0]).depth
    assert 0.3 < np.median(depth[depth > 0]) < 1.5


def test_meshes(shared_data):
    files = sorted((shared_data / "meshes_cc0").glob("*.ply"))
    assert len(open_scenes(shared_data / "meshes_cc0")) == len(files) > 40
    for file in files:
        cloud = read_cloud(file)
        assert len(cloud.faces) and cloud.rgb is not None and np.isfinite(cloud.xyz).all()


@pytest.mark.parametrize("pattern, columns", [("kitti/training/velodyne/*.bin", 1), ("nuscenes/*.pcd.bin", 2)])
def test_sweeps(shared_data, pattern, columns):
    file = sorted(shared_data.glob(pattern))[0]
    cloud = read_cloud(file)
    assert len(cloud.xyz) == file.stat().st_size // (12 + 4 * columns) and len(cloud.extra) == columns
    assert np.abs(cloud.xyz).max() < 200
