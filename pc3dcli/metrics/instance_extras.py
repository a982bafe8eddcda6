# SPDX-License-Identifier: Apache-2.0
"""What `eval --task instance` adds on request: recall by size, confusion of classes, bootstrap intervals.

The size limits are those of evaluation.md 1.5; the rules of recall by size, of the confusion table and of the intervals
are ours, since no public scorer has them: each is stated at its function.
"""

from __future__ import annotations

import numpy as np

from pc3dcli.metrics.bootstrap import percentile_interval
from pc3dcli.metrics.instance_ap import AT_25, AT_50, OVER_50, THRESHOLDS, SceneMatches, grouped_entries, mean_or_none

SIZE_BINS = (("<500", 0, 500), ("<5000", 500, 5000), ("rest", 5000, None))  # vertices
_CHUNK = 64  # resamples at a time: 64 x entries of one class and threshold, a few MB


def recall_by_size(scenes: list[SceneMatches]) -> dict[str, dict[str, float | int | None]]:
    """Return, for each size of instance in vertices, how many there are and which share was found.

    Matching is that of the main result; "rc" is the mean over the nine thresholds from 0.5.
    """
    size = np.concatenate([np.zeros(0, np.int64), *(scene.truth_size for scene in scenes)])
    found = np.concatenate([np.zeros((THRESHOLDS.size, 0), bool), *(scene.truth_found for scene in scenes)], axis=1)
    bins = {}
    for name, low, high in SIZE_BINS:
        inside = found[:, (size >= low) & (size < (high or np.inf))]
        count = inside.shape[1]
        share = inside.mean(axis=1) if count else np.full(THRESHOLDS.size, np.nan)
        bins[name] = {
            "gt": count,
            "rc": mean_or_none(share[OVER_50]),
            "rc50": mean_or_none(share[[AT_50]]),
            "rc25": mean_or_none(share[[AT_25]]),
        }
    return bins


def confusion(scenes: list[SceneMatches], num_classes: int) -> np.ndarray:
    """Return (C+1, C+1) int64 counts: rows the true class, columns the predicted one, at IoU > 0.5 of any class.

    An eligible instance counts under the class of the best-scored prediction on it, or in the last column when there is
    none; a prediction on no eligible instance counts in the last row.
    """
    table = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for scene in scenes:
        np.add.at(table, (scene.truth_class, scene.best_class), 1)  # -1 is the last column
        np.add.at(table, (num_classes, scene.spare_class), 1)
    return table


def bootstrap_intervals(
    scenes: list[SceneMatches], num_resamples: int, rng: np.random.Generator
) -> dict[str, list[float | None]]:
    """Return the 2.5 and 97.5 percentiles of ap, ap50 and ap25 over resamples of the scenes with replacement.

    Classes that a resample lacks are left out of its mean, resamples without any class out of the percentiles.
    """
    weight = rng.multinomial(len(scenes), np.full(len(scenes), 1 / len(scenes)), num_resamples)  # (B, S)
    num_truth = weight @ np.array([scene.num_truth for scene in scenes])  # (B, C)
    ap = np.where(num_truth[:, :, None] > 0, 0.0, np.full((1, 1, THRESHOLDS.size), np.nan))  # (B, C, T)
    for c, t, score, is_true, scene in _entries_with_scene(scenes):
        for start in range(0, num_resamples, _CHUNK):
            part = slice(start, start + _CHUNK)
            value = _weighted_ap(score, is_true, weight[part][:, scene], num_truth[part, c])
            ap[part, c, t] = np.where(num_truth[part, c] > 0, value, np.nan)
    chosen = {"ap": ap[:, :, OVER_50], "ap50": ap[:, :, [AT_50]], "ap25": ap[:, :, [AT_25]]}
    return {
        name: percentile_interval(np.array([mean_or_none(values) for values in part], np.float64))
        for name, part in chosen.items()
    }


def _entries_with_scene(scenes: list[SceneMatches]):
    """Yield the groups of `grouped_entries` and the scene index of each entry."""
    numbered = [np.full(scene.score.size, index) for index, scene in enumerate(scenes)]
    scene_of_entry = np.concatenate(numbered) if numbered else np.zeros(0, np.int64)
    for c, t, score, is_true, position in grouped_entries(scenes):
        yield c, t, score, is_true, scene_of_entry[position]


def _weighted_ap(score: np.ndarray, is_true: np.ndarray, weight: np.ndarray, num_truth: np.ndarray) -> np.ndarray:
    """Average precision (B,) of resamples in which entry e counts weight[b, e] times; scores increase.

    A point that a resample lacks repeats its neighbour here, which changes nothing in the sum over points.
    """
    first = np.flatnonzero(np.diff(score, prepend=-np.inf))
    count_from = np.cumsum(weight[:, ::-1], axis=1)[:, ::-1][:, first]
    true_from = np.cumsum((weight * is_true)[:, ::-1], axis=1)[:, ::-1][:, first]
    precision = np.where(count_from > 0, true_from / np.maximum(count_from, 1), 1.0)
    padded = np.concatenate((true_from[:, :1], true_from, np.zeros((len(weight), 2), np.int64)), axis=1)
    width = padded[:, :-2] - padded[:, 2:]
    total = (precision * width[:, :-1]).sum(axis=1) + width[:, -1]  # the artificial point has precision 1
    return total / (2 * np.maximum(num_truth, 1))


def precision_recall(scenes: list[SceneMatches], threshold: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return, by class with entries, the precision and recall (E,) after each distinct score, surest first.

    threshold  index into `THRESHOLDS`
    """
    num_truth = sum(scene.num_truth for scene in scenes)
    curves = {}
    for c, t, score, is_true, _ in grouped_entries(scenes):
        if t == threshold and num_truth[c]:
            true, number = np.cumsum(is_true[::-1]), np.arange(1, score.size + 1)
            ends = np.flatnonzero(np.append(np.diff(score[::-1]) != 0, True))  # scores increase; here surest first
            curves[c] = (true[ends] / number[ends], true[ends] / num_truth[c])
    return curves
