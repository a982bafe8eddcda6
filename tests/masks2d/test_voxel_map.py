# SPDX-License-Identifier: Apache-2.0
import numpy as np

from pc3dcli.masks2d.voxel_map import MAX_VOTES, UNSEEN, VoxelMap

SPOTS = np.array([[0.05, 0.05, 0.05], [0.15, 0.05, 0.05], [-0.35, 0.25, 0.95]], np.float32)


def vote(voxels, tracks, seed=False, points=SPOTS):
    tracks = np.broadcast_to(np.int32(tracks), len(points)).astype(np.int32)
    voxels.vote(points, tracks, np.full(len(points), seed))


def test_a_voxel_remembers_its_track():
    voxels = VoxelMap(0.1)
    assert voxels.lookup(SPOTS).tolist() == [UNSEEN] * 3
    vote(voxels, [1, 0, 7])
    assert voxels.lookup(SPOTS + 0.04).tolist() == [1, 0, 7]
    assert voxels.lookup(SPOTS + 0.06).tolist()[2] == UNSEEN
    assert len(voxels) == 3


def test_a_majority_of_frames_moves_a_voxel_and_one_frame_does_not():
    voxels = VoxelMap(0.1)
    for _ in range(50):
        vote(voxels, 1)
    vote(voxels, 2)
    assert voxels.lookup(SPOTS).tolist() == [1] * 3
    for _ in range(MAX_VOTES):
        vote(voxels, 2)
    assert voxels.lookup(SPOTS).tolist() == [2] * 3


def test_empty_surface_gives_way_quickly_and_seeds_at_once():
    voxels = VoxelMap(0.1)
    for _ in range(50):
        vote(voxels, 0)
    for _ in range(3):
        vote(voxels, 4)
    assert voxels.lookup(SPOTS).tolist() == [4] * 3
    for _ in range(50):
        vote(voxels, 4)
    vote(voxels, 5, seed=True)
    assert voxels.lookup(SPOTS).tolist() == [5] * 3


def test_one_frame_is_one_vote_in_any_order():
    points = np.repeat(SPOTS, 40, axis=0)
    tracks = np.tile(np.int32([3, 2]), 60)
    first, second = VoxelMap(0.1), VoxelMap(0.1)
    first.vote(points, tracks, np.zeros(120, bool))
    order = np.random.default_rng(0).permutation(120)
    second.vote(points[order], tracks[order], np.zeros(120, bool))
    assert first.lookup(SPOTS).tolist() == second.lookup(SPOTS).tolist() == [2, 2, 2]
    vote(first, 9)
    vote(first, 9)
    assert first.lookup(SPOTS).tolist() == [9] * 3  # 40 points had not 40 votes


def test_forgotten_tracks_leave_known_empty_surface():
    voxels = VoxelMap(0.1)
    vote(voxels, [1, 2, 2])
    centers, owner = voxels.centers([2, 5])
    assert owner.tolist() == [2, 2]
    assert np.abs(np.sort(centers, axis=0) - np.sort(SPOTS[1:], axis=0)).max() < 1e-6
    voxels.forget(2)
    assert voxels.lookup(SPOTS).tolist() == [1, 0, 0]
    vote(voxels, 6)
    assert voxels.lookup(SPOTS).tolist() == [1, 6, 6]
