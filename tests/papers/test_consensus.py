# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.geometry.voxels import voxel_groups
from pc3dcli.papers.granularity.consensus import Witness, adjacent_units, join_groups
from pc3dcli.papers.granularity.evidence import ViewEvidence
from pc3dcli.papers.granularity.lift import LiftConfig, Lifter

H, W = 48, 96
K = np.array([[60.0, 0, 47.5], [0, 60, 23.5], [0, 0, 1]])
DEPTH = np.full((H, W), 2.0, np.float32)
X = (np.arange(W) - K[0, 2]) / K[0, 0] * 2.0  # metres, of each column


def board_points():
    """A plane of 2 cm points at z = 2: four panels A B C D of 0.6 m side by side, A touching B and C touching D."""
    x, y = np.meshgrid(np.arange(-1.4, 1.4, 0.02), np.arange(-0.5, 0.5, 0.02))
    points = np.stack([x, y, np.full_like(x, 2.0)], -1).reshape(-1, 3)
    return points[np.abs(points[:, 0]) > 0.15]


def panel(low, high):
    return np.broadcast_to((low <= X) & (high > X), (H, W)).copy()


A, B, C, D = panel(-1.4, -0.75), panel(-0.75, -0.15), panel(0.15, 0.75), panel(0.75, 1.4)


def labels_of(*masks):
    labels = np.full((H, W), -1, np.int32)
    for k, mask in enumerate(masks):
        labels[mask] = k
    return labels


def lift(detections, labels, merge="consensus", **config):
    points = board_points()
    lifter = Lifter(points, LiftConfig(**config))
    for masks in detections:
        lifter.add_frame(DEPTH, K, np.eye(4), labels, masks)
    instances = lifter.instances(merge)
    spans = [(points[i.point_index, 0].min(), points[i.point_index, 0].max()) for i in instances]
    return instances, sorted((round(float(a), 1), round(float(b), 1)) for a, b in spans)


WHOLE, PARTS, MERGED = [A | B, C | D], [A, B, C, D], [A | B | C, D]


def test_parts_that_half_of_the_views_join_are_one_object():
    instances, spans = lift([WHOLE, PARTS] * 5, labels_of(A, B, C, D))
    assert spans == [(-1.4, -0.2), (0.2, 1.4)]
    # the tracks were frozen at parts; section 5 alone keeps them apart
    assert len(lift([WHOLE, PARTS] * 5, labels_of(A, B, C, D), "tracks")[1]) == 4
    assert all(instance.views == 10 for instance in instances)
    assert {instance.tracks for instance in instances} == {(0, 1), (2, 3)}


def test_objects_that_one_view_in_ten_joins_stay_two_although_the_track_joins_them():
    frozen = labels_of(A | B | C, D)
    instances, spans = lift([MERGED] + [WHOLE] * 9, frozen)
    assert spans == [(-1.4, -0.2), (0.2, 1.4)]
    assert (0.2, 0.7) in lift([MERGED] + [WHOLE] * 9, frozen, "tracks")[1]  # C without D
    assert instances[0].score > 0.5


@pytest.mark.parametrize(("share", "expected"), [(2, 4), (4, 2)])  # of ten views, for 0.25
def test_the_least_share_of_views_decides(share, expected):
    views = [WHOLE] * share + [PARTS] * (10 - share)
    assert len(lift(views, labels_of(A, B, C, D))[1]) == expected
    assert len(lift(views, labels_of(A, B, C, D), same_object=0.15)[1]) == 2
    assert len(lift(views, labels_of(A, B, C, D), same_object=0.9)[1]) == 4


def test_groups_that_do_not_touch_need_more_views():
    views = [[A | D, B, C]] * 3 + [PARTS] * 7
    assert len(lift(views, labels_of(A, B, C, D))[1]) == 4
    instances, _ = lift(views, labels_of(A, B, C, D), same_object_apart=0.2)
    assert len(instances) == 3


def test_nested_masks_count_as_the_larger():
    assert len(lift([[*WHOLE, A]] * 6, labels_of(A | B, C | D))[1]) == 2


def test_without_detections_the_tracks_decide():
    none = [None] * 6
    instances, spans = lift(none, labels_of(A, B, C, D))
    assert len(spans) == 4
    assert all(0.5 < instance.score <= 1 for instance in instances)
    assert len(lift(none, labels_of(A | B, C | D))[1]) == 2


def test_scores_rank_the_sure_before_the_doubtful():
    # A B is always whole; C D is whole in half of the views
    instances, _ = lift([[A | B, C | D], [A | B, C, D]] * 4, labels_of(A | B, C | D))
    points = board_points()
    assert [points[i.point_index, 0].mean() < 0 for i in instances] == [True, False]
    assert instances[0].score > instances[1].score + 0.1


