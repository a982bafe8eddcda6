# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.geometry.cameras import back_project, depth_gap, look_at, project_points, scale_intrinsics, visible_pixels

K = np.array([[577.870605, 0, 319.5], [0, 577.870605, 239.5], [0, 0, 1]])


def _random_pose(rng):
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, rng.normal(size=3)
    return pose


@pytest.mark.parametrize("seed", range(5))
def test_back_projecting_and_projecting_returns_the_pixel(seed):  # spec section 12, test 1
    rng = np.random.default_rng(seed)
    camera = np.array([[rng.uniform(300, 900), 0, 310.2], [0, rng.uniform(300, 900), 244.9], [0, 0, 1]])
    depth = rng.uniform(0.5, 5, (48, 64))
    pose = _random_pose(rng)
    pixels, z = project_points(back_project(depth, camera, pose).reshape(-1, 3), camera, pose)
    v, u = np.mgrid[0:48, 0:64]
    assert np.abs(pixels - np.stack([u, v], axis=-1).reshape(-1, 2)).max() < 1e-6
    assert np.abs(z - depth.reshape(-1)).max() < 1e-9


def test_back_projection_matches_the_definition_pixel_by_pixel():
    rng = np.random.default_rng(3)
    depth, pose = rng.uniform(0.5, 3, (5, 7)), _random_pose(rng)
    points = back_project(depth, K, pose)
    for v in range(5):
        for u in range(7):
            z = depth[v, u]
            camera_point = [(u - K[0, 2]) * z / K[0, 0], (v - K[1, 2]) * z / K[1, 1], z, 1]
            assert np.allclose(points[v, u], (pose @ camera_point)[:3])
    assert np.allclose(back_project(depth, K), back_project(depth, K, np.eye(4)))


def test_principal_point_is_the_optical_axis():
    pixels, _ = project_points(np.array([[0.0, 0, 2]]), K, np.eye(4))
    assert np.allclose(pixels, [[319.5, 239.5]])


def test_a_point_behind_the_wall_is_invisible_and_the_gap_is_inclusive():  # spec section 12, test 2
    depth = np.full((480, 640), 2.0)
    points = np.array([[0, 0, 3.0], [0, 0, 2.05], [0, 0, 2.0501], [0, 0, 1.95], [0, 0, 2.0]])
    index, flat = visible_pixels(points, depth, K, np.eye(4), max_gap=0.05)
    assert index.tolist() == [1, 3, 4]
    assert (flat == 240 * 640 + 320).all()
    assert visible_pixels(np.array([[0, 0, 4.1]]), depth + 2, K, np.eye(4))[0].tolist() == [0]  # 0.025 * 4.1 > 0.1
    assert depth_gap(np.array([1.0, 4.0])).tolist() == [0.05, 0.1]


def test_visibility_matches_a_loop():
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 3, (12, 16)) * (rng.random((12, 16)) > 0.2)
    camera = np.array([[14.0, 0, 7.5], [0, 14.0, 5.5], [0, 0, 1]])
    pose = _random_pose(rng)
    points = np.concatenate([back_project(depth, camera, pose).reshape(-1, 3), rng.normal(size=(300, 3))])
    points += rng.normal(0, 0.06, points.shape)
    expected = {}
    for i, point in enumerate(points):
        x, y, z = np.linalg.inv(pose)[:3] @ np.append(point, 1)
        if z <= 0.05:
            continue
        u, v = int(np.floor(camera[0, 0] * x / z + 8.0)), int(np.floor(camera[1, 1] * y / z + 6.0))
        inside = 0 <= u < 16 and 0 <= v < 12
        if inside and depth[v, u] > 0 and abs(depth[v, u] - z) <= max(0.05, 0.025 * z):
            expected[i] = v * 16 + u
    index, flat = visible_pixels(points, depth, camera, pose)
    assert dict(zip(index.tolist(), flat.tolist(), strict=True)) == expected
    assert 40 < len(expected) < 180


def test_points_in_the_camera_plane_stay_finite():
    pixels, _ = project_points(np.array([[1.0, 0, 0], [0, 0, -1]]), K, np.eye(4))
    assert np.isfinite(pixels).all()
    assert len(visible_pixels(np.zeros((0, 3)), np.ones((4, 4)), K, np.eye(4))[0]) == 0


def test_scaled_intrinsics_keep_the_borders_of_the_image():
    scaled = scale_intrinsics(K, (480, 640), (120, 320))
    corners = np.array([[-0.5, -0.5, 1], [639.5, 479.5, 1]])  # outer edges of the first and last pixel
    rays = np.linalg.solve(K, corners.T)
    assert np.allclose(scaled @ rays, np.array([[-0.5, -0.5, 1], [319.5, 119.5, 1]]).T)
    assert K[0, 0] == 577.870605  # the input stays


def test_look_at_puts_the_target_on_the_optical_axis_and_up_upwards():
    pose = look_at(np.array([1.0, 2, 3]), np.array([4.0, 2, 1]), np.array([0, 0, 1.0]))
    pixels, z = project_points(np.array([[4.0, 2, 1], [4.0, 2, 1.5]]), K, pose)
    assert np.allclose(pixels[0], [319.5, 239.5])
    assert np.isclose(z[0], np.sqrt(13))
    assert pixels[1, 1] < pixels[0, 1]
    assert np.allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3))
    assert np.isclose(np.linalg.det(pose[:3, :3]), 1)
    with pytest.raises(ValueError):
        look_at(np.zeros(3), np.array([0, 0, 1.0]), np.array([0, 0, 1.0]))
