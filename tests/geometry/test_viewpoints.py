# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.geometry import viewpoints
from pc3dcli.geometry.viewpoints import (
    best_heading,
    camera_viewpoint,
    ceiling_height,
    choose_viewpoints,
    faces_inwards,
    level_rotation,
    mesh_normals,
    open_height,
    seen_from_behind,
    upright,
)

SIZE = (120, 160)
LEVEL = np.eye(3)


def room(ceiling: bool = True, count: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Points and inward normals of a room of 5 x 4 x 2.6 m with a box in it."""
    rng = np.random.default_rng(0)
    size = np.array([5.0, 4.0, 2.6])
    points, normals = [], []
    for axis in range(3):
        for side in (0, 1):
            if axis == 2 and side == 1 and not ceiling:
                continue
            face = rng.uniform(0, 1, (count, 3)) * size
            face[:, axis] = side * size[axis]
            points.append(face)
            normal = np.zeros((count, 3))
            normal[:, axis] = 1 - 2 * side
            normals.append(normal)
    top = rng.uniform(0, 1, (600, 3)) * (1.0, 0.8, 0) + (2.0, 1.5, 0.8)
    points.append(top)
    normals.append(np.tile((0.0, 0, 1), (600, 1)))
    return np.concatenate(points), np.concatenate(normals)


def pixels(view, xyz):
    local = (xyz - view.world_from_cam[:3, 3]) @ view.world_from_cam[:3, :3]
    return local[:, :2] / local[:, 2:] * (view.K[0, 0], view.K[1, 1]) + view.K[:2, 2], local[:, 2]


def test_names_and_rotations():
    views = choose_viewpoints(room()[0], SIZE, LEVEL)
    assert [view.name for view in views] == ["top", "corner1", "corner2", "corner3", "corner4", "inside"]
    for view in views:
        rotation = view.world_from_cam[:3, :3]
        assert np.allclose(rotation.T @ rotation, np.eye(3)) and np.linalg.det(rotation) == pytest.approx(1)
    assert np.allclose(views[0].world_from_cam[:3, 2], (0, 0, -1))


@pytest.mark.parametrize("up", ["x", "y", "z", "-x", "-y", "-z"])
def test_everything_shown_is_in_the_picture_whatever_is_up(up):
    xyz = room()[0] @ upright(up)  # world from level
    for view in choose_viewpoints(xyz, SIZE, upright(up))[:5]:
        shown = xyz if view.hidden is None else xyz[~view.hidden]
        at, depth = pixels(view, shown)
        inside = (at > -0.5).all(1) & (at < (SIZE[1] - 0.5, SIZE[0] - 0.5)).all(1) & (depth > 0)
        assert inside.mean() > 0.97
        span = at[inside].max(0) - at[inside].min(0)
        assert (span / (SIZE[1], SIZE[0])).max() > 0.8  # and fills it


def test_upright_takes_the_axis_to_z():
    for text, axis in (("x", (1, 0, 0)), ("-y", (0, -1, 0)), ("z", (0, 0, 1))):
        rotation = upright(text)
        assert np.allclose(rotation @ axis, (0, 0, 1)) and np.linalg.det(rotation) == pytest.approx(1)
    with pytest.raises(ValueError, match="w"):
        upright("w")
    with pytest.raises(ValueError, match="--z"):
        upright("--z")


def test_ceiling_is_found_and_cut():
    xyz = room()[0]
    assert 2.0 < open_height(xyz, LEVEL) < 2.6
    top = choose_viewpoints(xyz, SIZE, LEVEL)[0]
    assert top.hidden[xyz[:, 2] > 2.59].all() and not top.hidden[xyz[:, 2] < 1.5].any()


def test_no_ceiling_is_looked_for_in_a_tower_of_a_million_kilometres():
    assert ceiling_height(np.random.default_rng(0).normal(size=(100, 3)) * 1e9) is None


def test_front_walls_are_cut_without_normals():
    xyz = room()[0]
    view = choose_viewpoints(xyz, SIZE, LEVEL)[1]
    toward = view.world_from_cam[:2, 3] - xyz[:, :2].mean(0)
    walls = [
        (xyz[:, axis] == side * size) & (xyz[:, 2] > 0.2) & (xyz[:, 2] < 2)
        for axis, size in ((0, 5), (1, 4))
        for side in (0, 1)
    ]
    near = [toward[0] < 0, toward[0] > 0, toward[1] < 0, toward[1] > 0]
    for wall, is_near in zip(walls, near, strict=True):
        assert view.hidden[wall].mean() > 0.9 if is_near else view.hidden[wall].mean() < 0.1 + 0.3 / 4


def test_front_walls_of_a_low_room_are_cut():
    xyz = room(ceiling=False)[0] * (1, 1, 2.0 / 2.6)
    view = choose_viewpoints(xyz, SIZE, LEVEL)[1]
    assert view.hidden[(xyz[:, 2] > 0.3) & (xyz[:, 2] < 1.5)].mean() > 0.2


def test_normals_decide_what_is_left_out():
    xyz, normal = room()
    for view in choose_viewpoints(xyz, SIZE, LEVEL, normal)[1:5]:
        forward = view.world_from_cam[:3, 2]
        back = normal @ forward > 0.1
        assert view.hidden[back].all()
        floor = xyz[:, 2] == 0
        assert not view.hidden[floor].any()
    assert faces_inwards(xyz, normal) and not faces_inwards(xyz, -normal)


def test_corners_that_see_only_backs_are_left_out():
    rng = np.random.default_rng(0)
    wall = rng.uniform(0, 1, (4000, 3)) * (1.0, 0.02, 1.0)  # a shelf, scanned from -y
    side = rng.uniform(0, 1, (800, 3)) * (0.02, 0.4, 1.0) - (0, 0.4, 0)
    normal = np.concatenate((np.tile((0.0, -1, 0), (4000, 1)), np.tile((1.0, 0, 0), (800, 1))))
    names = [view.name for view in choose_viewpoints(np.concatenate((wall, side)), SIZE, LEVEL, normal)]
    assert names == ["top", "corner1", "corner2"]


def test_strays_do_not_shrink_the_scene():
    xyz = room()[0]
    strays = np.random.default_rng(1).uniform(-60, 60, (len(xyz) // 150, 3))
    plain, spoilt = (choose_viewpoints(one, SIZE, LEVEL) for one in (xyz, np.concatenate((xyz, strays))))
    heights = [views[0].world_from_cam[2, 3] for views in (plain, spoilt)]
    assert heights[1] < 1.2 * heights[0]


def test_seen_from_behind_is_a_half_space():
    normal = np.array([[0, 0, 1.0], [0, 0, -1.0], [1.0, 0, 0]])
    assert seen_from_behind(normal, np.array([0, 0, 1.0])).tolist() == [True, False, False]


def test_small_scenes_are_not_cut():
    xyz = np.random.default_rng(0).uniform(0, 0.5, (500, 3))
    assert open_height(xyz, LEVEL) is None
    views = choose_viewpoints(xyz, SIZE, LEVEL)
    assert all(view.hidden is None for view in views)
    assert [view.name for view in views][-1] == "corner4"  # nobody stands inside


@pytest.mark.parametrize("xyz", [np.ones((1, 3)), np.ones((20, 3)), np.array([[0, 0, 0], [1.0, 0, 0]])])
def test_degenerate_clouds_have_finite_cameras(xyz):
    for view in choose_viewpoints(xyz, SIZE, LEVEL):
        assert np.isfinite(view.world_from_cam).all()
    assert choose_viewpoints(np.zeros((0, 3)), SIZE, LEVEL) == []


def test_inside_camera_stands_in_free_space_in_the_room():
    xyz = room()[0]
    view = choose_viewpoints(xyz, SIZE, LEVEL)[-1]
    position = view.world_from_cam[:3, 3]
    assert ((position > 0.3) & (position < (4.7, 3.7, 2.3))).all()
    assert np.linalg.norm(xyz - position, axis=1).min() > 0.3


def test_a_tilted_scan_is_levelled():
    xyz, normal = room()
    angle = np.radians(25)
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    noise = np.random.default_rng(1).normal(0, 0.05, normal.shape)
    tilted = (normal + noise) @ tilt.T
    tilted /= np.linalg.norm(tilted, axis=1, keepdims=True)
    assert (level_rotation("z", tilted) @ tilt)[2] @ (0, 0, 1) > np.cos(np.radians(1))
    assert np.linalg.det(level_rotation("z", tilted)) == pytest.approx(1)


def test_a_level_scan_is_left_alone():
    assert np.array_equal(level_rotation("z", room()[1]), upright("z"))
    assert np.array_equal(level_rotation("-y", None), upright("-y"))
    sideways = np.tile((1.0, 0, 0), (100, 1))
    assert np.array_equal(level_rotation("z", sideways), upright("z"))


def test_best_heading_is_where_least_is_left_out():
    xyz, normal = room()
    keep = xyz[:, 0] > 0  # no wall at x = 0: two corners are better
    views = choose_viewpoints(xyz[keep], SIZE, LEVEL, normal[keep])
    assert np.cos(best_heading(views, LEVEL)) < 0
    assert best_heading([], LEVEL) == 0


def test_mesh_normals_agree_with_the_faces():
    xyz = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [5, 5, 5], [np.nan, 0, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    normal = mesh_normals(xyz, faces)
    assert np.allclose(normal[:4], (0, 0, 1)) and (normal[4:] == 0).all()


def test_recorded_camera_keeps_its_picture():
    K = np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]])
    view = camera_viewpoint("camera", K, np.eye(4), (480, 640), (960, 1920))
    assert view.K[0, 0] == 1000 and view.K[:2, 2] == pytest.approx((959.5, 479.5))
    assert view.size == (960, 1920)


def test_front_wall_of_nothing_shown_is_nothing():
    level = room()[0]
    assert not viewpoints._front_walls(level, np.zeros(len(level), bool), 0).any()


def test_objects_are_seen_whole_with_a_margin_and_never_from_inside():
    """A pot the size of a room, with a handle of so few points that a scene would cut them off."""
    rng = np.random.default_rng(3)
    handle = rng.uniform(-0.1, 0.1, (8, 3)) + (0, 0, 1.9)
    xyz = np.concatenate([rng.uniform((-1.5, -1.5, -1), (1.5, 1.5, 1.2), (6000, 3)), handle])
    normal = np.tile((0.0, 0.0, 1.0), (len(xyz), 1))
    views = choose_viewpoints(xyz, SIZE, LEVEL, normal, is_object=True)
    assert [view.name for view in views] == ["top", "corner1", "corner2", "corner3", "corner4"]
    for view in views:
        at, depth = pixels(view, xyz)
        assert view.hidden is None and (depth > 0).all()
        share = at / (SIZE[1] - 1, SIZE[0] - 1)
        assert share.min() > 0.05 and share.max() < 0.95
        assert np.ptp(share, axis=0).max() > 0.65
        assert share[:, 0].min() > 1 - share[:, 0].max()  # more room at the left, for the legend
    scene = choose_viewpoints(xyz, SIZE, LEVEL)
    assert scene[-1].name == "inside" and any(view.hidden is not None for view in scene)


def test_nobody_stands_among_a_few_points():
    xyz, _ = room()
    assert choose_viewpoints(xyz, SIZE, LEVEL)[-1].name == "inside"
    assert choose_viewpoints(xyz[::10], SIZE, LEVEL)[-1].name == "corner4"
