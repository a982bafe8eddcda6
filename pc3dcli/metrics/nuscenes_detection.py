# SPDX-License-Identifier: Apache-2.0
"""Average precision, true-positive errors and NDS of the nuScenes detection task, configuration CVPR 2019.

evaluation.md 3.5 and 3.6; Caesar et al., nuScenes: A multimodal dataset for autonomous driving, 2020, section 3.1.
SPNDS is of Point-DETR3D (point_detr3d.md section 4): NDS without velocity and attribute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pc3dcli.metrics.nuscenes_boxes import CLASSES, DISTANCES, Boxes, match

ERRORS = ("ate", "ase", "aoe", "ave", "aae")  # translation, scale, orientation, velocity, attribute
AT_2M = DISTANCES.index(2.0)  # the errors are of the matches at 2 m
RECALLS = np.linspace(0, 1, 101)
FIRST = 11  # the first recall that counts is above 0.1
MIN_PRECISION = 0.1
AP_WEIGHT = 5
STATIC = 3  # errors that do not need motion: the first three
_UNDEFINED = {"traffic_cone": ("aoe", "ave", "aae"), "barrier": ("ave", "aae")}
_IS_DEFINED = np.array([[error not in _UNDEFINED.get(name, ()) for error in ERRORS] for name in CLASSES])
_BARRIER = CLASSES.index("barrier")


@dataclass(frozen=True)
class Matched:
    """Predictions and annotations that were matched.

    truth      annotations; predicted  predictions in scoring order
    partner    (4, P) int32, the annotation that a prediction took at each of DISTANCES, -1 for none
    errors     (5, P) float64, the ERRORS of matches at 2 m; NaN elsewhere and where the annotation does not tell
    """

    truth: Boxes
    predicted: Boxes
    partner: np.ndarray
    errors: np.ndarray

    def part(self, truth_index: np.ndarray, index: np.ndarray) -> Matched:
        """Return some annotations and some predictions in their order, such as those of a scene, for `class_scores`.

        `partner` keeps the numbers of the whole: there it only tells which predictions have one
        """
        index = np.flatnonzero(index) if index.dtype == bool else index
        return Matched(
            self.truth.take(truth_index), self.predicted.take(index), self.partner[:, index], self.errors[:, index]
        )


@dataclass(frozen=True)
class Scores:
    """Numbers of each class.

    ap (C, 4) float64 at DISTANCES; errors (C, 5) float64, NaN where not defined; num_truth (C,) int64
    precision (C, 101) float64 at 2 m at RECALLS
    """

    ap: np.ndarray
    errors: np.ndarray
    num_truth: np.ndarray
    precision: np.ndarray


def matched(truth: Boxes, predicted: Boxes) -> Matched:
    """Match predictions, given in scoring order, to annotations, and measure the errors of the matches."""
    partner = match(truth, predicted)
    errors = np.full((len(ERRORS), len(predicted)), np.nan)
    rows = np.flatnonzero(partner[AT_2M] >= 0)
    errors[:, rows] = _errors(truth.take(partner[AT_2M, rows]), predicted.take(rows))
    return Matched(truth, predicted, partner, errors)


def _errors(truth: Boxes, predicted: Boxes) -> np.ndarray:
    """Return the (5, N) errors of pairs."""
    offset = predicted.center[:, :2] - truth.center[:, :2]
    shared = np.minimum(truth.size, predicted.size).prod(axis=1)
    union = truth.size.prod(axis=1) + predicted.size.prod(axis=1) - shared
    period = np.where(truth.label == _BARRIER, np.pi, 2 * np.pi)  # front and back of a barrier look alike
    turn = np.abs((truth.yaw - predicted.yaw + period / 2) % period - period / 2)
    with np.errstate(invalid="ignore"):
        velocity = np.linalg.norm(predicted.velocity - truth.velocity, axis=1)
    attribute = np.where(truth.attribute < 0, np.nan, truth.attribute != predicted.attribute)
    return np.stack([np.linalg.norm(offset, axis=1), 1 - shared / union, turn, velocity, attribute])


def class_scores(found: Matched) -> Scores:
    """Return the numbers of each class."""
    num_truth = np.bincount(found.truth.label, minlength=len(CLASSES))
    parts = [
        _one_class(found, np.flatnonzero(found.predicted.label == label), int(num_truth[label]))
        for label in range(len(CLASSES))
    ]
    ap, errors, precision = (np.stack(part) for part in zip(*parts, strict=True))
    return Scores(ap, np.where(_IS_DEFINED, errors, np.nan), num_truth, precision)


def _one_class(found: Matched, rows: np.ndarray, num_truth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return AP (4,), errors (5,) and precision (101,) at 2 m of the predictions `rows` of a class."""
    ap, precisions = np.zeros(len(DISTANCES)), np.zeros((len(DISTANCES), RECALLS.size))
    errors = np.ones(len(ERRORS))  # what a class without annotations or without a match gets
    score = found.predicted.score[rows]
    for index in range(len(DISTANCES)):
        is_match = found.partner[index, rows] >= 0
        if num_truth == 0 or not is_match.any():
            continue
        hits = np.cumsum(is_match)
        recall = hits / num_truth
        precision = np.interp(RECALLS, recall, hits / np.arange(1, hits.size + 1), right=0)
        ap[index] = np.maximum(precision[FIRST:] - MIN_PRECISION, 0).mean() / (1 - MIN_PRECISION)
        precisions[index] = precision
        if index == AT_2M:
            score_at = np.interp(RECALLS, recall, score, right=0)
            errors = _mean_errors(found.errors[:, rows[is_match]], score[is_match], score_at)
    return ap, errors, precisions[AT_2M]


