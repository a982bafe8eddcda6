# SPDX-License-Identifier: Apache-2.0
import numpy as np

from pc3dcli.metrics import instance_extras
from pc3dcli.metrics.instance_ap import AT_50, TruthRule, average_precision, class_scores, match_scene, scene_truth

RULE = TruthRule((3, 5), min_region=10)


def make_scene(ids, predictions):
    truth = scene_truth(ids, RULE)
    table = np.stack([truth.overlaps(mask) for mask, _, _ in predictions])
    labels = RULE.class_index(np.array([label for _, label, _ in predictions]))
    scores = np.array([score for _, _, score in predictions], float)
    return match_scene(truth, table, labels, scores, num_classes=2)


def random_scene(rng):
    ids = np.repeat([0, 3001, 3002, 5001], 20)
    predictions = []
    for number in rng.choice([0, 3001, 3002, 5001], 5):
        mask = (ids == number) & (rng.random(ids.size) < 0.9)
        mask[:10] = True  # never below the region limit
        predictions.append((mask, int(rng.choice([3, 5])), round(float(rng.random()), 1)))
    return make_scene(ids, predictions)


def test_a_resample_equals_the_scenes_repeated():
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(5)]
    counts = rng.multinomial(5, np.full(5, 0.2), 20)
    for c, t, score, is_true, owner in instance_extras._entries_with_scene(scenes):
        truth = counts @ np.array([scene.num_truth[c] for scene in scenes])
        values = instance_extras._weighted_ap(score, is_true, counts[:, owner], truth)
        for row, value in zip(counts, values, strict=True):
            repeated = [scene for scene, count in zip(scenes, row, strict=True) for _ in range(count)]
            expected = class_scores(repeated, 2).ap[c, t]
            assert np.isnan(expected) or abs(expected - value) < 1e-12


def test_weighted_ap_of_one_each_is_the_plain_one():
    score, is_true = np.array([0.1, 0.1, 0.4, 0.9]), np.array([True, False, False, True])
    one = instance_extras._weighted_ap(score, is_true, np.ones((1, 4), int), np.array([3]))
    assert abs(one[0] - average_precision(score, is_true, 3)) < 1e-15


def test_intervals_hold_the_value_and_follow_the_seed():
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng) for _ in range(12)]
    value = class_scores(scenes, 2).ap[:, AT_50].mean()
    first = instance_extras.bootstrap_intervals(scenes, 200, np.random.default_rng(5))
    low, high = first["ap50"]
    assert low < value < high
    assert first == instance_extras.bootstrap_intervals(scenes, 200, np.random.default_rng(5))
    assert first != instance_extras.bootstrap_intervals(scenes, 200, np.random.default_rng(6))


def test_intervals_of_a_set_without_truth_are_undefined():
    empty = make_scene(np.zeros(50, np.int64), [(np.ones(50, bool), 3, 1.0)])
    assert instance_extras.bootstrap_intervals([empty], 10, np.random.default_rng(0))["ap"] == [None, None]


def test_recall_by_size():
    ids = np.concatenate([np.full(size, 3001 + k) for k, size in enumerate((499, 500, 4999, 5000))])
    scene = make_scene(ids, [(ids == 3001, 3, 1.0), (ids == 3003, 3, 1.0)])
    bins = instance_extras.recall_by_size([scene])
    assert [(name, row["gt"], row["rc50"]) for name, row in bins.items()] == [
        ("<500", 1, 1.0), ("<5000", 2, 0.5), ("rest", 1, 0.0),
    ]  # fmt: skip
    assert instance_extras.recall_by_size([])["rest"] == {"gt": 0, "rc": None, "rc50": None, "rc25": None}


def test_confusion_counts_the_best_scored_class_and_what_has_no_partner():
    ids = np.repeat([0, 3001, 3002, 5001], 20)
    scene = make_scene(ids, [(ids == 3001, 3, 0.2), (ids == 3001, 5, 0.9), (ids == 5001, 5, 0.1), (ids == 0, 3, 1.0)])
    table = instance_extras.confusion([scene], 2)
    assert table.tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 0]]
