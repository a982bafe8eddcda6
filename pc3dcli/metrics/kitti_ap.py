# SPDX-License-Identifier: Apache-2.0
"""Average precision and orientation similarity of the KITTI object benchmark (evaluation.md section 4).

Source: Geiger, Lenz, Urtasun, "Are we ready for autonomous driving? The KITTI vision benchmark suite", CVPR 2012; rules
of the official program.  Objects of a frame take their detections one after the other; here all frames take theirs
together, and for all score thresholds at once: round 0 the objects that share no detection with another, then the
others in file order, one of each frame a round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pc3dcli.metrics.kitti_pairs import Boxes, Pairs

DIFFICULTIES = ("easy", "moderate", "hard")
MIN_HEIGHT = (40, 25, 25)  # pixels, by difficulty
MAX_OCCLUSION = (0, 1, 2)
MAX_TRUNCATION = (0.15, 0.30, 0.50)
NUM_STEPS = 40  # recall steps: entries 0 to 40
COUNTED, IGNORED, ABSENT = 1, 0, -1
_PAIRS_AT_ONCE = 4096  # x 41 thresholds; bounds memory, ours


@dataclass(frozen=True)
class Subset:
    """What one class and difficulty sees: state of each object and detection, COUNTED, IGNORED or ABSENT.

    truth, found  (N,), (M,) int8
    excused       (M,) bool, left over without being false positives
    """

    truth: np.ndarray
    found: np.ndarray
    excused: np.ndarray

    @property
    def num_truth(self) -> int:
        """Objects that are counted."""
        return int((self.truth == COUNTED).sum())


@dataclass(frozen=True)
class Curve:
    """Precision at the recall steps (41,) float64, after the running maximum; similarity the same for orientation.

    thresholds (T,) scores of the steps, descending, T <= 41; true_positives and false_positives (T,) int64
    """

    num_truth: int
    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    precision: np.ndarray
    similarity: np.ndarray

    def best_step(self) -> int | None:
        """Return the step of the largest F1; None when no object was found at all."""
        if not len(self.thresholds):
            return None
        return int(np.argmax(2 * self.true_positives / (self.true_positives + self.false_positives + self.num_truth)))


def subset(truth: Boxes, found: Boxes, class_index: int, difficulty: int, *, is_at_limit_ignored: bool) -> Subset:
    """Return what a class at a difficulty sees, with nothing excused.

    is_at_limit_ignored  an object exactly as high as the minimum is ignored (numba ports), else counted (official)
    """
    height, minimum = truth.image_height, MIN_HEIGHT[difficulty]
    is_hard = (
        (truth.occlusion > MAX_OCCLUSION[difficulty])
        | (truth.truncation > MAX_TRUNCATION[difficulty])
        | ((height <= minimum) if is_at_limit_ignored else (height < minimum))
    )
    is_counted = (truth.kind == class_index) & ~is_hard
    of_truth = np.where(is_counted, COUNTED, np.where(truth.class_index == class_index, IGNORED, ABSENT))
    of_found = np.where(found.kind == class_index, COUNTED, ABSENT)
    of_found[np.abs(found.image_height) < minimum] = IGNORED  # whatever its type
    return Subset(of_truth.astype(np.int8), of_found.astype(np.int8), np.zeros(len(found), bool))


def precision_curve(truth: Boxes, found: Boxes, pairs: Pairs, seen: Subset) -> Curve:
    """Match twice, for the list of scores and at each of its thresholds, and return the curve of a class.

    pairs  of this class and overlap, from `matching_pairs`
    seen   the subset of this class and difficulty
    """
    pairs = _visible(pairs, seen)
    scores = first_pass_scores(truth, found, pairs, seen)
    thresholds = recall_thresholds(scores, seen.num_truth)
    true_positives, similarity = np.zeros(len(thresholds), np.int64), np.zeros(len(thresholds))
    counted = np.sort(found.score[(seen.found == COUNTED) & ~seen.excused])
    false_positives = len(counted) - np.searchsorted(counted, thresholds, "left")
    for part, choice in _second_pass(truth, found, pairs, seen, thresholds):
        is_true, uses = _outcome(part, seen)
        agreement = _agreement(truth, found, part)
        true_positives += _chosen(is_true, choice).sum(axis=0)
        false_positives -= _chosen(uses, choice).sum(axis=0)
        similarity += _chosen(agreement * is_true, choice).sum(axis=0)
    return curve_of(seen.num_truth, thresholds, true_positives, false_positives, similarity)


def curve_of(
    num_truth: int,
    thresholds: np.ndarray,
    true_positives: np.ndarray,
    false_positives: np.ndarray,
    similarity: np.ndarray,
) -> Curve:
    """Return the curve of counts and sums of similarity (T,) at the thresholds (T,)."""
    found_any = true_positives + false_positives
    heights = _running_maximum(true_positives, found_any), _running_maximum(similarity, found_any)
    return Curve(num_truth, thresholds, true_positives, false_positives, *heights)


@dataclass(frozen=True)
class FrameCounts:
    """What becomes of each frame at limits of its own: (F, T) int64, similarity (F, T) float64."""

    true_positives: np.ndarray
    false_positives: np.ndarray
    misses: np.ndarray
    similarity: np.ndarray


def frame_counts(truth: Boxes, found: Boxes, pairs: Pairs, seen: Subset, limits: np.ndarray) -> FrameCounts:
    """Match each frame at limits of its own; limits (F, T) lowest scores that count."""
    pairs, shape = _visible(pairs, seen), limits.shape
    alone = np.flatnonzero((seen.found == COUNTED) & ~seen.excused)
    at = found.frame[alone]
    ends = np.searchsorted(at, np.arange(shape[0] + 1))
    above = np.cumsum(np.pad(found.score[alone][:, None] >= limits[at], ((1, 0), (0, 0))), axis=0)[ends]
    num_truth = np.bincount(truth.frame[seen.truth == COUNTED], minlength=shape[0])
    sums = np.stack([np.zeros(shape), np.diff(above, axis=0), np.repeat(num_truth[:, None], shape[1], axis=1)])
    similarity = np.zeros(shape)
    for part, choice in _second_pass(truth, found, pairs, seen, limits):
        row, step = np.nonzero(choice < len(part.truth))
        taken = choice[row, step]
        place = truth.frame[part.truth[taken]] * shape[1] + step
        is_true, uses = _outcome(part, seen)
        is_found = seen.truth[part.truth] == COUNTED
        for total, change in zip(sums, (is_true * 1.0, -1.0 * uses, -1.0 * is_found), strict=True):
            total += np.bincount(place, change[taken], minlength=limits.size).reshape(shape)
        agreement = _agreement(truth, found, part) * is_true
        similarity += np.bincount(place, agreement[taken], minlength=limits.size).reshape(shape)
    return FrameCounts(*sums.astype(np.int64), similarity)


def average_precision(precision: np.ndarray) -> tuple[float, float]:
    """Return (R40, R11) of a curve: the means of entries 1..40 and of entries 0, 4, ..., 40."""
    return float(precision[1:].mean()), float(precision[::4].mean())


def first_pass_scores(truth: Boxes, found: Boxes, pairs: Pairs, seen: Subset) -> np.ndarray:
    """Return the scores with which counted objects take counted detections, the highest score first, descending."""
    return found.score[first_pass(truth, found, pairs, seen)]


def first_pass(truth: Boxes, found: Boxes, pairs: Pairs, seen: Subset) -> np.ndarray:
    """Return the counted detections (S,) that counted objects take, the highest score first, by falling score."""
    pairs = _visible(pairs, seen)
    rows = [np.zeros(0, np.int64)]
    for part, choice in _assign(truth, pairs, -found.score[pairs.found], found.score, np.array([-np.inf])):
        taken = choice[choice < len(part.truth)]
        is_true, _ = _outcome(part, seen)
        rows.append(part.found[taken[is_true[taken]]])
    taken = np.concatenate(rows)
    return taken[np.argsort(-found.score[taken], kind="stable")]


def recall_thresholds(scores: np.ndarray, num_truth: int) -> np.ndarray:
    """Return the scores (T,) that come nearest to recall 0, 1/40, ..., 1; T <= 41.

    scores  (S,) descending; num_truth counted objects
    """
    return scores[recall_positions(len(scores), num_truth)]


def recall_positions(num_scores: int, num_truth: int) -> list[int]:
    """Return which of so many scores, the highest first, come nearest to recall 0, 1/40, ..., 1; at most 41.

    The comparison is the program's, in its floating point; it is made near the place where it turns only.
    """
    kept: list[int] = []
    current, last = 0.0, num_scores - 1
    while len(kept) <= NUM_STEPS and (not kept or kept[-1] < last) and num_scores:
        lowest = kept[-1] + 1 if kept else 0
        i = min(max(lowest, int(current * num_truth - 1.5)), last)
        while i > lowest and not _is_skipped(i - 1, current, num_truth):
            i -= 1
        while i < last and _is_skipped(i, current, num_truth):
            i += 1
        kept.append(i)
        current += 1.0 / NUM_STEPS
    return kept


def _is_skipped(i: int, current: float, num_truth: int) -> bool:
    """Tell whether the recall after the next score is nearer to `current` than that after score i."""
    return (i + 2) / num_truth - current < current - (i + 1) / num_truth


def _agreement(truth: Boxes, found: Boxes, pairs: Pairs) -> np.ndarray:
    """Return (P,) in [0, 1], how well the orientations of pairs agree."""
    return (1 + np.cos(truth.alpha[pairs.truth] - found.alpha[pairs.found])) / 2


def _running_maximum(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return (41,) the largest ratio at or after each step, 0 beyond the last; a step without detections has none."""
    ratio = np.zeros(NUM_STEPS + 1)
    np.divide(numerator, denominator, out=ratio[: len(numerator)], where=denominator > 0)
    return np.maximum.accumulate(ratio[::-1])[::-1]


