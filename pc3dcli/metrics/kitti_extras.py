# SPDX-License-Identifier: Apache-2.0
"""What goes with KITTI's average precision and is ours: objects of a distance, numbers of a frame, confusion.

Average precision of a single frame says little (with fewer than 40 objects not all recall steps are reached), so a
frame is given the F1 at the score at which its class does best over all frames.
"""

from __future__ import annotations

import numpy as np

from pc3dcli.metrics.kitti_ap import COUNTED, IGNORED, Subset
from pc3dcli.metrics.kitti_pairs import CLASSES, DONT_CARE, KINDS, Boxes, image_pairs


def in_range(seen: Subset, truth: Boxes, found: Boxes, low: float, high: float) -> Subset:
    """Return the subset at a depth z with low <= z < high metres.

    Objects elsewhere are ignored.  Detections elsewhere may still be taken, but are no false positives when left
    over: an object near the limit is found by a detection just beyond it.
    """
    is_inside = (low <= truth.depth) & (truth.depth < high)
    of_truth = np.where((seen.truth == COUNTED) & ~is_inside, IGNORED, seen.truth).astype(np.int8)
    return Subset(of_truth, seen.found, seen.excused | (found.depth < low) | (found.depth >= high))


def f1(true_positives: np.ndarray, false_positives: np.ndarray, misses: np.ndarray) -> list[float | None]:
    """Return 2 tp / (2 tp + fp + fn) of each frame; None where there is nothing to find and nothing was found."""
    whole = 2 * true_positives + false_positives + misses
    return [2 * tp / all_ if all_ else None for tp, all_ in zip(true_positives.tolist(), whole.tolist(), strict=True)]


def confusion(
    truth: Boxes, found: Boxes, excused: np.ndarray, lowest: list[float], of_interest: np.ndarray
) -> np.ndarray:
    """Count which kinds were taken for which, by image overlap above 0.5, the best score first.

    excused      (M,) bool, detections that are no false positives
    lowest       the lowest score that counts, by class; detections of other kinds do not count
    of_interest  (N,) bool, objects that are counted as missed when nothing took them
    returns      (K+1, K+1) int64: rows the kind in KINDS of the object, columns that of the detection; the last row for
                 detections of nothing, the last column for objects that were missed
    """
    counts = np.zeros((len(KINDS) + 1, len(KINDS) + 1), np.int64)
    is_used = np.zeros(len(found), bool)
    for c in range(len(CLASSES)):
        is_used |= (found.kind == c) & (found.score >= lowest[c])
    is_found, is_taken = np.zeros(len(truth), bool), np.zeros(len(found), bool)
    pairs = image_pairs(truth, found, np.flatnonzero(truth.kind != DONT_CARE), is_used, 0.5)
    order = np.lexsort((pairs.found, -pairs.overlap, -found.score[pairs.found]))
    for i, j in zip(pairs.truth[order].tolist(), pairs.found[order].tolist(), strict=True):
        if not is_found[i] and not is_taken[j]:
            is_found[i] = is_taken[j] = True
            counts[truth.kind[i], found.kind[j]] += 1
    nothing = len(KINDS)
    np.add.at(counts, (nothing, found.kind[is_used & ~is_taken & ~excused]), 1)
    np.add.at(counts, (truth.kind[of_interest & ~is_found], nothing), 1)
    return counts
