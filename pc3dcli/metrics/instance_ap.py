# SPDX-License-Identifier: Apache-2.0
"""Average precision of 3D instances as the ScanNet family of scorers defines it (evaluation.md 1.2 to 1.4).

A scene is reduced to a table of shared vertices, predictions by ground-truth instances, as soon as it is read; matching
leaves one entry for each true or false positive at each threshold.  No result depends on the order of scenes.

Departures: where all predictions of a class are ignored the original script stops with an index error; here AP is 0.
A ground-truth id of -1 is an id like any other (the class-agnostic public scorer confuses it with 0).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

# np.arange, not rounded literals: the public scripts compare with 0.7000000000000002 and so on
THRESHOLDS = np.append(np.arange(0.5, 0.95, 0.05), 0.25)
AT_50, AT_25, OVER_50 = 0, 9, slice(0, 9)  # positions in THRESHOLDS

OUTCOMES = ("match", "duplicate", "missed", "false_positive", "ignored", "overlaps")
_MATCH, _DUPLICATE, _MISSED, _FALSE, _IGNORED, _OVERLAPS = range(6)
_NARROW_IDS = 1 << 23  # below it a table over all ids is faster than sorting them


@dataclass(frozen=True)
class TruthRule:
    """How a preset turns ids per vertex into instances.

    class_ids    label ids of the classes, in the order of the results
    merge        None: classes are kept; else one class "object": "all" (every id but 0), "modulo" (id mod 1000 under
                 one label, nothing void), "listed" (ids whose label is in class_ids)
    void_labels  labels whose vertices become void; with `merge` only
    min_region   vertices; smaller instances are not eligible, smaller predictions are dropped
    """

    class_ids: tuple[int, ...]
    merge: str | None = None
    void_labels: tuple[int, ...] = ()
    min_region: int = 100

    @property
    def num_classes(self) -> int:
        """Classes that are scored."""
        return 1 if self.merge else len(self.class_ids)

    def class_index(self, label_ids: np.ndarray) -> np.ndarray:
        """Return the class of each prediction label (P,), -1 for one that is not scored."""
        if self.merge:
            return np.zeros(len(label_ids), np.int64)
        order = np.argsort(self.class_ids, kind="stable")
        sorted_ids = np.asarray(self.class_ids)[order]
        place = np.minimum(np.searchsorted(sorted_ids, label_ids), len(order) - 1)
        return np.where(sorted_ids[place] == label_ids, order[place], -1)


@dataclass(frozen=True)
class SceneTruth:
    """Ground truth of one scene.

    column       (N,) int64, per vertex: 0..G-1 its instance, G neither instance nor void, G+1 void
    ids          (G,) int64, increasing
    class_index  (G,) int64
    sizes        (G,) int64 vertices
    """

    column: np.ndarray
    ids: np.ndarray
    class_index: np.ndarray
    sizes: np.ndarray
    min_region: int

    @property
    def eligible(self) -> np.ndarray:
        """(G,) bool: the instances that can be found or missed."""
        return (self.ids >= 1000) & (self.sizes >= self.min_region)

    def overlaps(self, mask: np.ndarray) -> np.ndarray:
        """Count the vertices of a mask (N,) bool in every column: (G+2,) int64."""
        return np.bincount(self.column[np.flatnonzero(mask)], minlength=len(self.ids) + 2)

    def overlaps_of_columns(self, masks: np.ndarray) -> np.ndarray:
        """Count the vertices of every column of masks (N, P) bool: (P, G+2) int64."""
        num_points, num_masks = masks.shape
        width = len(self.ids) + 2
        if not masks.size:
            return np.zeros((num_masks, width), np.int64)
        # one pass in memory order: a column of a row-major array costs a cache line a vertex
        point, mask = np.divmod(np.flatnonzero(np.ascontiguousarray(masks).reshape(-1)), num_masks)
        cells = mask * width + self.column[point]
        return np.bincount(cells, minlength=num_masks * width).reshape(num_masks, width)


def scene_truth(ids: np.ndarray, rule: TruthRule) -> SceneTruth:
    """Split vertices into instances by a preset's rule.

    ids  (N,) int64, label * 1000 + instance, 0 or negative without a label
    """
    if rule.merge:
        ids = _merged(ids, rule)
    values, inverse, sizes = _distinct(ids)
    class_index = np.where(values == 0, -1, 0) if rule.merge else rule.class_index(values // 1000)
    is_instance = (class_index >= 0) & (values != 0)
    count = int(is_instance.sum())
    # id 0 under a class whose label is 0 (ScanNet++) is neither an instance nor void
    column_of_value = np.where(class_index >= 0, count, count + 1)
    column_of_value[is_instance] = np.arange(count)
    column = column_of_value.astype(np.intp)[inverse]
    return SceneTruth(column, values[is_instance], class_index[is_instance], sizes[is_instance], rule.min_region)


def _merged(ids: np.ndarray, rule: TruthRule) -> np.ndarray:
    labels = ids // 1000
    is_void = np.isin(labels, rule.void_labels)
    if rule.merge == "modulo":
        ids = ids % 1000 + 1000
    elif rule.merge == "listed":
        is_void |= ~np.isin(labels, rule.class_ids)
    return np.where(is_void, 0, ids)


def _distinct(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct values in increasing order, the position of each id among them, and their counts."""
    low, high = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
    if high - low >= _NARROW_IDS:
        return np.unique(ids, return_inverse=True, return_counts=True)
    counts = np.bincount(ids - low)
    present = np.flatnonzero(counts)
    position = np.zeros(counts.size, np.int32)
    position[present] = np.arange(present.size)
    return present + low, position[ids - low], counts[present]


