# SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.metrics import miou

_SPEC = importlib.util.spec_from_file_location("miou_oracle", Path(__file__).with_name("miou_oracle.py"))
oracle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle)

IDS = (1, 2, 3, 14, 39)


def scores(truth, prediction, ids=IDS):
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    counts = miou.class_counts(miou.label_confusion(truth, prediction, miou.label_table(ids), len(ids)))
    iou, acc = miou.class_iou(counts), miou.class_accuracy(counts)
    return iou, acc, miou.mean_defined(iou), miou.mean_defined(acc), miou.overall_accuracy(counts)


def none_to_nan(values):
    return np.array([np.nan if value is None else value for value in values], float)


def test_a_prediction_outside_the_list_is_a_miss_and_nobodys_false_positive():
    iou, acc, mean_iou, mean_acc, overall = scores([1, 1, 1, 1], [1, 1, 13, -5])
    assert iou[0] == acc[0] == overall == mean_iou == mean_acc == 0.5
    assert np.isnan(iou[1:]).all()


def test_a_false_positive_on_a_vertex_without_class_does_not_count():
    iou, *_ = scores([1, 0, 40, 13], [1, 2, 2, 2])
    assert iou[0] == 1 and np.isnan(iou[1])


def test_a_class_without_ground_truth_that_was_predicted_counts_in_miou_and_not_in_mean_accuracy():
    iou, acc, mean_iou, mean_acc, _ = scores([1, 1, 2, 2], [1, 1, 2, 39])
    assert iou[4] == 0 and np.isnan(acc[4])
    assert mean_iou == pytest.approx((1 + 0.5 + 0) / 3) and mean_acc == 0.75


@pytest.mark.parametrize("truth", [[], [0, 0], [-100, 40]])
def test_nothing_to_score_is_undefined(truth):
    assert all(np.isnan(part).all() for part in scores(np.array(truth, int), np.array(truth, int)))


@pytest.mark.parametrize("last", [39, 254, 255, 1191])  # ids up to 254 are counted as they are
@pytest.mark.parametrize("seed", range(20))
def test_scores_as_the_loop_says(seed, last):
    rng, ids = np.random.default_rng(seed), (*IDS[:4], last)
    size = int(rng.choice([0, 1, 2, 50, 140_000] if seed == 0 else [0, 1, 2, 50, 500]))
    truth = rng.choice([*ids[: rng.integers(1, 6)], 0, 13, -100, last + 1, 5000, 2**40], size)
    others = [*ids, 0, 41, -1, last + 1, 256 + last, -(2**62)]
    prediction = np.where(rng.random(size) < 0.5, truth, rng.choice(others, size))
    iou, acc, *means = scores(truth, prediction, ids)
    expected_iou, expected_acc, *expected = oracle.scores(zip(truth.tolist(), prediction.tolist(), strict=True), ids)
    assert np.array_equal(iou, none_to_nan(expected_iou.values()), equal_nan=True)
    assert np.array_equal(acc, none_to_nan(expected_acc.values()), equal_nan=True)
    assert np.allclose(means, none_to_nan(expected), atol=1e-15, equal_nan=True)


def test_small_label_types_are_read_alike():
    truth, prediction = np.array([1, 2, 39, 255]), np.array([1, 39, 2, 255])
    table = miou.label_table(IDS)
    for kind in (np.uint8, np.uint16, np.int32):
        counts = miou.label_confusion(truth.astype(kind), prediction.astype(kind), table, 5)
        assert np.array_equal(counts, miou.label_confusion(truth, prediction, table, 5))


def test_any_label_hit_order():
    # the first guess that is any label wins, whichever column it stands in; top-1 misses what top-3 finds
    truth = np.array([[4, 7, -100]] * 4)
    guesses = np.array([[7, 4, 0], [0, 7, 4], [0, 1, 2], [4, 4, 4]])
    label, guess, point = miou.any_label_pairs(truth, guesses, 10)
    assert (label.tolist(), guess.tolist(), point.tolist()) == ([7, 7, 4, 4], [7, 7, 0, 4], [0, 1, 2, 3])
    label, guess, _ = miou.any_label_pairs(truth, guesses[:, :1], 10)
    assert (label.tolist(), guess.tolist()) == ([7, 4, 4, 4], [7, 0, 0, 4])


