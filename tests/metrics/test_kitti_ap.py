# SPDX-License-Identifier: Apache-2.0
"""KITTI's rules one by one on hand-made frames, and random sets against the slow loop."""

import importlib.util
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.metrics import kitti_ap, kitti_extras, kitti_pairs
from pc3dcli.metrics.kitti_ap import Subset, average_precision, recall_thresholds
from pc3dcli.metrics.kitti_pairs import KINDS, LOOSE, OVERLAPS, STRICT, Boxes

_spec = importlib.util.spec_from_file_location("kitti_oracle", Path(__file__).with_name("kitti_oracle.py"))
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)

CAR, EASY, MODERATE, HARD = 0, 0, 1, 2


def stacked(parts, width):
    kinds = [kind if kind in KINDS else "other" for rows in parts for kind, _ in rows]
    frame = np.repeat(np.arange(len(parts)), [len(rows) for rows in parts])
    values = np.array([value for rows in parts for _, value in rows]).reshape(len(kinds), width)
    return Boxes(frame, np.array([KINDS.index(kind) for kind in kinds], np.int64), values)


def curve(frames, name, c=CAR, difficulty=MODERATE, preset="kitti", loose=False):
    truth, found = stacked([f["gt"] for f in frames], 14), stacked([f["det"] for f in frames], 15)
    thresholds = LOOSE if loose else STRICT
    seen = kitti_ap.subset(truth, found, c, difficulty, is_at_limit_ignored=preset == "kitti-py")
    names = OVERLAPS if preset == "kitti" else ("bbox",)
    excused = kitti_pairs.excused_by_dont_care(truth, found, thresholds, names)
    pairs = kitti_pairs.matching_pairs(truth, found, thresholds)
    seen = Subset(seen.truth, seen.found, excused[name])
    return kitti_ap.precision_curve(truth, found, pairs[name][c], seen)


def car(x=0.0, *, image=(100, 100, 200, 160), kind="car", occluded=0, truncated=0.0, score=None, alpha=0.0):
    row = [truncated, occluded, alpha, *map(float, image), 1.5, 2.0, 4.25, x, 1.5, 20.0, 0.0]
    return kind, row + ([] if score is None else [score])


def region(*image, place=(-1, -1, -1, -1000, -1000, -1000, -10)):
    return "dontcare", [-1, -1, -10, *map(float, image), *place]


def counts(gt, det, name="3d", **options):
    """Return (true positives, false positives) at the lowest threshold of one frame, and G."""
    result = curve([{"gt": gt, "det": det}], name, **options)
    last = (int(result.true_positives[-1]), int(result.false_positives[-1])) if len(result.thresholds) else None
    return last, result.num_truth


def test_perfect_results_reach_one_with_41_objects():
    frames = [{"gt": [car()], "det": [car(score=1 - i / 100)]} for i in range(41)]
    assert average_precision(curve(frames, "3d").precision) == (1.0, 1.0)


def test_perfect_results_on_few_objects_do_not():
    # 4 thresholds: entries 0..3 are 1, so that R40 has 3 of 40 and R11 one of 11
    frames = [{"gt": [car()], "det": [car(score=0.9)]}] * 4
    assert average_precision(curve(frames, "3d").precision) == (3 / 40, 1 / 11)


@pytest.mark.parametrize("difficulty", [EASY, MODERATE])
def test_height_at_the_minimum(difficulty):
    exact = (100, 100, 200, 100 + kitti_ap.MIN_HEIGHT[difficulty])
    frame = [car(image=exact)], [car(image=exact, score=0.5)]
    assert counts(*frame, difficulty=difficulty) == ((1, 0), 1)
    assert counts(*frame, difficulty=difficulty, preset="kitti-py") == (None, 0)
    below = [car(image=(100, 100, 200, exact[3] - 0.01))]
    assert counts(below, [], difficulty=difficulty) == (None, 0)


def test_difficulties_count_by_occlusion_and_truncation():
    gt = [
        car(),
        car(occluded=1),
        car(occluded=2),
        car(occluded=3),
        car(truncated=0.15),
        car(truncated=0.3),
        car(truncated=0.51),
    ]
    assert [counts(gt, [], difficulty=d)[1] for d in (EASY, MODERATE, HARD)] == [2, 4, 5]


def test_a_neighbour_class_is_neither_found_nor_missed():
    gt = [car(), car(30, kind="van")]
    assert counts(gt, [car(score=0.5), car(30, score=0.6)]) == ((1, 0), 1)
    assert counts([car(), car(30, kind="truck")], [car(score=0.5), car(30, score=0.6)]) == ((1, 1), 1)


@pytest.mark.parametrize("kind", ["car", "truck"])
def test_a_low_detection_is_ignored_whatever_its_type(kind):
    low = car(kind=kind, image=(100, 100, 200, 120), score=0.9)
    assert counts([car()], [low]) == (None, 1)  # taken by the car, which is neither found nor missed
    other = car(40, score=0.5)
    assert counts([car(), car(40)], [low, other]) == ((1, 0), 2)


