# SPDX-License-Identifier: Apache-2.0
"""Merge tree over superpixels: adjacent regions join in order of how weak the border between them is.

The strength of a border is the length-weighted mean of its pieces, kept up to date as regions join (an ultrametric
contour map in the sense of Arbelaez et al., 2011), so every height of the tree is one partition of the image.
"""

import heapq
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class MergeTree:
    """A binary merge tree; leaves 0..S-1, inner nodes in order of creation.

    children  (J, 2) int32, of node S + j
    height    (J,) float32, non-decreasing border strength at which node S + j formed
    parent    (S + J,) int32, -1 at roots
    """

    num_leaves: int
    children: np.ndarray
    height: np.ndarray
    parent: np.ndarray

    def cut(self, height: float) -> np.ndarray:
        """Return (S,) int32, the highest node above each leaf that formed below the given height."""
        node = np.arange(len(self.parent), dtype=np.int32)
        formed = np.concatenate([np.full(self.num_leaves, -np.inf), self.height])
        for index in range(len(self.parent) - 1, -1, -1):
            parent = self.parent[index]
            if parent >= 0 and formed[parent] < height:
                node[index] = node[parent]
        return node[: self.num_leaves]


def merge_tree(pairs: np.ndarray, length: np.ndarray, strength: np.ndarray, size: np.ndarray, shrink: float) -> MergeTree:
    """Merge adjacent regions, weakest border first.

    pairs     (E, 2) int32 touching leaves
    length    (E,) float32 pixels of border
    strength  (E,) float32, 0 no border to 1 certain border; infinite: never merge across
    size      (S,) float32 pixels of each leaf
    shrink    pixels below which a region's borders count as weaker, so that specks join first
    """
    num_leaves = len(size)
    near: list[dict[int, list[float]]] = [{} for _ in range(num_leaves)]
    heap: list[tuple[float, int, int]] = []
    sizes = [float(s) for s in size]
    for (a, b), weight, value in zip(pairs.tolist(), length.tolist(), strength.tolist(), strict=True):
        near[a][b] = near[b][a] = [value * weight, weight]
        heap.append((_height(value, sizes[a], sizes[b], shrink), a, b))
    heapq.heapify(heap)
    children, heights, current, alive = [], [], 0.0, [True] * num_leaves
    while heap:
        value, a, b = heapq.heappop(heap)
        if not (alive[a] and alive[b]) or value == np.inf:
            continue
        current = max(current, value)
        new = len(sizes)
        sizes.append(sizes[a] + sizes[b])
        alive[a] = alive[b] = False
        alive.append(True)
        children.append((a, b))
        heights.append(current)
        near.append(_joined_borders(near, a, b, new))
        for other, (total, weight) in near[new].items():
            heapq.heappush(heap, (_height(total / weight, sizes[new], sizes[other], shrink), other, new))
    return _as_tree(num_leaves, children, heights)


def _height(strength: float, size_a: float, size_b: float, shrink: float) -> float:
    smaller = min(size_a, size_b)
    return strength * smaller / (smaller + shrink)


def _joined_borders(near: list[dict[int, list[float]]], a: int, b: int, new: int) -> dict[int, list[float]]:
    """Borders of the union of a and b; updates the neighbours' records."""
    joined = near[a]
    joined.pop(b, None)
    other_side = near[b]
    other_side.pop(a, None)
    for other, (total, weight) in other_side.items():
        if other in joined:
            entry = joined[other]
            joined[other] = [entry[0] + total, entry[1] + weight]
        else:
            joined[other] = [total, weight]
    for other, entry in joined.items():
        record = near[other]
        record.pop(a, None)
        record.pop(b, None)
        record[new] = entry
    near[a] = near[b] = {}
    return joined


def _as_tree(num_leaves: int, children: list[tuple[int, int]], heights: list[float]) -> MergeTree:
    pair = np.array(children, np.int32).reshape(-1, 2)
    parent = np.full(num_leaves + len(children), -1, np.int32)
    parent[pair.ravel()] = np.repeat(np.arange(len(children)) + num_leaves, 2)
    return MergeTree(num_leaves, pair, np.array(heights, np.float32), parent)
