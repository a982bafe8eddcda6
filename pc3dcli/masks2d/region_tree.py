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


@dataclass(frozen=True, eq=False)
class TreeBorders:
    """Touching leaves: pairs (E, 2) int32, length (E,) float32 pixels, strength (E,) float32 in [0, 1]."""

    pairs: np.ndarray
    length: np.ndarray
    strength: np.ndarray


def merge_tree(borders: TreeBorders, size: np.ndarray, seen: np.ndarray, shrink: float, bridge: float) -> MergeTree:
    """Merge adjacent regions, weakest border first.

    borders  touching leaves and how strong the border between them is
    size     (S,) float32 pixels of each leaf
    seen     (S,) bool, the depth sensor saw the leaf
    shrink   pixels below which a region's borders count as weaker, so that specks join first
    bridge   least strength between two seen regions that touch only across unseen leaves: a depth shadow is no proof
    """
    num_leaves = len(size)
    near: list[dict[int, list[float]]] = [{} for _ in range(num_leaves)]
    sizes, has_seen = [float(s) for s in size], [bool(s) for s in seen]

    def height(a: int, b: int, entry: list[float]) -> float:
        seen_total, seen_weight, total, weight = entry
        smaller = min(sizes[a], sizes[b])
        damping = smaller / (smaller + shrink)
        if not (has_seen[a] and has_seen[b]):
            return (seen_total + total) / (seen_weight + weight) * damping
        if seen_weight > 0:
            return seen_total / seen_weight * damping
        return max(total / weight, bridge) * damping

    heap: list[tuple[float, int, int]] = []
    for (a, b), weight, value in zip(
        borders.pairs.tolist(), borders.length.tolist(), borders.strength.tolist(), strict=True
    ):
        both = has_seen[a] and has_seen[b]
        near[a][b] = near[b][a] = [value * weight, weight, 0.0, 0.0] if both else [0.0, 0.0, value * weight, weight]
        heap.append((height(a, b, near[a][b]), a, b))
    heapq.heapify(heap)
    children, heights, current, alive = [], [], 0.0, [True] * num_leaves
    while heap:
        value, a, b = heapq.heappop(heap)
        if not (alive[a] and alive[b]):
            continue
        current = max(current, value)
        new = len(sizes)
        sizes.append(sizes[a] + sizes[b])
        has_seen.append(has_seen[a] or has_seen[b])
        alive[a] = alive[b] = False
        alive.append(True)
        children.append((a, b))
        heights.append(current)
        near.append(_joined_borders(near, a, b, new))
        for other, entry in near[new].items():
            heapq.heappush(heap, (height(new, other, entry), other, new))
    return _as_tree(num_leaves, children, heights)


def _joined_borders(near: list[dict[int, list[float]]], a: int, b: int, new: int) -> dict[int, list[float]]:
    """Borders of the union of a and b; updates the neighbours' records."""
    joined, other_side = near[a], near[b]
    joined.pop(b, None)
    other_side.pop(a, None)
    for other, entry in other_side.items():
        known = joined.get(other)
        joined[other] = entry if known is None else [x + y for x, y in zip(known, entry, strict=True)]
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