@dataclass(frozen=True)
class MatchRow:
    """One line of `--matches`; -1 and 0.0 where there is no such thing."""

    class_index: int
    threshold: int
    truth_id: int
    prediction: int
    iou: float
    outcome: int


@dataclass(frozen=True)
class SceneMatches:
    """What matching leaves of one scene: an entry for each true or false positive at each threshold.

    class_index, threshold  (E,) int64; score (E,) float64; is_true (E,) bool
    num_truth    (C,) eligible instances of each class
    truth_class, truth_size  (I,) of the eligible instances; truth_found (T, I) bool
    best_class   (I,) class of the best-scored prediction of any class with IoU > 0.5, -1 for none
    spare_class  (U,) classes of the predictions that have IoU > 0.5 with no eligible instance
    num_ignored  predictions dropped, or ignored at 0.5
    rows         for `--matches`
    """

    class_index: np.ndarray
    threshold: np.ndarray
    score: np.ndarray
    is_true: np.ndarray
    num_truth: np.ndarray
    truth_class: np.ndarray
    truth_size: np.ndarray
    truth_found: np.ndarray
    best_class: np.ndarray
    spare_class: np.ndarray
    num_predictions: int
    num_ignored: int
    rows: list[MatchRow] = field(default_factory=list)


def match_scene(
    truth: SceneTruth,
    table: np.ndarray,
    class_index: np.ndarray,
    score: np.ndarray,
    *,
    num_classes: int,
    keep_rows: bool = False,
) -> SceneMatches:
    """Match the predictions of one scene (evaluation.md 1.3).

    table        (P, G+2) int64 of `SceneTruth.overlaps`, rows in file order
    class_index  (P,) class of each prediction, -1 for one that is not scored
    score        (P,) float64, finite
    """
    sizes = table.sum(axis=1)
    kept = np.flatnonzero((class_index >= 0) & (sizes >= truth.min_region))
    pairs = _Pairs.of(truth, table[kept], class_index[kept], sizes[kept])
    collector = _Entries(kept, class_index[kept], score[kept], keep_rows)
    eligible = np.flatnonzero(truth.eligible)
    found = np.zeros((THRESHOLDS.size, truth.ids.size), bool)
    for index, threshold in enumerate(THRESHOLDS):
        _match_at(index, threshold, truth, pairs, collector, found[index])
    best_class, spare = _confusion(pairs, truth.eligible, score[kept], class_index[kept])
    return SceneMatches(
        *collector.arrays(),
        num_truth=np.bincount(truth.class_index[eligible], minlength=num_classes),
        truth_class=truth.class_index[eligible],
        truth_size=truth.sizes[eligible],
        truth_found=found[:, eligible],
        best_class=best_class[eligible],
        spare_class=spare,
        num_predictions=len(score),
        num_ignored=len(score) - len(kept) + collector.num_ignored_at_50,
        rows=collector.rows,
    )


