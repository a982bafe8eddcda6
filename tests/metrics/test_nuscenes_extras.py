# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.metrics.nuscenes_boxes import CLASSES, Boxes, scoring_order
from pc3dcli.metrics.nuscenes_detection import AT_2M, matched
from pc3dcli.metrics.nuscenes_extras import confusion, operating_scores

CAR, TRUCK, BUS = (CLASSES.index(name) for name in ("car", "truck", "bus"))
NOTHING = len(CLASSES)


def boxes(rows):
    """Boxes of (sample, label, x, score) in scoring order."""
    sample, label, x, score = (np.array(column) for column in zip(*rows, strict=True)) if rows else [np.zeros(0)] * 4
    count = len(rows)
    made = Boxes(
        sample=sample.astype(np.int32),
        label=label.astype(np.int8),
        center=np.stack([x, np.zeros(count), np.zeros(count)], axis=1).astype(float),
        size=np.ones((count, 3)),
        yaw=np.zeros(count),
        velocity=np.zeros((count, 2)),
        attribute=np.full(count, -1, np.int16),
        score=score.astype(float),
    )
    return made.take(scoring_order(made.score))


def cells(counts):
    return {(int(i), int(j)): int(counts[i, j]) for i, j in np.argwhere(counts)}


def test_a_truck_taken_for_a_car():
    truth = boxes([(0, CAR, 0, 0), (0, TRUCK, 10, 0), (1, CAR, 0, 0), (1, TRUCK, 30, 0)])
    found = matched(truth, boxes([(0, CAR, 0.1, 0.9), (0, CAR, 10.5, 0.8), (1, CAR, 1.0, 0.7), (1, TRUCK, 30, 0.2)]))
    assert cells(confusion(found)) == {(CAR, CAR): 2, (TRUCK, CAR): 1, (TRUCK, TRUCK): 1}


def test_nothing_there_and_missed():
    truth = boxes([(0, CAR, 0, 0), (0, CAR, 20, 0)])
    found = matched(truth, boxes([(0, CAR, 1, 0.9), (0, CAR, 2.5, 0.95), (1, CAR, 0, 0.95)]))
    assert cells(confusion(found)) == {(CAR, CAR): 1, (NOTHING, CAR): 2, (CAR, NOTHING): 1}


def test_two_metres_are_too_far():
    found = matched(boxes([(0, CAR, 0, 0), (0, CAR, 9, 0)]), boxes([(0, CAR, 2.0, 0.9), (0, CAR, 9, 0.1)]))
    assert cells(confusion(found)) == {(CAR, CAR): 1, (CAR, NOTHING): 1, (NOTHING, CAR): 1}


def test_the_best_score_takes_the_nearest_first():
    # the bus detection lies nearer to the car than the car detection, but its score is lower
    truth = boxes([(0, CAR, 0, 0), (0, BUS, 1.5, 0), (1, BUS, 0, 0)])
    found = matched(truth, boxes([(0, CAR, 0.7, 0.9), (0, BUS, 0.1, 0.5), (1, BUS, 0, 0.4)]))
    assert cells(confusion(found)) == {(CAR, CAR): 1, (BUS, BUS): 2}


def test_predictions_below_the_best_f1_do_not_count():
    truth = boxes([(0, CAR, 0, 0), (0, CAR, 10, 0)])
    rows = [(0, CAR, 0, 0.9), (0, CAR, 50, 0.5), (0, CAR, 60, 0.5), (0, CAR, 70, 0.4), (0, CAR, 10, 0.4)]
    found = matched(truth, boxes(rows))
    assert operating_scores(found)[CAR] == 0.9  # F1 2 / 3 there, 4 / 7 at 0.4
    assert cells(confusion(found)) == {(CAR, CAR): 1, (CAR, NOTHING): 1}
    assert np.isinf(np.delete(operating_scores(found), CAR)).all()


@pytest.mark.parametrize("sides", [([], []), ([(0, CAR, 0, 0)], []), ([], [(0, CAR, 0, 0.5)])])
def test_one_side_empty(sides):
    counts = confusion(matched(*map(boxes, sides)))
    assert counts.sum() == len(sides[0])  # a class without a match counts no predictions


@pytest.mark.parametrize("seed", range(10))
def test_as_a_loop_over_predictions_says(seed):
    rng = np.random.default_rng(seed)
    truth, predicted = (
        boxes([(rng.integers(3), rng.integers(3), rng.integers(12) / 2, rng.integers(6) / 6) for _ in range(count)])
        for count in (12, 25)
    )
    found = matched(truth, predicted)
    expected = np.zeros((NOTHING + 1, NOTHING + 1), int)
    lowest = operating_scores(found)
    for label in range(3):
        best = f1_at(found, label, lowest[label])
        assert all(f1_at(found, label, score) <= best for score in predicted.score[predicted.label == label])
    is_left = np.ones(len(truth), bool)
    for row in range(len(predicted)):
        if predicted.score[row] < lowest[predicted.label[row]]:
            continue
        gap = np.abs(truth.center[:, 0] - predicted.center[row, 0])
        gap[(truth.sample != predicted.sample[row]) | ~is_left] = np.inf
        near = int(gap.argmin())
        kind = truth.label[near] if gap[near] < 2 else NOTHING
        is_left[near] &= gap[near] >= 2
        expected[kind, predicted.label[row]] += 1
    np.add.at(expected, (truth.label[is_left], NOTHING), 1)
    assert np.array_equal(confusion(found), expected)


def f1_at(found, label, score):
    used = (found.predicted.label == label) & (found.predicted.score >= score)
    hits = (found.partner[AT_2M] >= 0) & used
    return 2 * hits.sum() / (used.sum() + (found.truth.label == label).sum())
