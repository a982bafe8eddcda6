# SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.metrics.instance_ap import (
    AT_25,
    AT_50,
    OVER_50,
    THRESHOLDS,
    TruthRule,
    average_precision,
    class_scores,
    match_scene,
    mean_or_none,
    scene_truth,
)

_spec = importlib.util.spec_from_file_location("instance_oracle", Path(__file__).with_name("instance_oracle.py"))
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)

KEEP = TruthRule((3, 5), min_region=10)


def match(ids, predictions, rule=KEEP, **options):
    """Match [(mask (N,) bool, label, score)] against ids (N,)."""
    truth = scene_truth(np.asarray(ids), rule)
    masks = [np.asarray(mask, bool) for mask, _, _ in predictions]
    table = np.stack([truth.overlaps(m) for m in masks]) if masks else np.zeros((0, truth.ids.size + 2), np.int64)
    labels = rule.class_index(np.array([label for _, label, _ in predictions], np.int64))
    scores = np.array([score for _, _, score in predictions], np.float64)
    return match_scene(truth, table, labels, scores, num_classes=rule.num_classes, **options)


def ap(scenes, rule=KEEP):
    return class_scores(scenes, rule.num_classes).ap


def at(scene, threshold):
    """Return the sorted (score, is_true) entries at one threshold."""
    here = scene.threshold == threshold
    return sorted(zip(scene.score[here].tolist(), scene.is_true[here].tolist(), strict=True))


def span(start, stop, size=100):
    mask = np.zeros(size, bool)
    mask[start:stop] = True
    return mask


def random_scene(rng, labels, min_region):
    """Instances at the borders of every rule, masks at exact thresholds, ties, duplicates, unions, nothing."""
    sizes = rng.choice([min_region - 1, min_region, min_region + 1, 2 * min_region, 4 * min_region], rng.integers(1, 6))
    numbers = []
    for k, size in enumerate(sizes, 1):
        kind = rng.random()
        label = int(rng.choice(labels + [1, 99]))
        number = label * 1000 + k if kind < 0.75 else int(rng.choice([k, -100, label * 1000, 0]))
        numbers += [number] * int(size)
    ids = np.array(numbers + [0] * int(rng.integers(0, 2 * min_region)))
    predictions = []
    for _ in range(int(rng.integers(0, 8))):
        members = np.flatnonzero(ids == rng.choice(ids))
        mask = np.zeros(ids.size, bool)
        kind = rng.random()
        if kind < 0.6:  # part of one instance: the IoU is exactly that share
            share = rng.choice([0.25, 0.5, 0.55, 0.6, 0.7, 0.75, 0.9, 1.0])
            mask[rng.permutation(members)[: round(share * members.size)]] = True
        elif kind < 0.75:
            mask[members] = mask[ids == rng.choice(ids)] = True
        elif kind < 0.85:
            mask = rng.random(ids.size) < rng.random()
        elif predictions:
            mask = predictions[int(rng.integers(len(predictions)))][0].copy()
        predictions.append((mask, int(rng.choice(labels + [1])), float(rng.choice([0.0, 0.25, 0.5, 1.0]))))
    return ids, predictions


@pytest.mark.parametrize("merge", [None, "all", "modulo", "listed"])
@pytest.mark.parametrize("labels", [[3, 5], [0, 2]])
def test_equals_the_slow_definition(merge, labels):
    rng = np.random.default_rng(7)
    compared = 0
    for _ in range(40):
        min_region = int(rng.choice([10, 16]))
        void_labels = (labels[1],) if merge and rng.random() < 0.3 else ()
        rule = TruthRule(tuple(labels), merge, void_labels, min_region)
        scenes = [random_scene(rng, labels, min_region) for _ in range(2)]
        ours = ap([match(ids, predictions, rule) for ids, predictions in scenes], rule)
        slow = oracle.evaluate(
            [
                oracle.Scene(ids.tolist(), [(set(np.flatnonzero(m).tolist()), c, s) for m, c, s in predictions])
                for ids, predictions in scenes
            ],
            merge or "keep", labels, min_region, void_labels,
        )  # fmt: skip
        for (label, k), expected in slow.items():
            value = ours[0 if merge else labels.index(label), k]
            assert np.isnan(value) if expected is None else abs(value - expected) < 1e-12
            compared += expected not in (None, 0.0, 1.0)
    assert compared > 20  # the cases are not trivial


def test_thresholds_are_nine_and_a_quarter():
    assert np.allclose(THRESHOLDS, [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.25])