def test_what_few_views_mask_is_not_an_object():
    assert len(lift([[A | B]] * 2 + [[C | D]] * 8, labels_of())[1]) == 1
    assert len(lift([[A | B]] * 2, labels_of())[1]) == 0  # two views
    assert len(lift([[A | B]] * 2, labels_of(), min_views=2)[1]) == 1


def test_adjacency_equals_a_slow_search():
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.4, 0.4, (300, 3))
    keys, group, _ = voxel_groups(points, 0.1)
    cells = np.zeros((len(keys), 3), int)
    cells[group] = np.floor(points / 0.1).astype(int)
    expected = {
        (a, b) for a in range(len(keys)) for b in range(len(keys)) if a < b and np.abs(cells[a] - cells[b]).max() == 1
    }
    assert {tuple(sorted(pair)) for pair in adjacent_units(keys).tolist()} == expected
    assert len(adjacent_units(keys)) == len(expected)
    assert adjacent_units(keys[:1]).shape == (0, 2)


@pytest.mark.parametrize("seed", range(8))
def test_joining_equals_a_literal_average_linkage(seed):
    rng = np.random.default_rng(seed)
    count = 14
    seen = rng.integers(0, 5, (count, count)).astype(np.float32)
    together = (seen * rng.random((count, count))).astype(np.float32)
    touch = rng.random((count, count)) < 0.4
    seen, together, touch = (np.triu(m, 1) + np.triu(m, 1).T for m in (seen, together, touch))
    pairs = (seen > 0).astype(np.float32)
    many = 100 * pairs  # so many views that their number does not matter
    groups = [[k] for k in range(count)]
    while True:
        best = (-1.0, 0, 0)
        for a in range(len(groups)):
            for b in range(a):
                where = np.ix_(groups[a], groups[b])
                if seen[where].sum() > 0:
                    needed = 0.4 if touch[where].any() else 0.6
                    best = max(best, (together[where].sum() / seen[where].sum() - needed, a, b))
        if best[0] < 0:
            break
        groups[best[2]] += groups.pop(best[1])
    found = join_groups(Witness(together.copy(), seen.copy(), many, pairs, touch.copy()), 0.4, 0.6)
    assert sorted(sorted(g) for g in groups) == [np.flatnonzero(found == k).tolist() for k in range(found.max() + 1)]


def test_evidence_keeps_a_bounded_number_of_views_evenly():
    points = board_points()
    evidence = ViewEvidence(points, 0.05, max_views=8)
    point = np.arange(len(points))
    for t in range(50):
        pixel = np.full(len(points), t)
        masks = [np.zeros((H, W), bool)]
        masks[0].reshape(-1)[t] = True
        evidence.add_view(point, pixel, masks)
        assert len(evidence.views) <= 8
    assert len(evidence.views) >= 4
    assert all(len(view.masks) == 1 and len(view.masks[0]) == len(evidence.keys) for view in evidence.views)


def test_a_unit_belongs_to_a_mask_that_holds_most_of_its_points():
    points = np.array([[0.01, 0, 0], [0.02, 0, 0], [0.03, 0, 0], [0.2, 0, 0]])
    evidence = ViewEvidence(points, 0.05)
    mask = np.array([[True, True, False, False]])
    evidence.add_view(np.arange(4), np.arange(4), [mask, ~mask, np.zeros((1, 4), bool)])
    view = evidence.views[0]
    assert view.unit.tolist() == [0, 1]
    assert [m.tolist() for m in view.masks] == [[0], [1]]  # empty masks are left out


@pytest.mark.parametrize(("joining", "expected"), [(1, 4), (2, 2)])
def test_of_three_views_one_is_not_enough(joining, expected):
    views = [WHOLE] * joining + [PARTS] * (3 - joining)
    assert len(lift(views, labels_of(A, B, C, D))[1]) == expected


def test_a_single_view_is_believed():
    assert len(lift([WHOLE], labels_of(A, B, C, D), min_views=1)[1]) == 2


def test_tracks_join_what_no_view_sees_at_once():
    # A B and C D are never masked in the same view; one track holds all that is left of the gap
    views = [[A, B], [A, B]] * 3
    assert len(lift(views, labels_of(A, B, C | D))[1]) == 3


def test_dense_clouds_get_smaller_units():
    x = np.stack(np.meshgrid(np.arange(60), np.arange(60), [0]), -1).reshape(-1, 3) * 0.005
    assert len(ViewEvidence(x, 0.05).keys) > 200  # 36 at 5 cm
    assert len(ViewEvidence(x[:1].repeat(100, 0), 0.05).keys) == 1