@dataclass(frozen=True)
class _Pairs:
    """IoU (P, G) of predictions and instances, `same` class or not, and the share of each prediction to ignore (P,)."""

    iou: np.ndarray
    same: np.ndarray
    ignore: np.ndarray

    @classmethod
    def of(cls, truth: SceneTruth, table: np.ndarray, class_index: np.ndarray, sizes: np.ndarray) -> _Pairs:
        count = truth.ids.size
        inter, void = table[:, :count], table[:, count + 1]
        same = class_index[:, None] == truth.class_index[None, :]
        iou = inter / np.maximum(truth.sizes[None, :] + sizes[:, None] - inter, 1)
        # an instance that is a group and small counts twice, as in the public scripts
        weight = (truth.ids < 1000).astype(np.int64) + (truth.sizes < truth.min_region)
        ignore = (void + (inter * same) @ weight) / np.maximum(sizes, 1)
        return cls(iou, same, ignore)


class _Entries:
    """The true and false positives of one scene as they are found."""

    def __init__(self, kept: np.ndarray, class_index: np.ndarray, score: np.ndarray, keep_rows: bool) -> None:
        self.kept, self.class_index, self.score = kept, class_index, score
        self.keep_rows = keep_rows
        self.rows: list[MatchRow] = []
        self.num_ignored_at_50 = 0
        self._parts: list[tuple[np.ndarray, int, np.ndarray, bool]] = []

    def add(self, threshold: int, class_index: np.ndarray, score: np.ndarray, is_true: bool) -> None:
        self._parts.append((np.asarray(class_index, np.int64), threshold, np.asarray(score, np.float64), is_true))

    def row(self, class_index: int, threshold: int, truth_id: int, prediction: int, iou: float, outcome: int) -> None:
        if self.keep_rows:
            number = int(self.kept[prediction]) if prediction >= 0 else -1
            self.rows.append(MatchRow(int(class_index), threshold, int(truth_id), number, float(iou), outcome))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        sizes = [len(part[2]) for part in self._parts]
        return (
            np.concatenate([part[0] for part in self._parts]),
            np.repeat([part[1] for part in self._parts], sizes),
            np.concatenate([part[2] for part in self._parts]),
            np.repeat([part[3] for part in self._parts], sizes),
        )


def _match_at(index: int, threshold: float, truth: SceneTruth, pairs: _Pairs, out: _Entries, found: np.ndarray) -> None:
    """Steps 1 to 3 of evaluation.md 1.3 at one threshold; marks `found` (G,)."""
    hit = pairs.same & (pairs.iou > threshold)
    best, duplicates = _assign(index, hit, truth, pairs, out)
    for g in np.flatnonzero(truth.eligible):
        found[g] = int(g) in best
        if not found[g]:
            out.row(truth.class_index[g], index, truth.ids[g], -1, 0.0, _MISSED)
    out.add(index, truth.class_index[list(best)], list(best.values()), True)
    out.add(index, truth.class_index[[g for g, _ in duplicates]], [score for _, score in duplicates], False)
    lonely = ~hit.any(axis=1)
    ignored = lonely & (pairs.ignore > threshold)
    wrong = lonely & ~ignored
    out.add(index, out.class_index[wrong], out.score[wrong], False)
    if index == AT_50:
        out.num_ignored_at_50 = int(ignored.sum())
    for p in np.flatnonzero(lonely) if out.keep_rows else ():
        out.row(out.class_index[p], index, -1, p, 0.0, _IGNORED if ignored[p] else _FALSE)


