# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import cv2
import numpy as np
import pytest

from pc3dcli.geometry.cameras import back_project, look_at, visible_pixels
from pc3dcli.worlds.primitives import Primitive, Texture, hit_depth, image_rectangle
from pc3dcli.worlds.room import CaptureConfig, Room, RoomConfig, camera_path, make_room, write_room

UP = np.array([0, 0, 1.0])
PLAIN = Texture("uniform", np.full((2, 3), 0.5), 0.1, np.zeros((6, 4)))
CAPTURE = CaptureConfig()


def _room(seed=0, **switches):
    return make_room(RoomConfig(**switches), np.random.default_rng(seed))


def test_depth_of_an_empty_room_is_that_of_its_planes():
    room = Room(RoomConfig(), (), make_room(RoomConfig(), np.random.default_rng(0)).primitives[:2])
    pose = look_at(np.array([2.0, 3, 1.4]), np.array([6.0, 3, 1.4]), UP)
    depth = room.render(CAPTURE.K, pose, CAPTURE.size).depth
    points = back_project(depth.astype(np.float64), CAPTURE.K, pose)
    assert np.isclose(depth[48, 64], 4.0, atol=1e-6)  # the wall x = 6, straight on
    planes = [points[..., 0] - 6, points[..., 1], points[..., 1] - 6, points[..., 2], points[..., 2] - 2.8]
    assert np.abs(planes).min(axis=0).max() < 1e-5
    assert np.abs(points[90, 64, 2]) < 1e-5


@pytest.mark.parametrize("kind", ["box", "cylinder", "ellipsoid"])
def test_rays_end_on_the_surface_and_miss_nothing(kind):
    rng = np.random.default_rng(5)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0] * [0.3, 0.3, 0.5]
    shape = Primitive(kind, np.array([0.1, 0.2, 2.0]), axes, PLAIN)
    x, y = np.linspace(-0.6, 0.6, 61), np.linspace(-0.5, 0.5, 51)
    depth = hit_depth(shape, np.eye(4), x, y)
    rays = np.stack([*np.meshgrid(x, y), np.ones((51, 61))], axis=-1)
    hit = np.isfinite(depth)
    local = (rays[hit] * depth[hit][:, None] - shape.center) @ shape.local_from_world.T
    assert np.allclose(_gauge(kind, local), 1)
    steps = np.linspace(1.2, 2.8, 400)  # slow oracle: march along every ray
    marched = (rays[:, :, None] * steps[:, None] - shape.center) @ shape.local_from_world.T
    inside = _gauge(kind, marched) < 0.99
    assert hit[inside.any(axis=2)].all()
    assert (_gauge(kind, marched) > 1 - 1e-9)[~hit].all()
    rectangle = image_rectangle(shape, np.diag([100.0, 100, 1]), np.eye(4), (400, 400))
    assert rectangle is not None


def _gauge(kind, local):
    if kind == "box":
        return np.abs(local).max(axis=-1)
    if kind == "cylinder":
        return np.maximum(np.hypot(local[..., 0], local[..., 1]), np.abs(local[..., 2]))
    return np.linalg.norm(local, axis=-1)


def test_culling_by_rectangles_changes_nothing(monkeypatch):
    room, pose = _room(3), camera_path(RoomConfig(), CAPTURE)[17]
    culled = room.render(CAPTURE.K, pose, CAPTURE.size)
    monkeypatch.setattr("pc3dcli.worlds.room.image_rectangle", lambda p, K, pose, size: (0, size[0], 0, size[1]))
    for fast, slow in zip(culled, room.render(CAPTURE.K, pose, CAPTURE.size), strict=True):
        assert (fast == slow).all()


def test_rooms_are_furnished_as_asked_and_deterministic():
    for seed in range(8):
        room = _room(seed)
        large = [item for item in room.objects if item.label_id not in (130, 65, 22, 77, 26)]
        assert 8 <= len(large) <= 10
        assert len(room.objects) - len(large) >= 3
        assert [item.object for item in room.objects] == list(range(1, len(room.objects) + 1))
        parts = [part for item in room.objects for part in item.parts]
        assert parts == list(range(1, len(parts) + 1))
        again = _room(seed)
        assert [p.center.tolist() for p in room.primitives] == [p.center.tolist() for p in again.primitives]
        assert all(2 <= sum(p.object == item.object for p in room.primitives) <= 8 for item in room.objects)


def test_parts_belong_to_their_object_and_both_turns_see_the_same_surface():
    room, poses = _room(1), camera_path(RoomConfig(), CAPTURE)
    owner = {part: item.object for item in room.objects for part in item.parts} | {0: 0}
    first, second = (room.render(CAPTURE.K, poses[t], CAPTURE.size) for t in (5, 65))
    assert all(owner[p] == i for p, i in zip(first.part.flat, first.instance.flat, strict=True))
    assert first.instance.max() > 0
    points = back_project(first.depth, CAPTURE.K, poses[5]).reshape(-1, 3)
    index, flat = visible_pixels(points, second.depth, CAPTURE.K, poses[65], max_gap=0.02)
    same = first.instance.reshape(-1)[index] == second.instance.reshape(-1)[flat]
    assert len(index) > 0.3 * points.shape[0]
    assert same.mean() > 0.97


