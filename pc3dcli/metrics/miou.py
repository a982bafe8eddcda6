# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation: confusion counts of points and what is made of them (evaluation.md sections 2 and 5).

Counts are additive: a scene is (3, C) int64, true positives, false positives and false negatives of each class; scenes
add up to a data set, weighted scenes to a resample.  Only points with a class of the list as ground truth count.
"""

from __future__ import annotations

import numpy as np

_CHUNK = 1 << 17  # points at a time: what is made of them stays in the cache
_PAIRS = 1 << 17  # points at a time of `PairCounter`: as many as a LiDAR scan has
_NARROW = 256  # pairs of smaller numbers fit 16 bits


def label_table(ids: tuple[int, ...]) -> np.ndarray:
    """Return (max id + 2,) uint16: the class index of each label id; C for those of no class, as the last one."""
    table = np.full(max(ids) + 2, len(ids), np.uint16)
    table[list(ids)] = np.arange(len(ids))
    return table


def confusion(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Return (C, C+1) int64 counts: rows the true class, columns the predicted one, the last one for no class.

    truth, prediction  (N,) class indices, C for no class; points without a true class are not counted
    """
    return _pair_counts(truth, prediction, num_classes + 1)[:num_classes]


def _pair_counts(first: np.ndarray, second: np.ndarray, size: int) -> np.ndarray:
    """Return (size, size) int64 counts of the pairs of two (N,) of integers in [0, size)."""
    pair = first.astype(np.uint16 if size <= _NARROW else np.int64)
    pair *= pair.dtype.type(size)
    pair += second.astype(pair.dtype, copy=False)
    return np.bincount(pair, minlength=size * size).reshape(size, size)


class PairCounter:
    """Counts the pairs of two arrays of uint32; 3 ns a point, where maps to classes point by point take 7.

    It keeps the memory it works in: taking it anew for every scan costs more page faults than the counting takes.
    """

    def __init__(self, size: int, bits: np.uint32) -> None:
        """size  one more than the largest number; bits  of each number, the others are left out"""
        self.size, self.bits = size, bits
        self._first, self._second = np.empty((2, _PAIRS), np.uint32)
        self._pair = np.empty(_PAIRS, np.int64)

    def count(self, first: np.ndarray, second: np.ndarray) -> np.ndarray | None:
        """Return (size, size) int64 counts of the pairs of (N,) uint32; None when one is `size` or more."""
        counts = None
        for start in range(0, max(first.size, 1), _PAIRS):
            part = first[start : start + _PAIRS]
            one, two, pair = (memory[: part.size] for memory in (self._first, self._second, self._pair))
            np.bitwise_and(part, self.bits, out=one)
            np.bitwise_and(second[start : start + _PAIRS], self.bits, out=two)
            if max(one.max(initial=0), two.max(initial=0)) >= self.size:
                return None
            one *= np.uint32(self.size)
            np.add(one, two, out=pair)
            found = np.bincount(pair, minlength=self.size**2)
            counts = found if counts is None else counts + found
        return counts.reshape(self.size, self.size)


def merged_pairs(pairs: np.ndarray, group: np.ndarray, num_groups: int) -> np.ndarray:
    """Return (G, G) sums of pairs (R, R) by the group (R,) of each row and column."""
    member = (group[:, None] == np.arange(num_groups)).astype(np.int64)
    return member.T @ pairs @ member


def label_confusion(truth: np.ndarray, prediction: np.ndarray, table: np.ndarray, num_classes: int) -> np.ndarray:
    """Return `confusion` of (N,) integer label ids that `table` (of `label_table`) maps to classes."""
    is_narrow = len(table) <= _NARROW  # then ids are counted and their counts mapped: 6 ns a point instead of 12
    size = len(table) if is_narrow else num_classes + 1
    pairs = np.zeros((size, size), np.int64)
    for start in range(0, truth.size, _CHUNK):
        first, second = (_clipped(labels[start : start + _CHUNK], table) for labels in (truth, prediction))
        if not is_narrow:
            first, second = table.take(first), table.take(second)
        pairs += _pair_counts(first, second, size)
    return (merged_pairs(pairs, table, num_classes + 1) if is_narrow else pairs)[:num_classes]


def _clipped(labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return (N,) unsigned label ids; those that `table` does not reach, negative ones too, are its last position."""
    if labels.dtype.kind != "u":
        labels = labels.astype(np.uint64)  # negative ones become large
    return np.minimum(labels, labels.dtype.type(min(len(table) - 1, np.iinfo(labels.dtype).max)))


def any_label_pairs(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> tuple[np.ndarray, ...]:
    """Reduce several labels and several guesses per point to one pair each, as ScanNet++ does.

    truth       (N, L) int64 labels, of which those in [0, C) count; points without such a label are left out
    prediction  (N, K) int64 guesses in order: the first that is any of the labels makes the pair (label, label), else
                the pair is (first column of truth, first guess)
    returns     true and predicted label (M,) int64, and the points (M,) they are of; without a hit the first column may
                hold no class
    """
    point = np.flatnonzero(((truth >= 0) & (truth < num_classes)).any(axis=1))
    truth, prediction = truth[point], prediction[point]
    label, guess = truth[:, 0].copy(), prediction[:, 0].copy()
    is_open = np.ones(point.size, bool)
    for column in prediction.T:
        hit = is_open & (truth == column[:, None]).any(axis=1)
        label[hit] = guess[hit] = column[hit]
        is_open &= ~hit
    return label, guess, point


def class_counts(table: np.ndarray) -> np.ndarray:
    """Return (3, C) int64, true positives, false positives and false negatives, of a confusion (C, C+1)."""
    square = table[:, : len(table)]
    hits = np.diagonal(square)
    return np.stack((hits, square.sum(axis=0) - hits, table.sum(axis=1) - hits))


def class_iou(counts: np.ndarray) -> np.ndarray:
    """Return tp / (tp + fp + fn) (..., C) float64 of counts (..., 3, C); NaN where there is nothing of the class."""
    return _ratio(counts[..., 0, :], counts.sum(axis=-2))


def class_accuracy(counts: np.ndarray) -> np.ndarray:
    """Return tp / (tp + fn) (..., C) float64 of counts (..., 3, C); NaN where the class has no ground truth."""
    return _ratio(counts[..., 0, :], counts[..., 0, :] + counts[..., 2, :])


def overall_accuracy(counts: np.ndarray) -> np.ndarray:
    """Return the share of points with the right class (...); NaN without points."""
    return _ratio(counts[..., 0, :].sum(axis=-1), (counts[..., 0, :] + counts[..., 2, :]).sum(axis=-1))


def overall_precision(counts: np.ndarray) -> np.ndarray:
    """Return sum tp / sum (tp + fp) (...): points predicted as no class are not in the denominator; NaN without any."""
    return _ratio(counts[..., 0, :].sum(axis=-1), (counts[..., 0, :] + counts[..., 1, :]).sum(axis=-1))


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis without NaN; NaN where nothing else is."""
    is_defined = ~np.isnan(values)
    return _ratio(np.where(is_defined, values, 0.0).sum(axis=-1), is_defined.sum(axis=-1))


def resampled(counts: np.ndarray, num_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return (B, ...) counts of resamples with replacement of the scenes along the first axis of counts (S, ...)."""
    num_scenes = len(counts)
    weight = rng.multinomial(num_scenes, np.full(num_scenes, 1 / num_scenes), num_resamples)
    return np.tensordot(weight.astype(np.float64), counts.astype(np.float64), axes=1)  # exact below 2 ** 53


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
