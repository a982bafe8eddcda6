# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.geometry.cameras import look_at
from pc3dcli.geometry.fusion import drop_flying_pixels, fuse_points
from pc3dcli.geometry.voxels import voxel_keys

H, W = 60, 80
K = np.array([[70.0, 0, 39.5], [0, 70, 29.5], [0, 0, 1]])


def wall_frame(eye, color=(200, 100, 50)):
    """A camera in front of the plane y = 2, seeing nothing else."""
    world_from_cam = look_at(np.array(eye, float), np.array([eye[0] * 0.5, 2.0, eye[2] * 0.5]), np.array([0, 0, 1.0]))
    v, u = np.mgrid[:H, :W]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones((H, W))], -1) @ world_from_cam[:3, :3].T
    depth = (2.0 - world_from_cam[1, 3]) / rays[..., 1]
    return np.full((H, W, 3), color, np.uint8), depth.astype(np.float32), K, world_from_cam


def test_a_wall_becomes_one_sheet_of_voxels():
    frames = [wall_frame((x, 0.0, z)) for x in (-0.4, 0.0, 0.4) for z in (-0.2, 0.2)]
    points, colors, normals = fuse_points(frames, 0.05)
    np.testing.assert_allclose(points[:, 1], 2.0, atol=1e-5)
    assert (colors == [200, 100, 50]).all()
    assert points.dtype == np.float32 and colors.dtype == np.uint8 and normals.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert (normals[:, 1] < -0.95).all()  # towards the cameras, which are at smaller y
    cells = voxel_keys(points, 0.05)
    assert (np.diff(cells) >= 0).all() and len(np.unique(cells >> 21)) > 100
    # the part that every camera sees has no holes
    inner = points[(np.abs(points[:, 0]) < 0.5) & (np.abs(points[:, 2]) < 0.3)]
    assert len(inner) >= 0.95 * (1.0 / 0.05) * (0.6 / 0.05)


def test_streams_frames_and_does_not_grow_with_repetition():
    once = fuse_points([wall_frame((0, 0.0, 0))], 0.05)
    often = fuse_points((wall_frame((0, 0.0, 0)) for _ in range(50)), 0.05)  # an iterator, read once
    np.testing.assert_allclose(once[0], often[0], atol=1e-4)
    np.testing.assert_array_equal(once[1], often[1])


def test_colours_are_averaged_over_frames():
    _, colors, _ = fuse_points([wall_frame((0, 0.0, 0), (0, 0, 0)), wall_frame((0, 0.0, 0), (100, 50, 10))], 0.05)
    assert (colors == [50, 25, 5]).all()


def test_min_frames_drops_what_few_frames_saw():
    frames = [wall_frame((0, 0.0, 0)), wall_frame((1.0, 0.0, 0))]
    every, both = fuse_points(frames, 0.05), fuse_points(frames, 0.05, min_frames=2)
    assert 0 < len(both[0]) < len(every[0])


def test_flying_pixels_go_and_thin_things_in_front_stay():
    depth = np.full((H, W), 3.0, np.float32)
    depth[:, 40] = 1.0  # a leg, one pixel wide
    depth[:, 41] = 2.0  # a mixed pixel beside it
    cleaned = drop_flying_pixels(depth, K)
    assert (cleaned[:, 40] == 1.0).all()
    assert (cleaned[:, [39, 41, 42]] == 0).all()  # mixed pixels and the rim of the background
    assert (cleaned[:, :39] == 3.0).all() and (cleaned[:, 43:] == 3.0).all()


def test_missing_neighbours_and_oblique_surfaces_are_not_edges():
    depth = np.full((H, W), 2.0, np.float32)
    depth[10:20, 10:20] = 0
    np.testing.assert_array_equal(drop_flying_pixels(depth, K), depth)
    slope = (2.0 + np.arange(W, dtype=np.float32) * (2.0 * 2 / K[0, 0]))[None].repeat(H, 0)  # slope 2 at 2 m
    np.testing.assert_array_equal(drop_flying_pixels(slope, K), slope)


def test_edge_cases():
    rgb, depth, _, pose = wall_frame((0, 0.0, 0))
    points, colors, normals = fuse_points([(rgb, np.zeros_like(depth), K, pose)], 0.05)
    assert points.shape == colors.shape == normals.shape == (0, 3)
    assert fuse_points([], 0.05)[0].shape == (0, 3)
    with pytest.raises(ValueError, match="colour is"):
        fuse_points([(rgb[:10], depth, K, pose)], 0.05)
