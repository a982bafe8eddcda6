# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.papers.granularity.mask_instances import (
    MaskInstance,
    MaskInstancesConfig,
    best_share,
    distinct,
    joined,
    mask_instances,
    on_points,
    snapped,
)

LINE = np.stack([np.arange(60), np.zeros(60), np.zeros(60)], axis=1).astype(np.int64)
ALL = MaskInstancesConfig(keep_share=1.0, cluster_min_neighbors=2)


def logits_of(*masks: slice, inside=2.0, outside=-3.0) -> np.ndarray:
    logits = np.full((len(masks), 60), outside)
    for query, where in enumerate(masks):
        logits[query, where] = inside
    return logits


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def test_score_is_objectness_times_mean_probability_inside():
    logits = logits_of(slice(0, 30))
    logits[0, :10] = 1.0
    classes = np.array([[np.log(3.0), 0.0]])
    (found,) = mask_instances(classes, logits, LINE, ALL)
    assert found.index.tolist() == list(range(30))
    assert found.score == pytest.approx(0.75 * (10 * sigmoid(1) + 20 * sigmoid(2)) / 30)
    assert found.confidence[0] == pytest.approx(sigmoid(1)) and found.confidence[29] == pytest.approx(sigmoid(2))


@pytest.mark.parametrize(
    ("wanted", "in_training", "expected"), [(None, 100, 400), (None, 40, 160), (None, 150, 400), (7, 40, 7)]
)
def test_queries_of_a_scene_follow_from_those_in_training(wanted, in_training, expected):
    assert MaskInstancesConfig(test_queries=wanted).num_queries(in_training) == expected


def test_what_better_instances_cover_is_left_out():
    def one(start, stop, score):
        return MaskInstance(np.arange(start, stop), score, np.ones(stop - start, np.float32))

    best, half, third, apart = one(0, 10, 0.9), one(5, 15, 0.8), one(8, 14, 0.7), one(40, 50, 0.1)
    found = [best, half, third, apart]
    assert distinct(found, MaskInstancesConfig()) == found
    assert distinct(found, MaskInstancesConfig(max_overlap=0.5)) == [best, half, apart]
    assert distinct(found, MaskInstancesConfig(max_overlap=0.4)) == [best, third, apart]  # a third of which is taken
    assert distinct(found, MaskInstancesConfig(max_overlap=0.0)) == [best, apart]
    assert distinct([], MaskInstancesConfig(max_overlap=0.5)) == []


def test_a_logit_of_zero_is_outside():
    logits = logits_of(slice(0, 30))
    logits[:, 30:35] = 0.0
    (found,) = mask_instances(np.zeros((1, 2)), logits, LINE, ALL)
    assert len(found.index) == 30


def test_a_mask_that_falls_apart_is_several_instances_and_crumbs_are_dropped():
    logits = logits_of(slice(0, 20))
    logits[:, 25:45] = 2.0  # 5 voxels further on: beyond the reach of 2.5
    logits[:, 50:58] = 2.0  # 8 voxels are too few
    found = mask_instances(np.zeros((1, 2)), logits, LINE, ALL)
    assert sorted((one.index[0], len(one.index)) for one in found) == [(0, 20), (25, 20)]
    assert len(mask_instances(np.zeros((1, 2)), logits, LINE, MaskInstancesConfig(
        keep_share=1.0, cluster_min_neighbors=2, cluster_reach=7))) == 1  # fmt: skip
    few = MaskInstancesConfig(keep_share=1.0, cluster_min_neighbors=2, min_voxels=8)
    assert len(mask_instances(np.zeros((1, 2)), logits, LINE, few)) == 3


def test_sixteen_voxels_are_enough_and_fifteen_are_not():
    """Segment3D keeps clusters of more than 15."""
    for count in (15, 16):
        assert len(mask_instances(np.zeros((1, 2)), logits_of(slice(0, count)), LINE, ALL)) == (count == 16)


