# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest

from pc3dcli.errors import InputError
from pc3dcli.masks2d.mask2d import Mask2d
from pc3dcli.masks2d.reproject import Reproject, _look_back, _on_one_surface, _Seen
from pc3dcli.papers.granularity.policy import PolicyConfig, track_masks
from pc3dcli.worlds.room import CaptureConfig, RoomConfig, camera_path, make_room


@dataclass
class View:
    depth: np.ndarray
    K: np.ndarray
    world_from_cam: np.ndarray
    instance: np.ndarray | None = None

    @property
    def size(self):
        return self.depth.shape


class GroundTruth:
    """A mask source that sees every object whole."""

    def masks(self, view):
        return [Mask2d(view.instance == k, 1.0) for k in np.unique(view.instance) if k]


@lru_cache(maxsize=4)
def film(seed, noisy, num_frames, turns, size=(240, 320)):
    room = make_room(RoomConfig(sensor_noise=noisy, missing_depth=noisy), np.random.default_rng(seed))
    capture = CaptureConfig(num_frames=num_frames, size=size, turns=turns)
    rng = np.random.default_rng(seed)
    views = []
    for pose in camera_path(room.config, capture):
        shot = room.render(capture.K, pose, size, rng)
        views.append(View(shot.depth, capture.K, pose, shot.instance))
    return views


def ious(views, frames):
    """Return the IoU of each visible object in each frame with the tracks that began on it."""
    owner, found = {}, []
    for view, frame in zip(views, frames, strict=True):
        for track, mask in frame.masks.items():
            owner.setdefault(track, int(np.bincount(view.instance[mask]).argmax()))
        for k in np.unique(view.instance):
            truth = view.instance == k
            if k and truth.sum() > 100:
                mask = np.isin(frame.labels, [track for track, item in owner.items() if item == k])
                found.append((mask & truth).sum() / (mask | truth).sum())
    return np.array(found), owner


def track(views, **settings):
    propagator = Reproject()
    config = PolicyConfig(**settings)
    return list(track_masks(enumerate(views), GroundTruth(), propagator, config)), propagator


@pytest.mark.parametrize(("seed", "noisy", "expected"), [(2, False, 0.9), (7, False, 0.9), (5, True, 0.8)])
def test_masks_follow_their_objects(seed, noisy, expected):
    views = film(seed, noisy, 20, 0.12)
    frames, _ = track(views)
    assert ious(views, frames)[0].mean() >= expected


def test_completing_matched_tracks_repairs_them():
    views = film(0, False, 20, 0.12)
    plain, completing = Reproject(), Reproject()
    plain.tau_complete, completing.tau_complete = 2.0, 0.5
    config = PolicyConfig()
    results = [list(track_masks(enumerate(views), GroundTruth(), p, config)) for p in (plain, completing)]
    before, after = (ious(views, frames)[0].mean() for frames in results)
    assert after > before + 0.01


def test_a_revisit_wakes_the_same_ids():
    once = film(7, False, 12, 0.12)
    away = [View(v.depth, v.K, v.world_from_cam @ np.diag([-1.0, 1, -1, 1]), v.instance * 0) for v in once[-3:]]
    views = once + away + once[::-1]
    frames, _ = track(views, stride_key=1, reverse=False)
    before, after = frames[11], frames[15]
    assert len(before.masks) >= 3
    assert all(frames[13].states[k] == "D" for k in before.masks)
    for k, mask in before.masks.items():
        again = after.masks.get(k)
        assert again is not None
        assert (again & mask).sum() / (again | mask).sum() > 0.75
    assert max(after.states) == max(before.states)  # no new id


def test_the_backward_pass_finds_an_object_in_earlier_frames():
    views = film(2, False, 20, 0.12)
    propagator = Reproject()
    propagator.propagate(9, views[9], [])
    for k in np.unique(views[9].instance)[1:]:
        propagator.add_object(9, views[9], int(k), views[9].instance == k)
    tracks = [int(k) for k in np.unique(views[9].instance)[1:]]
    for masks, view in zip(propagator.reverse(9, views[8:2:-1], tracks), views[8:2:-1], strict=True):
        big = [k for k in tracks if (view.instance == k).sum() > 400]
        assert np.mean([(masks[k] & (view.instance == k)).sum() / (view.instance == k).sum() for k in big]) > 0.7
        assert np.mean([(view.instance[masks[k]] == k).mean() for k in big]) > 0.9


