# SPDX-License-Identifier: Apache-2.0
"""Automatic tracks against video instances: IDF1, switches, fragmentations, average precision, consistency.

E. Ristani et al., Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking, 2016 (IDF1); K.
Bernardin, R. Stiefelhagen, Evaluating Multiple Object Tracking Performance, 2008 (matching, switches); L. Yang et al.,
Video Instance Segmentation, 2019 (average precision), all on masks: a pair may match in a frame when its IoU >= 0.5.
The numbers are those of the packages motmetrics 1.4 and pycocotools 2.0; `consistency` is evaluation.md section 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pc3dcli.metrics.assignment import assign

MIN_IOU = 0.5  # of a pair that may match in a frame
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU over the video
MAX_TRACKS = 100  # of a video, those of the best scores; as COCO
_RECALLS = np.linspace(0, 1, 101)
_MAX_CELLS = 1 << 18  # of a table of all pairs of ids that is counted directly; ours, a fraction of an image


@dataclass(frozen=True)
class FrameOverlaps:
    """Pixels that objects and tracks share in one frame.

    truth_ids (G,), track_ids (P,) sorted int64; shared (G, P), truth_area (G,), track_area (P,) int64 pixels
    """

    truth_ids: np.ndarray
    track_ids: np.ndarray
    shared: np.ndarray
    truth_area: np.ndarray
    track_area: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """IoU (G, P) of objects and tracks."""
        return self.shared / (self.truth_area[:, None] + self.track_area - self.shared)


def label_overlaps(truth: np.ndarray, predicted: np.ndarray) -> FrameOverlaps:
    """Compare two (H, W) label images of small non-negative ids, 0 for none."""
    if (int(truth.max(initial=0)) + 1) * (int(predicted.max(initial=0)) + 1) <= _MAX_CELLS:
        return _pair_counts(truth, predicted)
    truth_ids, row = _rows(truth)
    track_ids, column = _rows(predicted)
    return replace(_pair_counts(row[truth], column[predicted]), truth_ids=truth_ids, track_ids=track_ids)


def _pair_counts(truth: np.ndarray, predicted: np.ndarray) -> FrameOverlaps:
    """Count all pairs of ids of two (H, W) label images at once."""
    num_truth, num_tracks = int(truth.max(initial=0)) + 1, int(predicted.max(initial=0)) + 1
    pairs = np.multiply(truth, num_tracks, dtype=np.int64)  # the type that bincount counts without a copy
    pairs += predicted
    table = np.bincount(pairs.reshape(-1), minlength=num_truth * num_tracks).reshape(num_truth, num_tracks)
    truth_area, track_area = table.sum(axis=1), table.sum(axis=0)
    truth_area[0] = track_area[0] = 0
    truth_ids, track_ids = np.flatnonzero(truth_area), np.flatnonzero(track_area)
    shared = table[np.ix_(truth_ids, track_ids)]
    return FrameOverlaps(truth_ids, track_ids, shared, truth_area[truth_ids], track_area[track_ids])


def _rows(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of an image, and a table from label to row: 0 for none, then the ids in order."""
    is_there = np.bincount(labels.reshape(-1), minlength=1) > 0
    is_there[0] = False
    return np.flatnonzero(is_there), np.cumsum(is_there) * is_there


def mask_overlaps(truth: np.ndarray, predicted: Mapping[int, np.ndarray]) -> FrameOverlaps:
    """Compare a (H, W) label image with (H, W) bool masks by track id, which may overlap; empty ones do not count."""
    truth_ids, row = _rows(truth)
    rows = row[truth]
    masks = {track: mask for track, mask in sorted(predicted.items()) if mask.any()}
    counts = [np.bincount(rows[mask], minlength=truth_ids.size + 1) for mask in masks.values()]
    table = np.reshape(counts, (len(masks), truth_ids.size + 1)).astype(np.int64).T
    area = np.bincount(rows.reshape(-1), minlength=truth_ids.size + 1)
    return FrameOverlaps(truth_ids, np.array(list(masks), np.int64), table[1:], area[1:], table.sum(axis=0))