def test_the_best_share_is_kept_by_score():
    classes = np.array([[x, 0.0] for x in (1.0, 4.0, 0.0, 3.0, 2.0)])
    logits = logits_of(*[slice(0, 20)] * 5)
    config = MaskInstancesConfig(cluster_min_neighbors=2)
    scores = [one.score for one in best_share(mask_instances(classes, logits, LINE, config), config)]
    assert len(scores) == 4 and scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(sigmoid(4) * sigmoid(2))
    assert len(best_share(mask_instances(classes, logits, LINE, ALL), ALL)) == 5
    assert len(best_share(mask_instances(classes[:1], logits[:1], LINE, config), config)) == 1


def test_nothing_found():
    assert mask_instances(np.zeros((2, 2)), logits_of(slice(0, 0), slice(0, 0)), LINE, ALL) == []


def test_points_take_the_instances_of_their_voxels():
    instance = MaskInstance(np.array([1, 3]), 0.5, np.array([0.6, 0.9], np.float32))
    (moved,) = on_points([instance], np.array([3, 0, 1, -1, 3]))
    assert moved.index.tolist() == [0, 2, 4] and moved.score == 0.5
    np.testing.assert_allclose(moved.confidence, [0.9, 0.6, 0.9])


def test_superpoints_join_where_more_than_half_is_in():
    superpoint = np.array([0, 0, 1, 1, 1, 2])
    instance = MaskInstance(np.array([0, 2, 3]), 0.5, np.array([0.6, 0.7, 0.8], np.float32))
    (found,) = snapped([instance], superpoint, ALL)  # half of the first is not more than half
    assert found.index.tolist() == [2, 3, 4]
    np.testing.assert_allclose(found.confidence, [0.7, 0.8, 0.5])
    assert snapped([MaskInstance(np.array([0]), 1.0, np.ones(1, np.float32))], superpoint, ALL) == []


def piece_of(*index: int, score=0.5) -> MaskInstance:
    return MaskInstance(np.array(index), score, np.full(len(index), 0.6, np.float32))


def shared(first: int, last: int) -> np.ndarray:
    return (np.arange(100) >= first) & (np.arange(100) < last)


def test_what_two_pieces_agree_on_is_one_instance():
    earlier = [piece_of(0, 1, 2, 3, 4, 5, score=0.8), piece_of(20, 21)]
    (first, second) = joined(earlier, [piece_of(4, 5, 6, 7, score=0.2)], shared(4, 6), 0.5, 1)
    assert first.index.tolist() == list(range(8)) and second.index.tolist() == [20, 21]
    assert first.score == pytest.approx((6 * 0.8 + 4 * 0.2) / 10)


def test_what_they_do_not_agree_on_stays_apart_and_the_best_is_first():
    earlier = [piece_of(0, 1, 2, 3, 4, 5, score=0.4)]
    result = joined(earlier, [piece_of(5, 6, 7, 8, score=0.9)], shared(2, 8), 0.5, 1)
    assert [one.index.tolist() for one in result] == [[5, 6, 7, 8], [0, 1, 2, 3, 4, 5]]


def test_an_instance_joins_the_one_it_agrees_with_most_and_each_joins_once():
    earlier = [piece_of(0, 1, 2, 3), piece_of(2, 3, 4, 5, 6)]
    result = joined(earlier, [piece_of(3, 4, 5, 6, 7), piece_of(2, 4, 5, 6)], shared(0, 30), 0.5, 1)
    assert sorted(one.index.tolist() for one in result) == [[0, 1, 2, 3], [2, 3, 4, 5, 6], [3, 4, 5, 6, 7]]


def test_a_mask_over_everything_swallows_nothing():
    chair, group = piece_of(*range(10), score=0.9), piece_of(*range(60), score=0.1)
    result = joined([chair], [chair, group], shared(0, 60), 0.5, 1)
    assert [len(one.index) for one in result] == [10, 60] and result[0].score == pytest.approx(0.9)


def test_a_sliver_in_common_is_no_agreement():
    result = joined([piece_of(*range(20))], [piece_of(*range(18, 60))], shared(18, 20), 0.5, 3)
    assert [len(one.index) for one in result] == [20, 42]