def test_looking_back_matches_a_loop():
    rng = np.random.default_rng(0)
    K = np.array([[20.0, 0, 15.5], [0, 20, 11.5], [0, 0, 1]])
    first = View(np.full((24, 32), 2.0, np.float32) + rng.uniform(0, 0.02, (24, 32)).astype(np.float32), K, np.eye(4))
    moved = np.eye(4)
    moved[:3, 3] = (0.23, -0.11, 0.3)
    second = View(first.depth - np.float32(0.3), K, moved)
    second.depth[3:6, 4:9] = 1.0  # something new in front
    labels = rng.integers(0, 5, (24, 32)).astype(np.int32)
    everything = (slice(0, 24), slice(0, 32))
    none = np.zeros((24, 32), bool)
    reference = _Seen(first.depth, K, np.eye(4), labels, none, none, none)
    found = _look_back(second.depth, everything, second, reference, Reproject().config)
    for v in range(24):
        for u in range(32):
            z = float(second.depth[v, u])
            x, y, z = (moved @ [(u - 15.5) * z / 20, (v - 11.5) * z / 20, z, 1])[:3]
            a, b = 20 * x / z + 15.5, 20 * y / z + 11.5
            if abs(a % 1 - 0.5) < 0.02 or abs(b % 1 - 0.5) < 0.02:
                continue  # the nearest pixel is a matter of rounding
            a, b = round(a), round(b)
            inside = 0 <= a < 32 and 0 <= b < 24
            visible = inside and abs(first.depth[b, a] - z) < 0.03
            assert found[v, u] == (labels[b, a] if visible else -1)


def test_a_seed_does_not_stick_to_what_lies_behind_it():
    depth = np.full((40, 40), 3.0, np.float32)
    depth[10:30, 10:30] = 1.5
    mask = np.zeros((40, 40), bool)
    mask[10:30, 13:33] = True  # shifted by three pixels, as badly registered colour is
    solid = _on_one_surface(mask, depth, rim=4)
    assert (solid == (mask & (depth < 2))).all()
    thin = np.zeros((40, 40), bool)
    thin[5:8, 5:8] = True  # nothing is inside: kept as it is
    assert (_on_one_surface(thin, depth, rim=4) == thin).all()


def test_smaller_tracks_keep_their_place_and_known_ones_take_free_pixels_only():
    view = View(np.full((40, 40), 2.0, np.float32), np.array([[40.0, 0, 20], [0, 40, 20], [0, 0, 1]]), np.eye(4))
    small, large, half = (np.zeros((40, 40), bool) for _ in range(3))
    small[10:20, 10:20], large[5:35, 5:35], half[:, :20] = True, True, True
    propagator = Reproject()
    propagator.propagate(0, view, [])
    propagator.add_object(0, view, 1, small)
    propagator.add_object(0, view, 2, large)
    masks = propagator.propagate(1, view, [1, 2])
    assert (masks[1] == small).all()
    assert (masks[2] == large & ~small).all()
    propagator.add_object(1, view, 1, half)
    masks = propagator.propagate(2, view, [1, 2])
    assert (masks[1] == (small | half & ~large)).all()
    assert (masks[2] == large & ~small).all()
    assert propagator.candidates(2, view, [1, 2, 3]) == [1, 2]
    shares = propagator.overlap(2, view, large, [1, 2, 3])
    assert shares[2] == 1
    assert 0 < shares[1] < 0.5
    propagator.remove_object(2)
    assert sorted(propagator.propagate(3, view, [1, 2])) == [1]


def test_missing_depth_takes_the_nearest_label_and_memory_follows_the_surface():
    view = View(np.full((60, 80), 2.0, np.float32), np.array([[80.0, 0, 40], [0, 80, 30], [0, 0, 1]]), np.eye(4))
    left = np.zeros((60, 80), bool)
    left[:, :40] = True
    propagator = Reproject()
    propagator.propagate(0, view, [])
    propagator.add_object(0, view, 1, left)
    holes = View(view.depth.copy(), view.K, view.world_from_cam)
    holes.depth[20:22, 10:12] = 0
    assert (propagator.propagate(1, holes, [1])[1] == left).all()
    size = len(propagator.map)
    for t in range(2, 30):
        propagator.propagate(t, view, [1])
    assert len(propagator.map) <= size * 1.05


def test_frames_without_depth_say_so():
    view = View(None, np.eye(3), np.eye(4))
    with pytest.raises(InputError, match="no depth"):
        Reproject().propagate(0, view, [])
    blind = View(np.zeros((20, 30), np.float32), np.array([[30.0, 0, 15], [0, 30, 10], [0, 0, 1]]), np.eye(4))
    propagator = Reproject()
    for t in range(3):
        assert propagator.propagate(t, blind, []) == {}