@dataclass(frozen=True)
class IdentityCounts:
    """What IDF1 is made of, in masks, with switches and fragmentations; counts of several videos add up."""

    num_same: int = 0  # masks that match under the best assignment of tracks to objects over the video
    num_truth: int = 0
    num_predicted: int = 0
    num_switches: int = 0
    num_fragmentations: int = 0

    def __add__(self, other: IdentityCounts) -> IdentityCounts:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return IdentityCounts(*(a + b for a, b in pairs))

    @property
    def idf1(self) -> float | None:
        """2 same / (truth + predicted), None without any mask."""
        total = self.num_truth + self.num_predicted
        return 2 * self.num_same / total if total else None


def identity_counts(frames: Sequence[FrameOverlaps]) -> IdentityCounts:
    """Count identities over the frames of a video, in their order."""
    truth_ids, track_ids = _all_ids(frames)
    pairs = np.zeros((truth_ids.size, track_ids.size), np.int64)
    for frame in frames:
        row, column = np.nonzero(frame.iou >= MIN_IOU)
        at = np.searchsorted(truth_ids, frame.truth_ids[row]), np.searchsorted(track_ids, frame.track_ids[column])
        pairs[at] += 1
    switches, fragmentations = _switches(frames)
    return IdentityCounts(
        num_same=int(pairs[assign(pairs)].sum()),
        num_truth=sum(frame.truth_ids.size for frame in frames),
        num_predicted=sum(frame.track_ids.size for frame in frames),
        num_switches=switches,
        num_fragmentations=fragmentations,
    )


def _all_ids(frames: Sequence[FrameOverlaps]) -> tuple[np.ndarray, np.ndarray]:
    none = np.zeros(0, np.int64)
    truth = np.unique(np.concatenate([none, *(frame.truth_ids for frame in frames)]))
    return truth, np.unique(np.concatenate([none, *(frame.track_ids for frame in frames)]))


def _switches(frames: Sequence[FrameOverlaps]) -> tuple[int, int]:
    """Match frame by frame; return how often an object's track changes, and how often it is lost and found again.

    A gap counts whose ends are matched frames; frames without the object are no gap.
    """
    last: dict[int, int] = {}
    is_lost: dict[int, bool] = {}
    switches = fragmentations = 0
    for frame in frames:
        matched = _frame_matches(frame, last)
        for truth in frame.truth_ids.tolist():
            if truth not in matched:
                if truth in last:
                    is_lost[truth] = True
                continue
            switches += truth in last and last[truth] != matched[truth]
            fragmentations += is_lost.pop(truth, False)
            last[truth] = matched[truth]
    return switches, fragmentations


def _frame_matches(frame: FrameOverlaps, last: Mapping[int, int]) -> dict[int, int]:
    """Match objects to tracks: first those that matched last, then as many as possible, of the largest sum of IoU."""
    iou = frame.iou
    may_match = iou >= MIN_IOU
    truth_ids, track_ids = frame.truth_ids.tolist(), frame.track_ids.tolist()
    matched: dict[int, int] = {}
    for row, truth in enumerate(truth_ids):
        column = track_ids.index(last[truth]) if last.get(truth) in track_ids else -1
        if column >= 0 and may_match[row, column]:
            matched[truth] = track_ids[column]
            may_match[row], may_match[:, column] = False, False
    rows, columns = np.flatnonzero(may_match.any(axis=1)), np.flatnonzero(may_match.any(axis=0))
    left = may_match[np.ix_(rows, columns)]
    # a pair that may match outweighs every sum of IoU
    value = np.where(left, 1 + left.shape[0] + iou[np.ix_(rows, columns)], 0)
    for row, column in zip(*assign(value), strict=True):
        if left[row, column]:
            matched[truth_ids[rows[row]]] = track_ids[columns[column]]
    return matched