@pytest.mark.parametrize("kind", ["car", "truck"])
def test_a_counted_detection_goes_before_an_ignored_one(kind):
    low = car(kind=kind, image=(100, 100, 200, 120), score=0.9)
    # the first pass takes the highest score, which is the low one: no threshold at all
    assert counts([car()], [low, car(0.1, score=0.5)]) == (None, 1)
    # with the scores swapped the second pass prefers the counted one though the low one overlaps more
    low = car(kind=kind, image=(100, 100, 200, 120), score=0.4)
    assert counts([car()], [low, car(0.1, score=0.5)]) == ((1, 0), 1)


def test_first_pass_by_score_second_by_overlap():
    # the first car takes 0.9 in the first pass; the second is left with 0.8
    gt = [car(0), car(0.5)]
    det = [car(0.5, score=0.9), car(0.0, score=0.8)]
    result = curve([{"gt": gt, "det": det}], "bev")
    assert result.thresholds.tolist() == [0.9, 0.8]
    assert result.true_positives.tolist() == [1, 2] and result.false_positives.tolist() == [0, 0]


def test_ties_of_score_take_the_first_in_file_order():
    gt = [car(0), car(0.75)]
    # both detections overlap the first car; the one at 0.75 alone is of use to the second
    near_first, near_second = car(-0.2, score=0.5), car(0.5, score=0.5)
    assert len(curve([{"gt": gt, "det": [near_first, near_second]}], "bev").thresholds) == 2
    assert len(curve([{"gt": gt, "det": [near_second, near_first]}], "bev").thresholds) == 1


def test_rotation_y_turns_from_x_away_from_z():
    gt, along, across = car(), car(score=0.5), car(score=0.5)
    for row in (gt, along, across):
        row[1][13] = 0.5
    along[1][10], along[1][12] = 0.7 * np.cos(0.5), 20 - 0.7 * np.sin(0.5)
    across[1][10], across[1][12] = 0.7 * np.cos(0.5), 20 + 0.7 * np.sin(0.5)
    assert counts([gt], [along], "bev")[0] == (1, 0)  # (4.25 - 0.7) / (4.25 + 0.7) is 0.717
    assert counts([gt], [across], "bev")[0] is None


def test_overlap_at_the_threshold_is_none():
    at, above = car(0.75, score=0.5), car(0.74, score=0.5)  # 3.5 / 5 is 0.7
    for name in ("bev", "3d"):
        assert counts([car()], [at], name)[0] is None and counts([car()], [above], name)[0] == (1, 0)
    at = car(image=(100, 100, 170, 160), score=0.5)  # 70 of 100 columns
    assert counts([car()], [at], "bbox")[0] is None
    assert counts([car()], [car(1.3, score=0.5)], "bev", loose=True)[0] == (1, 0)


def test_duplicates_are_false_positives():
    assert counts([car()], [car(score=0.5)] * 4) == ((1, 3), 1)


def test_dont_care_excuses_in_the_image_alone():
    gt = [car(), region(500, 100, 700, 200)]
    det = [car(score=0.5), car(40, image=(510, 110, 600, 160), score=0.6)]
    assert counts(gt, det, "bbox")[0] == (1, 0)
    assert counts(gt, det, "bev")[0] == counts(gt, det, "3d")[0] == (1, 1)
    partly = [car(), region(500, 100, 573, 200)]  # 63 of 90 columns of the detection: 0.7 is not above 0.7
    assert counts(partly, det, "bbox")[0] == (1, 1)


def test_the_official_program_asks_dont_care_in_space_too():
    gt = [car(), region(500, 100, 700, 200, place=car(40)[1][7:])]
    det = [car(score=0.5), car(40, image=(900, 100, 990, 160), score=0.6)]
    assert counts(gt, det, "3d")[0] == (1, 0)
    assert counts(gt, det, "3d", preset="kitti-py")[0] == (1, 1)


def test_a_step_without_positives_has_no_precision():
    # at 0.5 the van takes the car's detection, the car is left with nothing and nothing is left over
    low = car(image=(100, 100, 200, 120), score=0.9)
    gt, det = [car(kind="van"), car()], [low, car(0.1, score=0.5)]
    result = curve([{"gt": gt, "det": det}], "bev")
    assert result.thresholds.tolist() == [0.5] and result.true_positives.tolist() == [0]
    assert result.false_positives.tolist() == [0] and result.precision.max() == 0


def test_orientation_counts_in_the_numerator():
    frames = [{"gt": [car()], "det": [car(score=0.5, alpha=np.pi / 2)]}] * 3
    assert curve(frames, "bbox").similarity[:3] == pytest.approx([0.5] * 3)
    assert curve(frames, "bbox").precision[:3].tolist() == [1.0] * 3


