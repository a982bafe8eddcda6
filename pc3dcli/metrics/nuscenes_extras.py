# SPDX-License-Identifier: Apache-2.0
"""What goes with the numbers of nuScenes detection and is ours: which classes were taken for which.

The public scorer matches within a class, so that a van called a truck is one false positive and one miss; this table
tells where it went.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pc3dcli.metrics.nuscenes_boxes import CLASSES, Boxes, match
from pc3dcli.metrics.nuscenes_detection import AT_2M, Matched


def confusion(found: Matched) -> np.ndarray:
    """Count which classes were taken for which: predictions, the best score first, take the nearest within 2 m.

    A prediction counts from `operating_scores` of its class on.
    returns  (C+1, C+1) int64: rows the class of the annotation, columns that of the prediction; the last row for
             predictions of nothing, the last column for annotations that were missed
    """
    predicted = found.predicted.take(found.predicted.score >= operating_scores(found)[found.predicted.label])
    partner = match(_without_class(found.truth), _without_class(predicted))[AT_2M]
    nothing = len(CLASSES)
    taken_as = np.full(len(found.truth), nothing)
    taken_as[partner[partner >= 0]] = predicted.label[partner >= 0]
    counts = np.zeros((nothing + 1, nothing + 1), np.int64)
    np.add.at(counts, (found.truth.label, taken_as), 1)
    np.add.at(counts, (nothing, predicted.label[partner < 0]), 1)
    return counts


def operating_scores(found: Matched) -> np.ndarray:
    """Return (C,) the score at which each class has its largest F1 at 2 m, the highest such; inf without a match."""
    num_truth = np.bincount(found.truth.label, minlength=len(CLASSES))
    scores = np.full(len(CLASSES), np.inf)
    for label in range(len(CLASSES)):
        rows = np.flatnonzero(found.predicted.label == label)  # in scoring order
        hits = np.cumsum(found.partner[AT_2M, rows] >= 0)
        if not hits.any():
            continue
        score = found.predicted.score[rows]
        ends = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # equal scores count together
        f1 = 2 * hits[ends] / (ends + 1 + num_truth[label])
        scores[label] = score[ends[f1.argmax()]]
    return scores


def _without_class(boxes: Boxes) -> Boxes:
    return replace(boxes, label=np.zeros(len(boxes), np.int8))