def test_vertices_without_a_label_in_the_list_are_left_out():
    truth = np.array([[-100, -100], [10, -100], [-1, 12], [-100, 3]])
    label, guess, point = miou.any_label_pairs(truth, np.full((4, 1), 3), 10)
    assert (label.tolist(), guess.tolist(), point.tolist()) == ([3], [3], [3])


def test_an_unmatched_first_column_without_label_is_kept_for_the_caller_to_refuse():
    label, guess, _ = miou.any_label_pairs(np.array([[-100, 3]]), np.array([[5]]), 10)
    assert (label.tolist(), guess.tolist()) == ([-100], [5])


@pytest.mark.parametrize("seed", range(10))
def test_any_label_pairs_as_the_loop_says(seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.choice([0, 1, 200])), int(rng.integers(1, 4)))
    truth = rng.choice([-100, -1, 0, 1, 2, 3, 4, 5, 9], shape)
    guesses = rng.integers(0, 5, (shape[0], int(rng.choice([1, 3]))))
    label, guess, point = miou.any_label_pairs(truth, guesses, 5)
    pairs = [oracle.any_label_pair(*row, 5) for row in zip(truth.tolist(), guesses.tolist(), strict=True)]
    assert point.tolist() == [index for index, pair in enumerate(pairs) if pair is not None]
    assert list(zip(label.tolist(), guess.tolist(), strict=True)) == [pair for pair in pairs if pair is not None]


def test_predictions_of_no_class_are_not_in_the_denominator_of_precision():
    counts = miou.class_counts(np.array([[3, 0, 1], [1, 2, 3]]))  # the last column is no class
    assert miou.overall_precision(counts) == 5 / 6
    assert miou.overall_accuracy(counts) == 0.5


def test_counts_add_up_over_scenes_and_resamples():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, (6, 3, 4))
    drawn = miou.resampled(counts, 50, rng)
    assert drawn.shape == (50, 3, 4)
    assert np.array_equal(
        miou.resampled(np.repeat(counts[:1], 6, axis=0), 2, rng), np.repeat(counts[:1] * 6, 2, axis=0)
    )
    assert np.array_equal(miou.class_iou(drawn)[7], miou.class_iou(drawn[7]), equal_nan=True)


def test_the_order_of_points_does_not_matter():
    rng = np.random.default_rng(3)
    truth, prediction = rng.integers(0, 45, (2, 40_000))
    order = rng.permutation(40_000)
    table = miou.label_table(IDS)
    first = miou.label_confusion(truth, prediction, table, 5)
    assert np.array_equal(first, miou.label_confusion(truth[order], prediction[order], table, 5))


def test_pairs_of_masked_numbers():
    rng = np.random.default_rng(5)
    first, second = rng.integers(0, 7, (2, 300_000)).astype(np.uint32)
    counter = miou.PairCounter(7, np.uint32(0xFFFF))
    pairs = counter.count(first + (rng.integers(0, 99, first.size).astype(np.uint32) << 16), second)
    expected = np.zeros((7, 7), int)
    np.add.at(expected, (first, second), 1)
    assert np.array_equal(pairs, expected)
    assert np.array_equal(counter.count(second[:5], first[:5]), counter.count(first[:5], second[:5]).T)
    assert miou.PairCounter(6, np.uint32(0xFFFF)).count(first, second) is None
    assert counter.count(first[:0], second[:0]).sum() == 0
    merged = miou.merged_pairs(pairs, np.array([0, 1, 1, 2, 0, 0, 1]), 3)
    assert merged[1, 2] == expected[np.ix_([1, 2, 6], [3])].sum() and merged.sum() == 300_000