def test_perfect_prediction_is_one_at_every_threshold():
    ids = np.repeat([0, 3001, 3002, 5001], 25)
    result = ap([match(ids, [(ids == i, i // 1000, 0.5) for i in (3001, 3002, 5001)])])
    assert (result == 1).all()


def test_swapped_classes_score_zero():
    ids = np.repeat([3001, 5001], 50)
    assert (ap([match(ids, [(ids == 3001, 5, 1.0), (ids == 5001, 3, 1.0)])]) == 0).all()


def test_no_prediction_is_zero_and_no_truth_is_undefined():
    result = ap([match(np.repeat([3001], 50), [])])
    assert (result[0] == 0).all() and np.isnan(result[1]).all()
    assert np.isnan(ap([])).all()


def test_prediction_on_a_class_without_truth_stays_undefined():
    result = ap([match(np.repeat([3001, 0], 50), [(span(50, 100), 5, 1.0)])])
    assert np.isnan(result[1]).all()


def test_an_iou_equal_to_the_threshold_is_no_match():
    ids = np.repeat([3001], 20)
    for share, hit in ((10, [AT_25]), (11, [AT_50, AT_25]), (14, [0, 1, 2, 3, AT_25])):
        result = ap([match(ids, [(span(0, share, 20), 3, 1.0)])])[0]
        assert np.flatnonzero(result == 1).tolist() == sorted(hit)
    assert (ap([match(np.repeat([3001], 40), [(span(0, 10, 40), 3, 1.0)])])[0] == 0).all()  # exactly 0.25


def test_sixty_percent_of_one_object_hits_up_to_055():
    result = ap([match(np.repeat([3001], 100), [(span(0, 60), 3, 1.0)])])[0]
    assert result.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_one_large_mask_takes_only_the_first_instance_by_id():
    ids = np.repeat([3002, 3001], 50)
    scene = match(ids, [(np.ones(100, bool), 3, 0.7)])
    assert at(scene, AT_25) == [(0.7, True)]
    found = scene.truth_found[AT_25]
    assert found.tolist() == [True, False]  # 3001 although 3002 comes first in the file


def test_second_mask_is_false_and_may_still_match_a_later_instance():
    ids = np.repeat([3001, 3002], [40, 60])
    first = (span(0, 40), 3, 0.2)
    both = (np.ones(100, bool), 3, 0.9)  # IoU 0.4 with 3001, 0.6 with 3002
    scene = match(ids, [first, both])
    # 3001 keeps the higher score, the lower is false; `both` is free to match 3002 as well
    assert at(scene, AT_25) == [(0.2, False), (0.9, True), (0.9, True)]


def test_order_matters_only_at_a_quarter():
    ids = np.repeat([3001, 3002], [40, 60])
    predictions = [(np.ones(100, bool), 3, 0.9), (span(0, 40), 3, 0.2)]
    forward, backward = match(ids, predictions), match(ids, predictions[::-1])
    for k in range(9):
        assert at(forward, k) == at(backward, k)
    assert at(forward, AT_25) != at(backward, AT_25)


def test_duplicate_is_a_false_positive_of_the_lower_score():
    ids = np.repeat([3001], 50)
    scene = match(ids, [(span(0, 50, 50), 3, 0.3), (span(0, 50, 50), 3, 0.8)])
    assert at(scene, AT_50) == [(0.3, False), (0.8, True)]


def test_mask_in_void_is_ignored_beyond_the_threshold_only():
    ids = np.repeat([0, 3001, 5001], [50, 40, 10])
    scene = match(ids, [(span(0, 50), 3, 1.0), (span(25, 75), 3, 0.5)])
    assert (1.0, False) not in at(scene, AT_50)
    assert (0.5, False) in at(scene, AT_50)  # half void: 0.5 <= 0.5 counts
    assert scene.num_ignored == 1


def test_small_and_group_instances_are_ignored_and_count_twice_together():
    rule = TruthRule((0, 3), min_region=10)
    # id 7 is a group of class 0 with 6 vertices: counted twice it covers 12 of 20 vertices, once only 6
    ids = np.array([7] * 6 + [0] * 14 + [3001] * 20)
    scene = match(ids, [(span(0, 20, 40), 0, 1.0)], rule)
    assert at(scene, AT_50) == []
    assert at(scene, 4) == [(1.0, False)]  # 0.6 <= 0.7


def test_small_instances_of_other_classes_are_not_ignored():
    ids = np.array([5001] * 9 + [3001] * 91)
    mask = span(0, 10)
    assert at(match(ids, [(mask, 3, 1.0)]), AT_50) == [(1.0, False)]
    assert at(match(ids, [(mask, 5, 1.0)]), AT_50) == []


def test_all_predictions_ignored_is_zero():
    ids = np.repeat([0, 3001], 50)
    assert (ap([match(ids, [(span(0, 50), 3, 1.0)])])[0] == 0).all()


def test_region_limits():
    ids = np.array([3001] * 9 + [3002] * 10 + [0] * 30)
    scene = match(ids, [(ids == 3002, 3, 1.0), (ids == 3001, 3, 1.0)])
    assert scene.num_truth.tolist() == [1, 0] and at(scene, AT_50) == [(1.0, True)]
    assert scene.num_ignored == 1


def test_class_zero_is_never_eligible_when_classes_are_kept():
    rule = TruthRule((0, 1), min_region=10)
    ids = np.repeat([1, 1001], 50)
    result = ap([match(ids, [(ids == 1, 0, 1.0), (ids == 1001, 1, 1.0)], rule)], rule)
    assert np.isnan(result[0]).all() and (result[1] == 1).all()


def test_labels_outside_the_list_are_dropped():
    ids = np.repeat([3001], 50)
    scene = match(ids, [(ids == 3001, 9, 1.0)])
    assert scene.score.size == 0 and scene.num_ignored == 1


def test_merge_all_counts_every_label_and_modulo_folds_what_is_unlabelled():
    ids = np.repeat([0, 1001, 3002], [20, 40, 40])
    everything = [(ids == i, 0, 1.0) for i in (0, 1001, 3002)]
    assert match(ids, everything, TruthRule((3, 5), "all", min_region=10)).num_truth.tolist() == [2]
    folded = match(ids, everything, TruthRule((3, 5), "modulo", min_region=10))
    assert folded.num_truth.tolist() == [3] and (at(folded, AT_50) == [(1.0, True)] * 3)
    listed = match(ids, everything, TruthRule((3, 5), "listed", min_region=10))
    assert listed.num_truth.tolist() == [1] and at(listed, AT_50) == [(1.0, True)]


def test_modulo_merges_equal_numbers_and_wraps_negative_ids():
    truth = scene_truth(np.repeat([3001, 5001, -100], 20), TruthRule((3,), "modulo"))
    assert truth.ids.tolist() == [1001, 1900] and truth.sizes.tolist() == [40, 20]


@pytest.mark.parametrize("merge", ["all", "modulo", "listed"])
def test_void_labels(merge):
    truth = scene_truth(np.repeat([3001, 5001], 20), TruthRule((3, 5), merge, (5,)))
    assert truth.ids.size == 1
    assert truth.overlaps(np.ones(40, bool)).tolist() == [20, 0, 20]


def test_ids_far_apart_take_the_same_path():
    near = np.repeat([0, 3001, 5001], 20)
    far = np.where(near == 5001, 5_000_000_001, near)
    rule = TruthRule((3, 5_000_000), min_region=10)
    assert scene_truth(far, rule).column.tolist() == scene_truth(near, KEEP).column.tolist()


def test_uniform_scores_give_recall_times_one_plus_precision_over_two():
    score, is_true = np.ones(4), np.array([True, True, True, False])
    assert average_precision(score, is_true, 4) == 0.65625


@pytest.mark.parametrize("count", [3, 7, 49, 1000])
def test_a_perfect_curve_is_exactly_one(count):
    assert average_precision(np.linspace(0, 1, count), np.ones(count, bool), count) == 1.0


def test_ties_do_not_depend_on_order():
    rng = np.random.default_rng(0)
    score = np.sort(rng.choice([0.0, 0.5, 1.0], 50))
    is_true = rng.random(50) < 0.5
    shuffled = is_true.copy()
    for value in (0.0, 0.5, 1.0):
        shuffled[score == value] = rng.permutation(shuffled[score == value])
    assert average_precision(score, is_true, 60) == average_precision(score, shuffled, 60)


def test_vertices_and_scenes_may_be_permuted():
    rng = np.random.default_rng(3)
    scenes = [random_scene(rng, [3, 5], 10) for _ in range(4)]
    plain = ap([match(*scene) for scene in scenes])
    moved = []
    for ids, predictions in scenes:
        order = rng.permutation(ids.size)
        moved.append(match(ids[order], [(mask[order], label, score) for mask, label, score in predictions]))
    assert np.array_equal(plain, ap(moved[::-1]), equal_nan=True)


def test_columns_at_once_equal_columns_one_by_one():
    rng = np.random.default_rng(4)
    truth = scene_truth(rng.choice([0, 3001, 5001, 1001], 300), KEEP)
    for masks in (rng.random((300, 7)) < 0.3, np.asfortranarray(rng.random((300, 7)) < 0.3), np.zeros((300, 0), bool)):
        expected = [truth.overlaps(mask) for mask in masks.T]
        assert truth.overlaps_of_columns(masks).tolist() == [row.tolist() for row in expected]


def test_empty_scene():
    scene = match(np.zeros(0, np.int64), [(np.zeros(0, bool), 3, 1.0)])
    assert np.isnan(ap([scene])).all()


def test_rows_name_every_outcome_once():
    ids = np.repeat([0, 3001, 3002, 5001], 25)
    predictions = [(span(25, 50), 3, 0.5), (span(25, 50), 3, 0.9), (span(0, 25), 3, 1.0), (span(75, 100), 3, 1.0)]
    rows = [row for row in match(ids, predictions, keep_rows=True).rows if row.threshold == AT_50]
    outcomes = sorted((row.outcome, row.truth_id, row.prediction) for row in rows)
    expected = [(0, 3001, 0), (1, 3001, 1), (2, 3002, -1), (2, 5001, -1), (3, -1, 3), (4, -1, 2)]
    assert outcomes == expected
    assert match(ids, predictions).rows == []


def test_means_skip_what_is_undefined():
    values = np.array([[1.0, np.nan], [0.0, np.nan]])
    assert mean_or_none(values) == 0.5 and mean_or_none(values[:, 1]) is None
    assert len(range(*OVER_50.indices(10))) == 9
