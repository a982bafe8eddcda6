# SPDX-License-Identifier: Apache-2.0
"""Quality of boxes that are to be labels: recall, precision and errors by class and distance (evaluation.md 9)."""

from __future__ import annotations

import numpy as np

from pc3dcli.metrics.nuscenes_boxes import CLASSES, DISTANCES, Boxes, pairs_within
from pc3dcli.metrics.nuscenes_detection import AT_2M, Matched

AT_1M = DISTANCES.index(1.0)
_STATIC = ("ate", "ase", "aoe")


def label_quality(
    found: Matched, truth_distance: np.ndarray, distance: np.ndarray, low: float, high: float
) -> dict[str, dict[str, float]]:
    """Return for each class recall and precision at 1 m and 2 m, mean errors, `single` and the number of annotations.

    truth_distance (G,), distance (P,)  metres from the ego vehicle of annotations and predictions; those in [low, high)
                                        count, a match by its annotation for recall and errors
    single  share of annotations that are the nearest one, within 2 m, of exactly one box of their class
    NaN where there is nothing to divide by
    """
    boxes_of = _boxes_of(found.truth, found.predicted)
    is_found = np.zeros((len(DISTANCES), len(found.truth)), bool)
    for index, partner in enumerate(found.partner):
        is_found[index, partner[partner >= 0]] = True
    in_truth = (truth_distance >= low) & (truth_distance < high)
    in_predicted = (distance >= low) & (distance < high)
    partner = found.partner[AT_2M]
    is_matched = (partner >= 0) & in_truth[partner] if len(found.truth) else partner >= 0
    rows = {}
    for label, name in enumerate(CLASSES):
        truth = in_truth & (found.truth.label == label)
        predicted = in_predicted & (found.predicted.label == label)
        matches = is_matched & (found.predicted.label == label)
        row = {}
        for metres, index in ((1, AT_1M), (2, AT_2M)):
            row[f"recall_{metres}m"] = _mean(is_found[index, truth])
            row[f"precision_{metres}m"] = _mean(found.partner[index, predicted] >= 0)
        row |= {error: _mean(found.errors[index, matches]) for index, error in enumerate(_STATIC)}
        row["single"] = _mean(boxes_of[truth] == 1)
        rows[name] = row | {"gt": int(truth.sum())}
    return rows


def _boxes_of(truth: Boxes, predicted: Boxes) -> np.ndarray:
    """Return (G,) numbers of boxes whose nearest annotation each is."""
    chosen, partner, distance = pairs_within(truth, predicted)
    near = distance < DISTANCES[AT_2M]
    chosen, partner = chosen[near], partner[near]
    is_nearest = np.ones(chosen.size, bool)
    is_nearest[1:] = chosen[1:] != chosen[:-1]
    return np.bincount(partner[is_nearest], minlength=len(truth))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else np.nan
