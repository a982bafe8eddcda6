# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.geometry import render
from pc3dcli.geometry.render import Viewpoint, Visible, edge_shading, paint, splat_radii, visible_points

K = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
SIZE = (48, 64)


def view(world_from_cam=None, **settings) -> Viewpoint:
    return Viewpoint("test", K, np.eye(4) if world_from_cam is None else world_from_cam, SIZE, **settings)


def random_cloud(rng: np.random.Generator, count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    xyz = rng.uniform((-1.2, -1.0, 1.0), (1.2, 1.0, 4.0), (count, 3)).astype(np.float32)
    return xyz, rng.uniform(0.01, 0.12, count).astype(np.float32)


def slow_visible(xyz: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Index image from the definition: nearest point of each cell, then the nearest disc at each pixel."""
    nearest: dict[tuple[int, int], tuple[float, int, int]] = {}
    for index, (x, y, z) in enumerate(xyz.astype(np.float64)):
        cell = (round(y / z * K[1, 1] + K[1, 2]), round(x / z * K[0, 0] + K[0, 2]))
        pixels = int(np.rint(radius[index] / z * K[0, 0] + 0.2))
        if cell not in nearest or z < nearest[cell][0]:
            nearest[cell] = (z, index, pixels)
    best = np.full(SIZE, np.inf)
    image = np.full(SIZE, -1)
    for (row, column), (z, index, pixels) in nearest.items():
        for v in range(max(row - pixels, 0), min(row + pixels + 1, SIZE[0])):
            for u in range(max(column - pixels, 0), min(column + pixels + 1, SIZE[1])):
                distance = (v - row) ** 2 + (u - column) ** 2
                depth = z + 0.5 * radius[index] * distance / max(pixels, 1) ** 2
                if distance <= pixels * (pixels + 1) and depth < best[v, u]:
                    best[v, u], image[v, u] = depth, index
    return image


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_definition(seed):
    xyz, radius = random_cloud(np.random.default_rng(seed))
    assert np.array_equal(visible_points(xyz, radius, view()).index, slow_visible(xyz, radius))


def test_order_of_points_does_not_matter():
    xyz, radius = random_cloud(np.random.default_rng(7))
    order = np.random.default_rng(8).permutation(len(xyz))
    straight, shuffled = visible_points(xyz, radius, view()), visible_points(xyz[order], radius[order], view())
    assert np.array_equal(straight.depth, shuffled.depth)
    drawn = shuffled.index >= 0
    assert np.array_equal(straight.index[drawn], order[shuffled.index[drawn]])


def test_first_of_equal_points_is_kept():
    xyz = np.array([[0, 0, 2.0], [0, 0, 2.0]])
    assert set(np.unique(visible_points(xyz, np.full(2, 0.1), view()).index)) == {-1, 0}


def test_leaves_out_hidden_points_and_those_behind_the_camera():
    xyz = np.array([[0, 0, 1.0], [0, 0, 2.0], [0, 0, -1.0], [0, 0, 0.0]])
    seen = visible_points(xyz, np.full(4, 0.1), view(hidden=np.array([True, False, False, False])))
    assert set(np.unique(seen.index)) == {-1, 1}
    assert seen.depth[23, 31] == pytest.approx(2.0, abs=0.1)


def test_large_coordinates_lose_nothing():
    xyz, radius = random_cloud(np.random.default_rng(3))
    offset = np.array([4.5e6, 5.2e6, 300.0])
    moved = np.eye(4)
    moved[:3, 3] = offset
    near, far = (
        visible_points(xyz, radius, view()),
        visible_points(xyz.astype(np.float64) + offset, radius, view(moved)),
    )
    assert np.array_equal(near.index, far.index)


def test_discs_outside_reach_into_the_picture():
    left = np.array([[-33 / 60, 0, 1.0]])  # a pixel and a half beyond the left border
    assert (visible_points(left, np.array([0.1]), view()).index[:, 0] == 0).any()


def test_empty_cloud_is_background():
    seen = visible_points(np.zeros((0, 3)), np.zeros(0), view())
    assert (seen.index == -1).all() and np.isinf(seen.depth).all()


def test_a_plane_has_no_holes():
    x, y = np.meshgrid(np.arange(-1.5, 1.5, 0.03), np.arange(-1.2, 1.2, 0.03))
    xyz = np.stack((x, y, 2 + 0.3 * x), -1).reshape(-1, 3).astype(np.float32)
    xyz[:, :2] += np.random.default_rng(0).normal(0, 0.006, (len(xyz), 2)).astype(np.float32)
    assert (visible_points(xyz, splat_radii(xyz), view()).index >= 0).all()


def test_radii_follow_the_spacing_and_bound_strays():
    x, y = np.meshgrid(np.arange(60), np.arange(60))
    grid = np.stack((x, y, 0 * x), -1).reshape(-1, 3) * 0.1
    radius = splat_radii(np.concatenate((grid, [[50.0, 50.0, 50.0]])))
    assert np.median(radius[:-1]) == pytest.approx(0.6 * 0.1 * np.sqrt(2), rel=0.02)  # the fifth neighbour is diagonal
    assert radius[-1] < np.median(radius)


def test_discs_of_sparse_clouds_are_capped_by_the_size_of_the_scene():
    sparse = np.random.default_rng(0).uniform(0, 10, (300, 3))
    radius = splat_radii(np.concatenate((sparse, [[1000.0, 0, 0]])))  # a stray does not make the scene larger
    assert radius.max() <= render.MAX_SHARE * 10 * np.sqrt(3)
    assert radius.max() == pytest.approx(render.MAX_SHARE * 10 * np.sqrt(3), rel=0.05)


@pytest.mark.parametrize("xyz", [np.zeros((0, 3)), np.ones((1, 3)), np.ones((50, 3))])
def test_radii_of_degenerate_clouds_are_finite(xyz):
    radius = splat_radii(xyz)
    assert radius.shape == (len(xyz),) and np.isfinite(radius).all() and (radius > 0).all()


def test_shading_darkens_only_the_far_side_of_a_step():
    depth = np.full((10, 10), 2.0, np.float32)
    depth[:, 5:] = 3.0
    shade = edge_shading(depth)
    assert (shade[:, :5] == 1).all() and (shade[:, 7:] == 1).all()
    assert (shade[:, 5:7] < 0.95).all() and (shade > 0.2).all()


def test_shading_leaves_background_alone():
    depth = np.full((6, 6), np.inf, np.float32)
    depth[2:4, 2:4] = 1.0
    assert (edge_shading(depth)[np.isinf(depth)] == 1).all()
    assert np.isfinite(edge_shading(depth)).all()


def test_paint_looks_up_colours():
    seen = Visible(np.array([[0, -1], [1, 1]], np.int32), np.ones((2, 2), np.float32))
    colors = np.array([[10, 20, 30], [200, 100, 0]], np.uint8)
    picture = paint(seen, np.array([[1, 1], [1, 0.5]], np.float32), colors, background=(1, 2, 3))
    assert picture.tolist() == [[[10, 20, 30], [1, 2, 3]], [[200, 100, 0], [100, 50, 0]]]


def test_no_disc_is_larger_than_the_limit():
    near = np.array([[0, 0, 0.06]])
    side = int((visible_points(near, np.array([1.0]), view()).index[23] >= 0).sum())
    assert side <= 2 * render.MAX_SPLAT + 1