def _mean_errors(errors: np.ndarray, score: np.ndarray, score_at: np.ndarray) -> np.ndarray:
    """Return (5,) means over the recalls reached of the errors (5, M) of matches in scoring order.

    score_at  (101,) score at each recall; a score of exactly 0 counts as a recall that was not reached
    """
    reached = np.flatnonzero(score_at)
    last = reached[-1] if reached.size else 0
    if last < FIRST:
        return np.ones(len(ERRORS))
    means = np.empty(len(ERRORS))
    for index, values in enumerate(errors):
        with np.errstate(invalid="ignore"):  # a velocity may be infinite: annotations of one time stamp
            along = np.interp(score_at[::-1], score[::-1], _cumulative_mean(values)[::-1])[::-1]
            means[index] = along[FIRST : last + 1].mean()
    return means


def _cumulative_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean up to each value, NaN left out: 0 while there was none, ones if there is none at all."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(values.size)
    return np.cumsum(np.where(known, values, 0)) / np.maximum(np.cumsum(known), 1)


def summary(scores: Scores, *, skip_absent: bool) -> dict[str, float]:
    """Return map, nds, spnds, mate, mase, maoe, mave and maae; NaN where undefined.

    skip_absent  classes without annotations are left out of the means; else their AP is 0 and their errors are 1
    """
    classes = scores.num_truth > 0 if skip_absent else np.ones(len(CLASSES), bool)
    if not classes.any():
        return dict.fromkeys(["map", "nds", "spnds", *(f"m{name}" for name in ERRORS)], np.nan)
    mean_ap = float(scores.ap[classes].mean(axis=1).mean())
    means = {}
    for name, values in zip(ERRORS, scores.errors[classes].T, strict=True):
        known = values[~np.isnan(values)]
        means[f"m{name}"] = float(known.mean()) if known.size else np.nan
    goodness = [np.nan if np.isnan(mean) else max(0.0, 1.0 - mean) for mean in means.values()]
    return {
        "map": mean_ap,
        "nds": (AP_WEIGHT * mean_ap + sum(goodness)) / (AP_WEIGHT + len(goodness)),
        "spnds": (AP_WEIGHT * mean_ap + sum(goodness[:STATIC])) / (AP_WEIGHT + STATIC),
        **means,
    }