def test_thresholds_skip_to_the_nearest_recall():
    assert recall_thresholds(np.zeros(0), 0).size == 0
    scores = np.arange(1000, 0, -1) / 1000
    assert len(recall_thresholds(scores, 1000)) == 41
    assert len(recall_thresholds(scores, 2000)) == 21  # half are found: the last half of the steps has none
    assert recall_thresholds(np.array([0.9, 0.8]), 2).tolist() == [0.9, 0.8]


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_slow_loop(seed):
    rng = np.random.default_rng(seed)
    lines = [oracle.random_frame(rng, int(rng.choice([3, 9]))) for _ in range(rng.integers(1, 7))]
    frames = [{"gt": oracle.parsed(gt), "det": oracle.parsed(det)} for gt, det in lines]
    for preset, loose in ((("kitti", "kitti-py")[seed % 2], seed % 3 == 0),):
        for name, c, difficulty in product(OVERLAPS, range(3), range(3)):
            minimum = (LOOSE if loose else STRICT)[name][c]
            num_gt, precision, similarity = oracle.curve(frames, name, c, difficulty, minimum, preset)
            result = curve(frames, name, c, difficulty, preset, loose)
            assert result.num_truth == num_gt
            np.testing.assert_allclose(result.precision, precision, atol=1e-12, err_msg=f"{name} {c} {difficulty}")
            np.testing.assert_allclose(result.similarity, similarity, atol=1e-12)


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(50)
    lines = [oracle.random_frame(rng, 9) for _ in range(12)]
    frames = [{"gt": oracle.parsed(gt), "det": oracle.parsed(det)} for gt, det in lines]
    whole = curve(frames, "bev")
    monkeypatch.setattr(kitti_ap, "_PAIRS_AT_ONCE", 1)
    monkeypatch.setattr(kitti_pairs, "_AT_ONCE", 1)
    assert curve(frames, "bev").precision.tolist() == whole.precision.tolist() and whole.precision.max() > 0


def test_frame_counts_add_up_to_the_curve():
    rng = np.random.default_rng(4)
    lines = [oracle.random_frame(rng, 9) for _ in range(12)]
    frames = [{"gt": oracle.parsed(gt), "det": oracle.parsed(det)} for gt, det in lines]
    truth, found = stacked([f["gt"] for f in frames], 14), stacked([f["det"] for f in frames], 15)
    seen = kitti_ap.subset(truth, found, CAR, MODERATE, is_at_limit_ignored=False)
    pairs = kitti_pairs.matching_pairs(truth, found, STRICT)["3d"][CAR]
    whole = kitti_ap.precision_curve(truth, found, pairs, seen)
    step = whole.best_step()
    counts = kitti_ap.frame_counts(truth, found, pairs, seen, np.repeat(whole.thresholds[None], len(frames), axis=0))
    assert np.array_equal(counts.true_positives.sum(axis=0), whole.true_positives)
    assert np.array_equal(counts.false_positives.sum(axis=0), whole.false_positives)
    tp, fp, misses = (c[:, step] for c in (counts.true_positives, counts.false_positives, counts.misses))
    assert tp.sum() == whole.true_positives[step] > 0 and fp.sum() == whole.false_positives[step]
    assert (tp >= 0).all() and (fp >= 0).all() and (misses >= 0).all() and misses.sum() > 0
    assert kitti_extras.f1(np.array([2, 0]), np.array([1, 0]), np.array([1, 0])) == [2 / 3, None]


def test_ranges_split_the_objects():
    near, far = car(), car(30)
    far[1][12] = 40.0
    found_far = ("car", [*far[1], 0.5])
    beyond = ("car", [*car(9, score=0.4)[1]])
    beyond[1][12] = 60.0
    truth, found = stacked([[near, far]], 14), stacked([[car(score=0.6), found_far, beyond]], 15)
    seen = kitti_ap.subset(truth, found, CAR, MODERATE, is_at_limit_ignored=False)
    pairs = kitti_pairs.matching_pairs(truth, found, STRICT)["3d"][CAR]
    for low, high, expected in ((0, 30, [1, 0, 1]), (40, 50, [1, 0, 1]), (30, 40, [0])):
        part = kitti_extras.in_range(seen, truth, found, low, high)
        result = kitti_ap.precision_curve(truth, found, pairs, part)
        assert [*result.true_positives, *result.false_positives, result.num_truth] == expected


def test_confusion_names_what_was_taken_for_what():
    gt = [car(), car(image=(300, 100, 400, 160)), car(image=(500, 100, 600, 160), kind="van")]
    det = [car(score=0.9), ("cyclist", car(image=(300, 100, 400, 160), score=0.8)[1]),
           car(image=(700, 100, 800, 160), score=0.7), car(image=(900, 100, 950, 160), score=0.1)]  # fmt: skip
    truth, found = stacked([gt], 14), stacked([det], 15)
    excused, wanted = np.zeros(4, bool), np.array([True, True, False])
    counts = kitti_extras.confusion(truth, found, excused, [0.5, 0.5, 0.5], wanted)
    assert np.argwhere(counts).tolist() == [[0, 0], [0, 2], [7, 0]] and counts.sum() == 3  # 7: nothing there, missed
    counts = kitti_extras.confusion(truth, found, excused, [0.95] * 3, wanted)
    assert counts[0, 7] == counts.sum() == 2


def test_nothing_at_all():
    assert curve([{"gt": [], "det": []}], "3d").num_truth == 0