@dataclass(frozen=True)
class VideoMatches:
    """Tracks of a video by falling score: score (P,), is_true (thresholds, P) bool; and how many objects there are."""

    score: np.ndarray
    is_true: np.ndarray
    num_truth: int


def match_video(frames: Sequence[FrameOverlaps], scores: Mapping[int, float]) -> VideoMatches:
    """Match the tracks of a video to its objects by their IoU over all frames, as COCO matches boxes of an image.

    scores  of each track; equal ones in order of the ids
    """
    truth_ids, track_ids = _all_ids(frames)
    shared = np.zeros((truth_ids.size, track_ids.size), np.int64)
    area, track_area = np.zeros(truth_ids.size, np.int64), np.zeros(track_ids.size, np.int64)
    for frame in frames:
        rows, columns = np.searchsorted(truth_ids, frame.truth_ids), np.searchsorted(track_ids, frame.track_ids)
        shared[np.ix_(rows, columns)] += frame.shared
        area[rows] += frame.truth_area
        track_area[columns] += frame.track_area
    iou = shared / (area[:, None] + track_area - shared)
    score = np.array([scores[track] for track in track_ids.tolist()], np.float64)
    order = np.argsort(-score, kind="stable")[:MAX_TRACKS]
    is_true = np.array([_greedy(iou[:, order], limit) for limit in THRESHOLDS]).reshape(THRESHOLDS.size, -1)
    return VideoMatches(score[order], is_true, truth_ids.size)


def _greedy(iou: np.ndarray, limit: float) -> np.ndarray:
    """Give each track in turn the free object of its largest IoU; of equal ones the last, as COCO does."""
    is_free = np.ones(iou.shape[0], bool)
    is_true = np.zeros(iou.shape[1], bool)
    for column in range(iou.shape[1] if is_free.size else 0):
        value = np.where(is_free, iou[:, column], -1.0)
        best = is_free.size - 1 - int(value[::-1].argmax())
        is_true[column] = value[best] >= min(limit, 1 - 1e-10)
        is_free[best] &= not is_true[column]
    return is_true


def average_precision(videos: Sequence[VideoMatches]) -> tuple[np.ndarray | None, np.ndarray]:
    """Return AP at each of THRESHOLDS, None without objects, and the precision at IoU 0.5 at recall 0, 0.01, ..., 1."""
    num_truth = sum(video.num_truth for video in videos)
    if not num_truth:
        return None, np.zeros(0)
    order = np.argsort(-np.concatenate([video.score for video in videos]), kind="stable")
    is_true = np.concatenate([video.is_true for video in videos], axis=1)[:, order]
    true = np.cumsum(is_true, axis=1)
    recall, precision = true / num_truth, true / np.arange(1, order.size + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    sampled = np.zeros((THRESHOLDS.size, _RECALLS.size))
    for row in range(THRESHOLDS.size):
        index = np.searchsorted(recall[row], _RECALLS)
        reached = index < order.size
        sampled[row, reached] = precision[row, index[reached]]
    return sampled.mean(axis=1), sampled[0]


def consistency(frames: Sequence[FrameOverlaps]) -> dict[int, float]:
    """Return, for each object, the share of its pixels over the video that carry its most frequent track."""
    area: dict[int, int] = {}
    shared: dict[int, dict[int, int]] = {}
    for frame in frames:
        for row, truth in enumerate(frame.truth_ids.tolist()):
            area[truth] = area.get(truth, 0) + int(frame.truth_area[row])
            counts = shared.setdefault(truth, {})
            for column in np.flatnonzero(frame.shared[row]):
                track = int(frame.track_ids[column])
                counts[track] = counts.get(track, 0) + int(frame.shared[row, column])
    return {truth: max(shared[truth].values(), default=0) / area[truth] for truth in sorted(area)}