def _visible(pairs: Pairs, seen: Subset) -> Pairs:
    keep = np.flatnonzero((seen.truth[pairs.truth] != ABSENT) & (seen.found[pairs.found] != ABSENT))
    return pairs if keep.size == len(pairs.truth) else Pairs(pairs.truth[keep], pairs.found[keep], pairs.overlap[keep])


def _outcome(pairs: Pairs, seen: Subset) -> tuple[np.ndarray, np.ndarray]:
    """Return for each pair whether taking it is a true positive, and whether it spends a would-be false positive."""
    is_counted = seen.found[pairs.found] == COUNTED
    return is_counted & (seen.truth[pairs.truth] == COUNTED), is_counted & ~seen.excused[pairs.found]


def _chosen(values: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """Return `values` of the chosen pairs, 0 where an object took none."""
    return np.append(values, values.dtype.type(0))[choice]


def _second_pass(
    truth: Boxes, found: Boxes, pairs: Pairs, seen: Subset, thresholds: np.ndarray
) -> Iterator[tuple[Pairs, np.ndarray]]:
    """Match by largest overlap; the first ignored detection in file order only where no counted one is left."""
    preference = np.where(seen.found[pairs.found] == COUNTED, -pairs.overlap, 1.0 + pairs.found)
    return _assign(truth, pairs, preference, found.score, thresholds)


def _assign(
    truth: Boxes, pairs: Pairs, preference: np.ndarray, score: np.ndarray, thresholds: np.ndarray
) -> Iterator[tuple[Pairs, np.ndarray]]:
    """Let objects take detections at every threshold, some frames at a time.

    thresholds  (T,), or (F, T) those of each frame
    preference  (P,) an object takes its open pair of the smallest; on ties the first in file order
    yields      pairs of whole frames, reordered, and choice (objects, T): position of the pair taken, P for none
    """
    order = np.lexsort((preference, pairs.truth))
    pairs = Pairs(pairs.truth[order], pairs.found[order], pairs.overlap[order])
    frame = truth.frame[pairs.truth]
    start = 0
    while start < len(order):
        stop = start + _PAIRS_AT_ONCE
        stop = len(order) if stop >= len(order) else int(np.searchsorted(frame, frame[stop - 1], "right"))
        part = Pairs(*(column[start:stop] for column in (pairs.truth, pairs.found, pairs.overlap)))
        yield _assign_frames(part, frame[start:stop], score, thresholds)
        start = stop


def _assign_frames(
    pairs: Pairs, frame: np.ndarray, score: np.ndarray, thresholds: np.ndarray
) -> tuple[Pairs, np.ndarray]:
    """Assign the pairs of whole frames, of which `frame` (P,) tells the number; see `_assign`."""
    found, local = np.unique(pairs.found, return_inverse=True)
    order, object_start, round_start = _rounds(pairs.truth, local, frame)
    pairs = Pairs(pairs.truth[order], pairs.found[order], pairs.overlap[order])
    local, num_pairs = local[order], len(order)
    is_open = score[pairs.found][:, None] >= (thresholds if thresholds.ndim == 1 else thresholds[frame[order]])
    is_taken = np.zeros((len(found), thresholds.shape[-1]), bool)
    bounds = np.append(object_start, num_pairs)
    choice = np.empty((len(object_start), thresholds.shape[-1]), np.int32)
    for first, last in zip(round_start[:-1], round_start[1:], strict=True):
        low, high = bounds[first], bounds[last]
        usable = is_open[low:high] if first == 0 else is_open[low:high] & ~is_taken[local[low:high]]
        place = np.where(usable, np.arange(low, high, dtype=np.int32)[:, None], np.int32(num_pairs))
        best = np.minimum.reduceat(place, object_start[first:last] - low, axis=0)
        choice[first:last] = best
        taker, step = np.nonzero(best < num_pairs)
        is_taken[local[best[taker, step]], step] = True
    return pairs, choice


def _rounds(truth: np.ndarray, local: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order objects into rounds in which no detection is wanted twice.

    truth, local, frame  (P,) of each pair: its object, its detection counted from 0, the frame of both
    returns  order (P,) of the pairs; start (G,) of each object among them; start (R + 1,) of each round among objects
    """
    start = np.flatnonzero(np.append(True, truth[1:] != truth[:-1]))
    is_shared = np.bincount(local)[local] > 1
    contested = np.flatnonzero(np.logical_or.reduceat(is_shared, start))
    of_frame = frame[start][contested]
    number = np.zeros(len(start), np.int64)
    number[contested] = 1 + np.arange(len(contested)) - np.searchsorted(of_frame, of_frame, "left")
    count = np.diff(np.append(start, len(truth)))
    order = np.argsort(np.repeat(number, count), kind="stable")
    by_round = np.argsort(number, kind="stable")
    object_start = np.cumsum(count[by_round]) - count[by_round]
    ends = np.cumsum(np.bincount(number))
    return order, object_start, np.unique(np.append(0, ends))  # there may be no round 0