@pytest.mark.parametrize("is_varied", [False, True])
def test_cameras_stand_clear_of_everything(is_varied):
    for seed in range(4):
        config = RoomConfig.varied(np.random.default_rng(seed)) if is_varied else RoomConfig()
        room = make_room(config, np.random.default_rng(seed))
        for pose in camera_path(config, CAPTURE)[::10]:
            assert room.render(CAPTURE.K, pose, CAPTURE.size).depth.min() > 0.1


def test_varied_rooms_differ_in_size_and_in_how_full_they_are():
    configs = [RoomConfig.varied(np.random.default_rng(seed)) for seed in range(12)]
    sides = np.array([config.size for config in configs])
    assert (sides >= [4, 4, 2.4]).all() and (sides <= [7, 7, 3.2]).all() and (np.ptp(sides, axis=0) > [1, 1, 0.4]).all()
    rooms = [make_room(config, np.random.default_rng(0)) for config in configs]
    counts = [len(room.objects) for room in rooms]
    assert min(counts) >= 6 and max(counts) - min(counts) >= 5
    for room in rooms:  # all of it is inside, but for screens that lean back
        centers = np.array([shape.center for shape in room.primitives if shape.object])
        assert (centers > -0.1).all() and (centers < np.add(room.config.size, 0.1)).all()


def test_switches_of_the_sensor():
    pose = camera_path(RoomConfig(), CAPTURE)[3]
    clean = _room(2).render(CAPTURE.K, pose, CAPTURE.size, np.random.default_rng(0))
    exact = _room(2).render(CAPTURE.K, pose, CAPTURE.size)
    assert all((a == b).all() for a, b in zip(clean, exact, strict=True))
    noisy = _room(2, sensor_noise=True).render(CAPTURE.K, pose, CAPTURE.size, np.random.default_rng(0))
    error = np.abs(noisy.depth - exact.depth)
    near, far = (exact.depth < 2.5), (exact.depth > 4)
    assert (noisy.depth > 0).all()
    assert np.median(error[far]) > 1.5 * np.median(error[near]) > 0
    assert 1 < np.abs(noisy.rgb.astype(int) - exact.rgb).mean() < 10
    holes = _room(2, missing_depth=True).render(CAPTURE.K, pose, CAPTURE.size, np.random.default_rng(0)).depth == 0
    assert 0.01 < holes.mean() < 0.25
    assert (noisy.instance == exact.instance).all()
    flat = _room(2, textures=False).render(CAPTURE.K, pose, CAPTURE.size)
    assert len(np.unique(flat.rgb.reshape(-1, 3), axis=0)) < len(np.unique(exact.rgb.reshape(-1, 3), axis=0))


def test_a_written_room_reads_back(tmp_path):
    pytest.importorskip("pc3dcli.formats.ply")
    from pc3dcli.formats.cloud import read_cloud

    room = _room(4, sensor_noise=True)
    capture = replace(CAPTURE, num_frames=4, voxel=0.04)
    for name in ("a", "b"):
        write_room(room, tmp_path / name, capture, np.random.default_rng(7))
    poses = camera_path(room.config, capture)
    view = room.render(capture.K, poses[2], capture.size, None)
    assert np.allclose(np.loadtxt(tmp_path / "a/pose/2.txt"), poses[2], atol=1e-8)
    assert np.allclose(np.loadtxt(tmp_path / "a/intrinsic/intrinsic_depth.txt")[:3, :3], capture.K, atol=1e-5)
    assert (cv2.imread(str(tmp_path / "a/instance/2.png"), cv2.IMREAD_UNCHANGED) == view.instance).all()
    assert (cv2.imread(str(tmp_path / "a/part/2.png"), cv2.IMREAD_UNCHANGED) == view.part).all()
    depth = cv2.imread(str(tmp_path / "a/depth/2.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    assert np.median(np.abs(depth / 1000 - view.depth)) < 0.05
    cloud = read_cloud(tmp_path / "a/a_vh_clean_2.ply")
    labels = np.loadtxt(tmp_path / "a/gt/a.txt", dtype=int)
    assert len(labels) == len(cloud.xyz)
    ids = {item.label_id * 1000 + item.object for item in room.objects} | {0}
    assert set(labels) <= ids
    assert len(set(labels)) > 5
    index, flat = visible_pixels(cloud.xyz, view.depth, capture.K, poses[2], max_gap=0.03)
    assert (labels[index] % 1000 == view.instance.reshape(-1)[flat]).mean() > 0.93
    for path in sorted((tmp_path / "a").rglob("*.*")):  # byte for byte the same from the same generator
        twin = path.relative_to(tmp_path / "a").as_posix().replace("a_vh", "b_vh").replace("gt/a", "gt/b")
        assert path.read_bytes() == (tmp_path / "b" / twin).read_bytes()
