# SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.metrics.assignment import assign
from pc3dcli.metrics.video_masks import (
    FreeScores,
    PromptedScores,
    contour_f,
    contours,
    mask_boundary,
    region_j,
    statistics,
    tolerance,
)

_SPEC = importlib.util.spec_from_file_location("video_oracle", Path(__file__).with_name("video_oracle.py"))
oracle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle)


def random_mask(rng, height, width):
    """Nothing, everything, noise, a rectangle at a border, one pixel in a corner, a disk."""
    kind = rng.integers(6)
    mask = np.zeros((height, width), bool)
    if kind == 1:
        mask[:] = True
    elif kind == 2:
        mask = rng.random((height, width)) < rng.random()
    elif kind == 3:
        (a, b), (c, d) = np.sort(rng.integers(0, height + 1, 2)), np.sort(rng.integers(0, width + 1, 2))
        mask[a:b, c:d] = True
    elif kind == 4:
        mask[rng.choice([0, height - 1]), rng.choice([0, width - 1])] = True
    elif kind == 5:
        y, x = np.mgrid[:height, :width]
        mask = (y - rng.uniform(0, height)) ** 2 + (x - rng.uniform(0, width)) ** 2 < rng.uniform(1, width / 2) ** 2
    return mask


def f_of(truth, predicted):
    return contour_f(*contours([truth, predicted], tolerance(truth.shape)))


def test_equals_the_slow_definition():
    rng = np.random.default_rng(3)
    partial = 0
    for _ in range(120):
        size = int(rng.integers(2, 22)), int(rng.integers(2, 26))
        truth, predicted = random_mask(rng, *size), random_mask(rng, *size)
        if rng.random() < 0.4:
            predicted = np.roll(truth, rng.integers(-3, 4, 2), (0, 1))
        f = f_of(truth, predicted)
        assert abs(f - oracle.f_measure(truth, predicted)) < 1e-12
        assert region_j(truth, predicted) == oracle.jaccard(truth, predicted)
        partial += 0 < f < 1
    assert partial > 30


@pytest.mark.parametrize(("size", "radius"), [((480, 854), 8), ((100, 75), 1), ((120, 90), 2), ((2, 2), 1)])
def test_tolerance_is_rounded_up(size, radius):
    assert tolerance(size) == radius


@pytest.mark.parametrize("shift", [0, 1, 2, 7, 8, 9])
def test_contours_within_the_tolerance_count_fully(shift):
    truth = np.zeros((480, 854), bool)
    truth[100:200, 300:301] = True
    predicted = np.roll(truth, shift, axis=1)
    assert (f_of(truth, predicted) == 1) == (shift <= 8)


def test_the_tolerance_is_a_disk():
    truth, predicted = np.zeros((480, 854), bool), np.zeros((480, 854), bool)
    truth[100, 100] = True  # its boundary: this pixel and the three above and left of it
    predicted[106, 106] = True  # 5 x 5 and 5 x 6 are within 8, 6 x 6 is not: three of four pixels are near
    assert f_of(truth, predicted) == 0.75
    assert f_of(truth, np.roll(predicted, 1, axis=(0, 1))) == 0.0


def test_a_mask_of_the_whole_image_has_no_boundary():
    full, corner = np.ones((9, 9), bool), np.zeros((9, 9), bool)
    corner[-1, -1] = True
    assert not mask_boundary(full).any()
    assert mask_boundary(corner).sum() == 3 and not mask_boundary(corner)[-1, -1]
    assert f_of(full, np.zeros((9, 9), bool)) == 1.0 and region_j(full, np.zeros((9, 9), bool)) == 0.0
    assert f_of(full, corner) == 0.0


def test_empty_masks():
    empty = np.zeros((5, 5), bool)
    some = empty.copy()
    some[2, 2] = True
    assert (f_of(empty, empty), region_j(empty, empty)) == (1.0, 1.0)
    assert (f_of(some, empty), f_of(empty, some), region_j(some, empty)) == (0.0, 0.0, 0.0)


def test_statistics():
    mean, recall, decay = statistics(np.array([1.0, 0.9, 0.5, 0.4, 0.2]))
    assert (mean, recall, decay) == (0.6, 0.4, pytest.approx(0.95 - 0.3))
    assert statistics(np.array([0.7])) == (0.7, 1.0, 0.0)
    assert statistics(np.array([])) == (None, None, None)
    assert statistics(np.ones(256))[2] == 0.0 and statistics(np.ones(257))[2] is None


def test_prompted_objects_meet_the_masks_of_their_id():
    labels = np.zeros((6, 8), int)
    labels[1:3, 1:3], labels[4:, 4:] = 1, 2
    scores = PromptedScores([1, 2, 3])
    truth = {1: labels == 1, 2: labels == 2}
    scores.add(truth, {1: labels == 2, 2: labels == 2}, labels.shape)
    scores.add(truth, {}, labels.shape)
    j, f = scores.finish()
    assert j.tolist() == [[0, 0], [1, 0], [1, 1]]  # nobody has object 3: empty equals empty
    assert f[1:].tolist() == [[1, 0], [1, 1]] and f[0, 1] == 0
    assert PromptedScores([]).finish()[0].shape == (0, 0)
    assert PromptedScores([1]).finish()[0].shape == (1, 0)


def test_free_tracks_are_assigned():
    labels = np.zeros((6, 8), int)
    labels[1:3, 1:3], labels[4:, 4:] = 1, 2
    scores = FreeScores([1, 2])
    for _ in range(3):
        scores.add({1: labels == 1, 2: labels == 2}, {70: labels == 2, 5: labels == 1}, labels.shape)
    assert all((part == 1).all() for part in scores.finish(0))
    scores = FreeScores([1, 2])
    scores.add({1: labels == 1}, {9: labels == 1}, labels.shape)
    scores.add({1: labels == 1}, {9: labels == 2}, labels.shape)
    j, _ = scores.finish(0)
    assert j.tolist() == [[1, 0], [1, 1]]  # an empty track fits an object that is never there
    assert FreeScores([]).finish(3)[0].shape == (0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_free_scores_equal_trying_all_assignments(seed):
    rng = np.random.default_rng(seed)
    for _ in range(8):
        truth = rng.integers(0, 4, (3, 7, 8)) * (rng.random((3, 7, 8)) < 0.8)
        predicted = rng.integers(0, 5, (3, 7, 8)) * (rng.random((3, 1, 1)) < 0.8)
        objects, tracks = [1, 2, 3], sorted(set(predicted.ravel().tolist()) - {0})
        scores, rows = FreeScores(objects), []
        for a, b in zip(truth, predicted, strict=True):
            scores.add({i: a == i for i in oracle.ids_of(a)}, {i: b == i for i in oracle.ids_of(b)}, a.shape)
        for i in objects:
            pairs = [[(a == i, b == k) for a, b in zip(truth, predicted, strict=True)] for k in [*tracks, 91, 92, 93]]
            rows.append([np.mean([oracle.jaccard(*p) + oracle.f_measure(*p) for p in frames]) for frames in pairs])
        j, f = scores.finish(3)
        assert (j + f).mean(axis=1).sum() == pytest.approx(oracle.best_sum(rows), abs=1e-12)


def test_assignment_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(200):
        value = rng.integers(0, 4, rng.integers(0, 6, 2)) if rng.random() < 0.5 else rng.random(rng.integers(0, 6, 2))
        rows, columns = assign(value)
        assert len(rows) == len(set(rows)) == len(set(columns)) == min(value.shape)
        assert (np.diff(rows) > 0).all()
        assert value[rows, columns].sum() == pytest.approx(oracle.best_sum(value.tolist()))
