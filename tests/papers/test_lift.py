# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.cluster import DBSCAN

from pc3dcli.geometry.cameras import look_at, visible_pixels
from pc3dcli.papers.granularity.clean import density_components, snap_to_superpoints, split_components
from pc3dcli.papers.granularity.fuse import fuse_tracks
from pc3dcli.papers.granularity.instances import winners
from pc3dcli.papers.granularity.lift import LiftConfig, Lifter, conflict_rate, lift_instances
from pc3dcli.papers.granularity.votes import MAX_TRACKS, PairCounts, PointBlocks, PointVotes

H, W = 48, 64
K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
FRONT = np.eye(4)  # at the origin, looking along +z


def votes_from(table, seen=None):
    """Stand-in for PointVotes holding given {point: {track: votes}}."""
    rows = [(p, t, n) for p, counts in sorted(table.items()) for t, n in sorted(counts.items())]
    point, track, count = np.array(rows, np.int64).reshape(-1, 3).T
    num_points = max(table) + 1
    total = np.bincount(point, count, num_points).astype(np.int64)
    return SimpleNamespace(pairs=lambda: (point, track, count), total=total, num_points=num_points)


# -- spec section 12, test 7


def test_the_winner_has_most_votes_and_the_conflict_is_the_rest():
    votes = votes_from({0: {1: 3, 2: 1}, 2: {1: 4}})
    winner, most, total = winners(*votes.pairs(), 3)
    assert winner.tolist() == [1, -1, 1] and most.tolist() == [3, 0, 4] and total.tolist() == [4, 0, 4]
    assert conflict_rate(votes) == pytest.approx((0.25 + 0) / 2)  # the unseen point does not count


def test_ties_go_to_the_lowest_track_and_empty_votes_to_none():
    assert winners(*votes_from({0: {3: 2, 7: 2}}).pairs(), 1)[0].tolist() == [3]
    empty = np.zeros(0, np.int64)
    assert winners(empty, empty, empty, 2)[0].tolist() == [-1, -1]
    assert conflict_rate(PointVotes(np.zeros((3, 3)))) == 0.0


# -- visibility


def test_blocks_see_what_plain_projection_sees():
    rng = np.random.default_rng(0)
    points, num_seen = rng.uniform(-4, 4, (5000, 3)).astype(np.float32), 0
    for _ in range(6):
        eye = rng.uniform(-2, 2, 3)
        world_from_cam = look_at(eye, eye + rng.normal(size=3), np.array([0, 0, 1.0]))
        depth = rng.uniform(0.5, 5, (H, W)).astype(np.float32)
        depth[rng.random((H, W)) < 0.1] = 0
        point, pixel = PointBlocks(points).visible(depth, K, world_from_cam, 0.5)
        expected_point, expected_pixel = visible_pixels(points, depth, K, world_from_cam, 0.5)
        order = np.argsort(point)
        np.testing.assert_array_equal(point[order], expected_point)
        np.testing.assert_array_equal(pixel[order], expected_pixel)
        num_seen += len(point)
    assert num_seen > 100


@pytest.mark.parametrize(("z", "max_gap", "is_seen"), [(1.04, 0.05, True), (2.0, 0.05, False), (1.1, 0.125, True)])
def test_the_depth_test(z, max_gap, is_seen):
    depth = np.ones((H, W), np.float32)
    point, _ = PointBlocks(np.array([[0, 0, z]])).visible(depth, K, FRONT, max_gap)
    assert (len(point) == 1) == is_seen


def test_the_depth_gap_grows_with_distance_and_its_boundary_counts():
    depth = np.full((H, W), 4.0, np.float32)
    points = np.array([[0, 0, 4.099], [0, 0, 4.11], [0, 0, 3.905], [0, 0, 3.89]])
    assert sorted(PointBlocks(points).visible(depth, K, FRONT, 0.05)[0]) == [0, 2]
    edge = np.array([[0, 0, 1.25]])  # 0.25 is exact in float32
    assert len(PointBlocks(edge).visible(np.ones((H, W), np.float32), K, FRONT, 0.25)[0]) == 1


# -- votes


