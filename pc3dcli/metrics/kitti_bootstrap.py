# SPDX-License-Identifier: Apache-2.0
"""Curves of KITTI for frames drawn with replacement, exactly as if a frame stood there as often as it was drawn.

Objects take detections within their frame, and what becomes of a frame changes only at the scores of its own
detections.  So every frame is matched once, at all of these; a resample adds up changes with the weights of frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pc3dcli.metrics.kitti_ap import (
    ABSENT,
    COUNTED,
    Curve,
    Subset,
    curve_of,
    first_pass,
    frame_counts,
    recall_positions,
)
from pc3dcli.metrics.kitti_pairs import Boxes, Pairs


@dataclass(frozen=True)
class CurveSteps:
    """From what the curve of any selection of frames follows, for one class, difficulty and overlap.

    num_truth             (F,) int64 counted objects of each frame
    taken_score, taken_frame  (S,) by falling score: what counted objects take in the first pass
    score, frame          (E,) by falling score: where what becomes of a frame changes; the first is infinite
    change                (3, E) float64: true positives, false positives and similarity that come in there
    """

    num_truth: np.ndarray
    taken_score: np.ndarray
    taken_frame: np.ndarray
    score: np.ndarray
    frame: np.ndarray
    change: np.ndarray

    def curve(self, weight: np.ndarray) -> Curve:
        """Return the curve of a resample in which each frame stands weight (F,) times."""
        num_truth = int(weight @ self.num_truth)
        ends = np.cumsum(weight[self.taken_frame])  # of each score among all of them, repeated ones too
        positions = recall_positions(int(ends[-1]) if ends.size else 0, num_truth)
        thresholds = self.taken_score[np.searchsorted(ends, positions, "right")]
        reached = np.searchsorted(-self.score, -thresholds, "right")
        sums = np.cumsum(self.change * weight[self.frame], axis=1)[:, reached - 1]
        return curve_of(num_truth, thresholds, *np.rint(sums[:2]).astype(np.int64), sums[2])


def curve_steps(truth: Boxes, found: Boxes, pairs: Pairs, seen: Subset, num_frames: int) -> CurveSteps:
    """Match every frame at all scores of its detections; `pairs` and `seen` as for `precision_curve`."""
    limits = _own_scores(found, seen, num_frames)
    counts = frame_counts(truth, found, pairs, seen, limits)
    outcome = np.stack([counts.true_positives, counts.false_positives, counts.similarity])
    change = np.diff(outcome, axis=2, prepend=0.0)
    frame, step = np.nonzero((change != 0).any(axis=0))
    order = np.argsort(-limits[frame, step], kind="stable")
    frame, step = frame[order], step[order]
    taken = first_pass(truth, found, pairs, seen)
    return CurveSteps(
        num_truth=np.bincount(truth.frame[seen.truth == COUNTED], minlength=num_frames),
        taken_score=found.score[taken],
        taken_frame=found.frame[taken],
        score=np.append(np.inf, limits[frame, step]),
        frame=np.append(0, frame),
        change=np.pad(change[:, frame, step], ((0, 0), (1, 0))),
    )


def _own_scores(found: Boxes, seen: Subset, num_frames: int) -> np.ndarray:
    """Return (F, T) scores of the detections that a class sees, falling within a frame, then -inf."""
    rows = np.flatnonzero(seen.found != ABSENT)
    rows = rows[np.lexsort((-found.score[rows], found.frame[rows]))]
    frame = found.frame[rows]
    place = np.arange(rows.size) - np.searchsorted(frame, frame, "left")
    limits = np.full((num_frames, int(place.max(initial=0)) + 1), -np.inf)
    limits[frame, place] = found.score[rows]
    return limits
