# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.geometry.render import Viewpoint, edge_shading, splat_radii, visible_points
from pc3dcli.geometry.surfels import DOTS, NEIGHBORS, POINT_SHADE, close_surface, see_surface

SIDE, FOCAL, FAR = 200, 300.0, 4.0


def front() -> Viewpoint:
    """A camera on -z that looks at the origin; a sphere of radius 1 is 155 pixels wide."""
    world_from_cam = np.eye(4)
    world_from_cam[2, 3] = -FAR
    return Viewpoint("front", np.array([[FOCAL, 0, 100], [0, FOCAL, 100], [0, 0, 1]]), world_from_cam, (SIDE, SIDE))


def sphere(count: int = 1024) -> np.ndarray:
    xyz = np.random.default_rng(0).normal(size=(count, 3))
    return (xyz / np.linalg.norm(xyz, axis=1, keepdims=True)).astype(np.float32)


def radius_in_picture() -> np.ndarray:
    row, column = np.mgrid[:SIDE, :SIDE] - 100
    return np.hypot(row, column) / (FOCAL / np.sqrt(FAR**2 - 1))  # 1 at the outline


def test_the_far_side_of_a_sphere_does_not_show_and_the_near_one_has_no_gaps():
    xyz, inside = sphere(), radius_in_picture() < 0.9
    visible, _ = see_surface(close_surface(xyz, 60_000), xyz, front())
    shown = visible.index[inside]
    assert (shown >= 0).mean() > 0.995
    assert (xyz[shown[shown >= 0], 2] < 0.1).mean() > 0.99
    plain = visible_points(xyz, splat_radii(xyz), front()).index[inside]  # what this is for
    assert (plain < 0).mean() > 0.05
    assert (xyz[plain[plain >= 0], 2] > 0.1).mean() > 0.1


def test_nothing_sticks_out_at_the_outline():
    xyz = sphere()
    visible, _ = see_surface(close_surface(xyz, 60_000), xyz, front())
    assert (visible.index[radius_in_picture() > 1.1] < 0).all()


def test_discs_end_where_their_neighbours_do():
    """A flat square: its surface is flat, closed, and ends near its border."""
    xyz = np.random.default_rng(1).uniform(-1, 1, (1000, 3)) * (1, 1, 0)
    surface = close_surface(xyz, 60_000)
    assert np.abs(surface.xyz[:, 2]).max() < 1e-9
    outside = np.abs(surface.xyz[:, :2]).max(axis=1) - 1
    assert outside.max() < 1.2 * surface.spacing
    assert (outside > 0.3 * surface.spacing).mean() < 0.03
    index = see_surface(surface, xyz, front())[0].index
    assert (index[30:170, 30:170] >= 0).mean() > 0.998


def test_a_dot_has_the_colour_of_the_nearest_point():
    xyz = sphere(300)
    surface = close_surface(xyz, 300 * 20)
    nearest = np.linalg.norm(surface.xyz[:, None] - xyz[None], axis=2).argmin(axis=1)
    assert (surface.source == nearest).all()


def test_points_are_drawn_on_the_surface_darker():
    xyz = sphere()
    surface = close_surface(xyz, 60_000)
    visible, shade = see_surface(surface, xyz, front())
    bare = edge_shading(visible_points(surface.xyz, surface.radius, front()).depth)
    is_dark = shade < 0.9 * bare
    np.testing.assert_allclose(shade[is_dark], POINT_SHADE * bare[is_dark], rtol=1e-5)
    on_points = np.unique(visible.index[is_dark])
    assert 250 < len(on_points) < 600  # at most half of 1,024 and some; others are just below the guessed surface
    assert xyz[on_points, 2].max() < 0.4


@pytest.mark.parametrize("count", [1, NEIGHBORS, 60_000 // DOTS[0] + 1])
def test_very_few_and_many_points_stand_for_themselves(count):
    xyz = sphere(count)
    surface = close_surface(xyz, 60_000)
    assert surface.spacing == 0
    np.testing.assert_array_equal(surface.xyz, xyz)
    np.testing.assert_array_equal(surface.source, np.arange(count))
    visible, shade = see_surface(surface, xyz, front())
    assert (visible.index >= 0).any() and shade.min() > 0


@pytest.mark.parametrize(
    "xyz", [np.zeros((50, 3)), np.linspace(0, 1, 50)[:, None] * np.ones(3), np.tile(sphere(20), (9, 1))]
)
def test_degenerate_clouds_have_a_finite_surface(xyz):
    surface = close_surface(xyz, 5_000)
    assert np.isfinite(surface.xyz).all() and np.isfinite(surface.radius).all()
    see_surface(surface, xyz, front())