def _assign(
    index: int, hit: np.ndarray, truth: SceneTruth, pairs: _Pairs, out: _Entries
) -> tuple[dict[int, float], list[tuple[int, float]]]:
    """Match in order of instance ids, then of predictions; return the score of each found instance and duplicates."""
    best: dict[int, float] = {}
    duplicates: list[tuple[int, float]] = []
    assigned: set[int] = set()
    eligible = truth.eligible
    for g, p in np.argwhere(hit.T).tolist():
        if not eligible[g] or p in assigned:
            outcome = _OVERLAPS
        elif g not in best:
            best[g] = float(out.score[p])
            assigned.add(p)
            outcome = _MATCH
        else:
            duplicates.append((g, min(best[g], float(out.score[p]))))
            best[g] = max(best[g], float(out.score[p]))
            outcome = _DUPLICATE
        out.row(truth.class_index[g], index, truth.ids[g], p, pairs.iou[p, g], outcome)
    return best, duplicates


def _confusion(
    pairs: _Pairs, eligible: np.ndarray, score: np.ndarray, class_index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pair at IoU > 0.5 whatever the class: (G,) class of the best-scored prediction or -1, and unpaired classes."""
    hit = (pairs.iou > 0.5) & eligible[None, :]
    best = np.full(eligible.size, -1)
    for p in np.argsort(score, kind="stable")[::-1] if hit.any() else ():
        for g in np.flatnonzero(hit[p] & (best < 0)):
            best[g] = class_index[p]
    return best, class_index[~hit.any(axis=1)]


@dataclass(frozen=True)
class ClassScores:
    """AP and recall of each class at each threshold, (C, T) float64, NaN where the class has no eligible instance."""

    ap: np.ndarray
    recall: np.ndarray
    num_truth: np.ndarray


def class_scores(scenes: Iterable[SceneMatches], num_classes: int) -> ClassScores:
    """Compute average precision over scenes (evaluation.md 1.4)."""
    scenes = list(scenes)
    num_truth = sum((scene.num_truth for scene in scenes), np.zeros(num_classes, np.int64))
    ap = np.full((num_classes, THRESHOLDS.size), np.nan)
    ap[num_truth > 0] = 0.0
    recall = ap.copy()
    for c, t, score, is_true, _ in grouped_entries(scenes):
        if num_truth[c]:
            ap[c, t] = average_precision(score, is_true, int(num_truth[c]))
            recall[c, t] = is_true.sum() / num_truth[c]
    return ClassScores(ap, recall, num_truth)


def grouped_entries(scenes: list[SceneMatches]) -> Iterable[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield class, threshold, and (E,) scores, truth and positions of the entries of all scenes, scores increasing."""
    if not any(scene.score.size for scene in scenes):
        return
    class_index = np.concatenate([scene.class_index for scene in scenes])
    threshold = np.concatenate([scene.threshold for scene in scenes])
    score = np.concatenate([scene.score for scene in scenes])
    is_true = np.concatenate([scene.is_true for scene in scenes])
    group = class_index * THRESHOLDS.size + threshold
    order = np.lexsort((score, group))
    group, score, is_true = group[order], score[order], is_true[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    for start, stop in zip(starts, np.append(starts[1:], group.size), strict=True):
        c, t = divmod(int(group[start]), THRESHOLDS.size)
        yield c, t, score[start:stop], is_true[start:stop], order[start:stop]


def average_precision(score: np.ndarray, is_true: np.ndarray, num_truth: int) -> float:
    """Integrate precision over recall as the public scripts do: no interpolation, no envelope.

    score, is_true  (E,) true and false positives, scores increasing
    num_truth       eligible instances, found or not
    """
    if score.size == 0:
        return 0.0
    first = np.concatenate(([0], np.flatnonzero(score[1:] != score[:-1]) + 1))  # of the entries of each distinct score
    true_from = is_true.sum() - np.concatenate(([0], np.cumsum(is_true)))[first]
    precision = np.append(true_from / (score.size - first), 1.0)
    # twice the width of each point in instances, the last one artificial: whole numbers, so that a perfect result is 1
    padded = np.concatenate((true_from[:1], true_from, [0, 0]))
    return float(precision @ (padded[:-2] - padded[2:])) / (2 * num_truth)


def mean_or_none(values: np.ndarray) -> float | None:
    """Mean of the numbers that are defined, None when none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None
