# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest

from pc3dcli.geometry.cameras import back_project, visible_pixels
from pc3dcli.geometry.voxels import voxel_centers, voxel_keys
from pc3dcli.masks2d.voxel_prior import VoxelPrior

H, W = 120, 160
K = np.array([[150.0, 0, 79.5], [0, 150.0, 59.5], [0, 0, 1]])


def view(depth: np.ndarray | None, shift: float = 0.0) -> SimpleNamespace:
    world_from_cam = np.eye(4)
    world_from_cam[0, 3] = shift
    return SimpleNamespace(depth=depth, K=K, world_from_cam=world_from_cam, size=(H, W))


def tilted_wall() -> np.ndarray:
    return (1.5 + 0.004 * np.arange(W)[None, :] + np.zeros((H, 1))).astype(np.float32)


def block(top: int, left: int, height: int = 50, width: int = 60) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def spec_ratio(first: np.ndarray, second: np.ndarray, depth: np.ndarray, voxel: float) -> float:
    """Section 4.2 step 3d from its definition: voxels of the mask in the object, over those of it that are seen."""
    points = back_project(depth, K, np.eye(4))
    known, found = (set(voxel_keys(points[mask], voxel).tolist()) for mask in (first, second))
    centers = voxel_centers(np.array(sorted(known)), voxel)
    seen, _ = visible_pixels(centers, depth, K, np.eye(4))
    visible = set(np.array(sorted(known))[seen].tolist())
    return len(found & visible) / len(visible)


@pytest.mark.parametrize("left", [20, 35, 50, 65, 90])
def test_overlap_is_near_the_ratio_of_the_spec(left):
    depth, prior = tilted_wall(), VoxelPrior()
    prior.add(view(depth), {1: block(30, 20)})
    found = prior.overlap(view(depth), block(30, left), [1])[1]
    assert found == pytest.approx(spec_ratio(block(30, 20), block(30, left), depth, 0.05), abs=0.08)


def test_overlap_from_another_pose_and_of_unknown_tracks():
    prior, far = VoxelPrior(), np.full((H, W), 2.0, np.float32)
    prior.add(view(far), {1: block(30, 60)})
    moved = view(far, shift=0.4)  # 30 pixels to the left in the image
    assert prior.overlap(moved, block(30, 30), [1, 2])[1] > 0.9
    assert set(prior.overlap(moved, block(30, 30), [1, 2])) == {1}
    assert prior.overlap(view(far, shift=9.0), block(30, 30), [1]) == {}
    assert prior.overlap(view(None), block(30, 30), [1]) == {}


def test_what_is_known_grows_with_the_surface_and_not_with_the_frames():
    prior, wall = VoxelPrior(), view(np.full((H, W), 2.0, np.float32))
    prior.add(wall, {1: block(30, 20)})
    once = len(prior._voxels[1])
    for _ in range(20):
        prior.add(wall, {1: block(30, 20)})
    assert len(prior._voxels[1]) == once
    prior.add(wall, {1: block(30, 60)})
    assert len(prior._voxels[1]) > once


def test_missing_depth_is_not_lifted():
    depth = np.full((H, W), 2.0, np.float32)
    depth[:, :80] = 0
    prior = VoxelPrior()
    prior.add(view(depth), {1: block(30, 20), 2: block(30, 90)})
    assert len(prior._voxels[1]) == 0
    assert prior.candidates(view(depth), [1, 2], 30) == [2]
    prior.add(view(None), {3: block(30, 20)})
    assert prior.candidates(view(depth), [3], 30) == []


def test_candidates_count_visible_voxels_and_are_fair_to_small_objects():
    depth, prior = np.full((H, W), 2.0, np.float32), VoxelPrior()
    prior.add(view(depth), {1: block(30, 20), 2: block(60, 60, 8, 8)})
    assert len(prior._voxels[2]) < 30
    assert prior.candidates(view(depth), [1, 2], 30) == [1, 2]
    hidden = depth.copy()
    hidden[20:90, 10:90] = 1.0
    assert prior.candidates(view(hidden), [1, 2], 30) == []
    assert prior.candidates(view(None), [2, 7], 30) == [2, 7]


def test_large_images_are_thinned_alike():
    coarse, fine = VoxelPrior(), VoxelPrior()
    coarse.add(view(np.full((H, W), 2.0, np.float32)), {1: block(30, 20)})
    large = view(np.full((4 * H, 4 * W), 2.0, np.float32))
    large.K = K.copy()
    large.K[:2] *= 4
    large.K[:2, 2] = (K[:2, 2] + 0.5) * 4 - 0.5
    fine.add(large, {1: np.kron(block(30, 20), np.ones((4, 4), bool))})
    known, other = (set(prior._voxels[1].tolist()) for prior in (coarse, fine))
    assert len(known & other) / len(known | other) > 0.9


def test_a_wild_pose_lifts_nothing():
    prior, wall = VoxelPrior(), np.full((H, W), 2.0, np.float32)
    prior.add(view(wall, shift=1e12), {1: block(30, 20)})
    assert prior.candidates(view(wall), [1], 30) == []