def random_video(rng, num_frames=30, num_points=400):
    """Points on the plane z = 2, cameras that shift, labels that change."""
    points = np.c_[rng.uniform(-1.5, 1.5, (num_points, 2)), np.full(num_points, 2.0)]
    frames = []
    for _ in range(num_frames):
        pose = np.eye(4)
        pose[:2, 3] = rng.uniform(-0.5, 0.5, 2)
        labels = rng.integers(-1, 4, (H // 8, W // 8)).astype(np.int32).repeat(8, 0).repeat(8, 1)
        frames.append((np.full((H, W), 2.0, np.float32), K, pose, labels))
    return points, frames


def test_votes_equal_a_slow_count():
    points, frames = random_video(np.random.default_rng(1))
    votes = PointVotes(points)
    expected, seen, together = {}, np.zeros(len(points), int), {}
    for depth, camera, pose, labels in frames:
        votes.add_frame(depth, camera, pose, labels)
        present = set()
        for i, x in enumerate(points):
            q = np.linalg.inv(pose) @ np.r_[x, 1]
            u, v = (int(np.floor(camera[a, a] * q[a] / q[2] + camera[a, 2] + 0.5)) for a in (0, 1))
            if 0 <= u < W and 0 <= v < H:
                seen[i] += 1
                if labels[v, u] >= 0:
                    expected[i, labels[v, u]] = expected.get((i, labels[v, u]), 0) + 1
                    present.add(int(labels[v, u]))
        for a in present:
            for b in present:
                if a < b:
                    together[a, b] = together.get((a, b), 0) + 1
    assert {(p, t): n for p, t, n in zip(*votes.pairs(), strict=True)} == expected
    np.testing.assert_array_equal(votes.seen, seen)
    total = np.bincount([p for p, _ in expected], list(expected.values()), len(points))
    np.testing.assert_array_equal(votes.total, total)
    assert {(a, b): n for a, b, n in zip(*votes.frames_together(), strict=True)} == together


def test_reading_the_votes_does_not_change_them():
    points, frames = random_video(np.random.default_rng(2), 9)
    once, often = PointVotes(points), PointVotes(points)
    for frame in frames:
        once.add_frame(*frame)
        often.add_frame(*frame)
        often.pairs()
    for a, b in zip(once.pairs(), often.pairs(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_labels_are_refused():
    votes = PointVotes(np.array([[0, 0, 1.0]]))
    depth = np.ones((H, W), np.float32)
    with pytest.raises(ValueError, match="labels are"):
        votes.add_frame(depth, K, FRONT, np.zeros((H, W - 1), np.int32))
    with pytest.raises(ValueError, match="not below"):
        votes.add_frame(depth, K, FRONT, np.full((H, W), 1 << 20, np.int32))


def test_pair_counts_equal_a_dictionary_and_forget_the_weakest():
    rng = np.random.default_rng(0)
    counts, expected = PairCounts(), {}
    for _ in range(50):
        rows, columns, n = rng.integers(0, 20, 300), rng.integers(0, 9, 300), rng.integers(1, 5, 300)
        counts.add(rows, columns, n)
        for key in zip(rows.tolist(), columns.tolist(), n.tolist(), strict=True):
            expected[key[:2]] = expected.get(key[:2], 0) + key[2]
    assert {(r, c): n for r, c, n in zip(*counts.pairs(), strict=True)} == expected
    few = PairCounts(max_columns=2)
    few.add(np.array([5, 5, 5, 6]), np.array([1, 2, 3, 9]), np.array([4, 1, 7, 1]))
    assert [list(map(int, row)) for row in zip(*few.pairs(), strict=True)] == [[5, 1, 4], [5, 3, 7], [6, 9, 1]]


def test_memory_does_not_follow_the_number_of_ids():
    points, _ = random_video(np.random.default_rng(0), 1)
    votes = PointVotes(points)
    for t in range(60):  # every frame brings a new id, as independent keyframes do
        votes.add_frame(np.full((H, W), 2.0, np.float32), K, FRONT, np.full((H, W), t, np.int32))
    point, _, count = votes.pairs()
    assert np.bincount(point).max() == MAX_TRACKS and (count == 1).all()
    assert votes.total.max() == 60
    assert conflict_rate(votes) == pytest.approx(1 - 1 / 60)


@pytest.mark.parametrize("merge", ["none", "tracks", "consensus"])
def test_forgotten_ids_do_not_disturb_lifting(merge):
    points, _ = random_video(np.random.default_rng(0), 1)
    lifter = Lifter(points, LiftConfig(min_points=1))
    for t in range(60):  # ids 2 t and 2 t + 1 share every frame; most of them no point remembers
        labels = np.full((H, W), 2 * t, np.int32)
        labels[:, W // 2 :] += 1
        lifter.add_frame(np.full((H, W), 2.0, np.float32), K, FRONT, labels)
    known = set(lifter.votes.pairs()[1].tolist())
    instances = lifter.instances(merge)
    assert set(lifter.votes.views()) == known
    assert {track for instance in instances for track in instance.tracks} <= known


# -- fusion of split ids


NONE_TOGETHER = (np.zeros(0, int), np.zeros(0, int), np.zeros(0, int))


def sets(**voxels):
    names = sorted(voxels)
    voxel = np.concatenate([np.array(voxels[n], np.int64) for n in names])
    return voxel, np.concatenate([np.full(len(voxels[n]), int(n[1:])) for n in names])


def test_ids_that_share_half_of_the_smaller_are_one():
    voxel, track = sets(t1=range(10), t5=range(5, 12), t7=range(12, 20), t9=[])
    assert fuse_tracks(voxel, track, NONE_TOGETHER) == {1: 1, 5: 1, 7: 7}  # 5 / 7, then 0 / 8
    assert fuse_tracks(voxel, track, NONE_TOGETHER, merge_iou=0.8) == {1: 1, 5: 5, 7: 7}


def test_objects_seen_together_in_three_frames_stay_apart():
    voxel, track = sets(t1=range(10), t2=range(10), t3=range(10))
    together = (np.array([1, 2]), np.array([2, 3]), np.array([3, 2]))
    assert fuse_tracks(voxel, track, together) == {1: 1, 2: 2, 3: 1}  # 3 joins 1 first, and 1 forbids 2
    assert fuse_tracks(voxel, track, (*together[:2], np.array([2, 2]))) == {1: 1, 2: 1, 3: 1}


def test_the_largest_overlap_goes_first_and_unions_are_compared_anew():
    # 2 lies in 1; 3 overlaps their union by half of itself, but 1 and 2 alone by less
    voxel, track = sets(t1=range(20), t2=range(15, 24), t3=[18, 19, 22, 23, 40, 41, 42, 43])
    assert fuse_tracks(voxel, track, NONE_TOGETHER) == {1: 1, 2: 1, 3: 1}


# -- cleaning


@pytest.mark.parametrize("seed", range(6))
def test_density_components_are_those_of_dbscan(seed):
    rng = np.random.default_rng(seed)
    centers = rng.uniform(0, 1.2, (8, 3))
    points = np.concatenate([c + rng.normal(0, 0.05, (int(rng.integers(2, 150)), 3)) for c in centers])
    points = np.concatenate([points, rng.uniform(-0.5, 1.7, (40, 3))])
    reference = DBSCAN(eps=0.1, min_samples=4).fit(points)
    mine = density_components(points, 0.1, 4)
    np.testing.assert_array_equal(mine < 0, reference.labels_ < 0)
    core = reference.core_sample_indices_
    pairs = set(zip(mine[core].tolist(), reference.labels_[core].tolist(), strict=True))
    assert len(pairs) == len(set(mine[core])) == len(set(reference.labels_[core]))  # one to one


def test_components_are_numbered_by_size():
    points = np.concatenate([np.random.default_rng(0).normal(c, 0.01, (n, 3)) for c, n in ((0, 30), (1, 60), (2, 3))])
    assert np.bincount(density_components(points) + 1).tolist() == [3, 60, 30]
    assert density_components(np.zeros((0, 3))).shape == (0,)
    assert density_components(np.zeros((7, 3))).tolist() == [0] * 7


@pytest.mark.parametrize(("gap", "count"), [(0.09, 1), (0.11, 2)])
def test_cells_join_over_any_of_their_points(gap, count):
    rod = np.arange(0, 0.05, 0.005)  # the first points of the two cells are farther apart than eps
    x = np.concatenate([rod, rod[-1] + gap + rod])
    assert density_components(np.stack([x, 0 * x, 0 * x], axis=1)).max() + 1 == count


def test_an_object_is_cut_where_it_falls_apart():
    sizes = (200, 100, 60, 20)
    points = np.concatenate([np.random.default_rng(0).normal(k, 0.02, (n, 3)) for k, n in enumerate(sizes)])
    whole, second = split_components(points, min_share=0.25)  # 380 points: 200 and 100 are above 95
    assert whole.tolist() == [*range(200), *range(300, 360)]  # 60 points stay with the largest, 20 go
    assert second.tolist() == list(range(200, 300))
    assert [len(part) for part in split_components(points, min_share=2.0)] == [360]
    assert split_components(points[-20:]) == []


def test_snapping_takes_superpoints_by_majority():
    superpoint = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    assert snap_to_superpoints(np.array([0, 1, 2, 4, 5]), superpoint).tolist() == [0, 1, 2, 3]
    assert snap_to_superpoints(np.array([4, 5]), superpoint).tolist() == []  # half is not more than half


# -- the whole


def two_boards():
    """Two boards side by side at z = 2, with a gap of 0.2 m, 2 cm points; the left one is labelled 1, then 3."""
    x, y = np.meshgrid(np.arange(-0.8, 0.8, 0.02), np.arange(-0.5, 0.5, 0.02))
    points = np.stack([x, y, np.full_like(x, 2.0)], -1).reshape(-1, 3)
    points = points[np.abs(points[:, 0]) > 0.1]
    u = (np.arange(W) - K[0, 2]) / K[0, 0] * 2.0
    frames = []
    for t in range(8):
        labels = np.full((H, W), -1, np.int32)
        labels[:, u < -0.1] = 1 if t < 4 else 3
        labels[:, u > 0.1] = 2
        frames.append((np.full((H, W), 2.0, np.float32), K, FRONT, labels))
    return points, frames


def lifted(frames, points, **config):
    lifter = Lifter(points, LiftConfig(**config))
    for frame in frames:
        lifter.add_frame(*frame)
    return lifter


def test_tracks_fuse_split_ids_and_none_does_not():
    points, frames = two_boards()
    lifter = lifted(frames, points)
    fused = lifter.instances("tracks")
    assert [instance.tracks for instance in fused] in ([(1, 3), (2,)], [(2,), (1, 3)])
    assert all(instance.views == 8 and 0.7 < instance.score <= 0.8 for instance in fused)
    for instance in fused:
        sides = points[instance.point_index, 0] > 0
        assert sides.all() or not sides.any()
        assert len(instance.point_index) > 0.9 * len(points) / 2
        assert (np.diff(instance.point_index) > 0).all()
    assert {instance.tracks for instance in lifter.instances("none")} == {(1,), (2,)}  # 3 loses the tie to 1
    assert lifter.conflict_rate() == pytest.approx(0.25, abs=0.02)  # half of the votes on half of the points


def test_the_gates_views_and_sizes_of_the_config_matter():
    points, frames = two_boards()
    assert len(lifted(frames[:2], points).instances("tracks")) == 0  # two views
    assert len(lifted(frames[:2], points, min_views=2).instances("tracks")) == 2
    assert len(lifted(frames, points, min_points=2000).instances("tracks")) == 0
    blank = [(depth, camera, pose, np.full_like(labels, -1)) for depth, camera, pose, labels in frames * 2]
    assert len(lifted(frames + blank, points).instances("tracks")) == 2  # 8 of 24 frames: a third
    assert len(lifted(frames + blank * 2, points).instances("tracks")) == 0  # a fifth
    assert len(lifted(frames, points, merge_iou=1.01, min_vote_share=0.6).instances("tracks")) == 1  # 1 and 3 share


def test_snapping_completes_and_removes():
    points, frames = two_boards()
    side = (points[:, 0] > 0).astype(np.int32)
    snapped = lifted(frames, points).instances("tracks", side)
    assert sorted(len(instance.point_index) for instance in snapped) == sorted(np.bincount(side))
    alone = np.arange(len(points), dtype=np.int32)  # every point its own superpoint: nothing changes
    plain = lifted(frames, points).instances("tracks")
    for a, b in zip(plain, lifted(frames, points).instances("tracks", alone), strict=True):
        np.testing.assert_array_equal(a.point_index, b.point_index)


@pytest.mark.parametrize("merge", ["none", "tracks", "consensus"])
def test_order_of_points_does_not_matter_and_no_point_is_in_two_instances(merge):
    points, frames = two_boards()
    order = np.random.default_rng(0).permutation(len(points))
    plain, shuffled = lifted(frames, points).instances(merge), lifted(frames, points[order]).instances(merge)
    assert {frozenset(i.point_index.tolist()) for i in plain} == {
        frozenset(order[i.point_index].tolist()) for i in shuffled
    }
    every = np.concatenate([instance.point_index for instance in plain])
    assert len(every) == len(set(every.tolist()))


@pytest.mark.parametrize("merge", ["none", "tracks", "consensus"])
def test_scenes_without_votes_or_points_have_no_instances(merge):
    assert Lifter(np.zeros((0, 3))).instances(merge) == []
    lifter = Lifter(np.array([[0, 0, 1.0], [0, 0, 30.0]]))
    assert lifter.instances(merge) == []
    lifter.add_frame(np.zeros((H, W), np.float32), K, FRONT, np.zeros((H, W), np.int32), [np.ones((H, W), bool)])
    assert lifter.instances(merge) == []
    assert lifter.conflict_rate() == 0.0


def test_another_merge_is_refused():
    with pytest.raises(ValueError, match="expected none, tracks or consensus"):
        lift_instances(PointVotes(np.zeros((1, 3))), np.zeros((1, 3)), LiftConfig(), "all")
