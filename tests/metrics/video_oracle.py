# SPDX-License-Identifier: Apache-2.0
"""J, F and the numbers of tracks as slow loops over pixels and pairs, written from their definitions."""

from __future__ import annotations

import itertools
import math


def is_boundary(mask, y, x):
    """A pixel that differs from its right, lower or lower right neighbour; inside the image only."""
    height, width = mask.shape
    if y == height - 1 and x == width - 1:
        return False
    if y == height - 1:
        return mask[y, x] != mask[y, x + 1]
    if x == width - 1:
        return mask[y, x] != mask[y + 1, x]
    return any(mask[y, x] != other for other in (mask[y, x + 1], mask[y + 1, x], mask[y + 1, x + 1]))


def f_measure(truth, predicted):
    height, width = truth.shape
    reach = math.ceil(0.008 * math.sqrt(height**2 + width**2))
    pixels = list(itertools.product(range(height), range(width)))
    lines = [[p for p in pixels if is_boundary(mask, *p)] for mask in (truth, predicted)]
    if not lines[0] or not lines[1]:
        return 1.0 if lines[0] == lines[1] else 0.0

    def share(line, other):
        near = [any((y - b) ** 2 + (x - a) ** 2 <= reach**2 for b, a in other) for y, x in line]
        return sum(near) / len(line)

    precision, recall = share(lines[1], lines[0]), share(lines[0], lines[1])
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def jaccard(truth, predicted):
    union = sum((truth | predicted).ravel().tolist())
    return sum((truth & predicted).ravel().tolist()) / union if union else 1.0


def ids_of(labels):
    return sorted(set(labels.ravel().tolist()) - {0})


def best_sum(values):
    """The largest sum of an assignment of rows to columns, by trying all."""
    if values and len(values) > len(values[0]):
        values = [list(column) for column in zip(*values, strict=True)]
    choices = itertools.permutations(range(len(values[0]) if values else 0), len(values))
    return max((sum(row[c] for row, c in zip(values, chosen, strict=True)) for chosen in choices), default=0)


def identities(truth, predicted):
    """(IDF1 numerator / 2, masks of truth, masks predicted) over frames of label images."""
    true = sorted({i for frame in truth for i in ids_of(frame)})
    tracks = sorted({i for frame in predicted for i in ids_of(frame)})
    same = [[0] * len(tracks) for _ in true]
    for a, b in zip(truth, predicted, strict=True):
        for i, j in itertools.product(ids_of(a), ids_of(b)):
            same[true.index(i)][tracks.index(j)] += jaccard(a == i, b == j) >= 0.5
    return best_sum(same), sum(len(ids_of(f)) for f in truth), sum(len(ids_of(f)) for f in predicted)


def average_precision(tracks, num_truth, threshold):
    """COCO's rule for one video; tracks: (score, [IoU with each object]) in order of their ids."""
    taken, outcome = set(), []
    for _, ious in sorted(tracks, key=lambda track: -track[0])[:100]:
        best, found = threshold, None
        for number in range(num_truth):
            if number not in taken and ious[number] >= best:
                best, found = ious[number], number
        outcome.append(found is not None)
        taken |= {found}
    points = [(sum(outcome[: n + 1]) / num_truth, sum(outcome[: n + 1]) / (n + 1)) for n in range(len(outcome))]
    return sum(max((p for r, p in points if r >= k / 100), default=0.0) for k in range(101)) / 101
