# SPDX-License-Identifier: Apache-2.0
"""Fusion of split ids: tracks that cover the same points under two ids become one (granularity_tracking.md 5.3).

Overlap is measured on raw votes, before the arg-max hides the weaker id, in coarse voxels.  Tracks that voted in the
same frames are different objects by construction and are never joined.
"""

from __future__ import annotations

import heapq

import numpy as np
from scipy import sparse

CHUNK = 1 << 18  # pairs that are sorted at a time: bounds memory, ours


def fuse_tracks(
    voxel: np.ndarray,
    track: np.ndarray,
    together: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    merge_iou: float = 0.5,
    max_together: int = 2,
) -> dict[int, int]:
    """Group tracks greedily by descending overlap |a & b| / min(|a|, |b|).

    voxel         (P,) int, voxel of each raw vote; track (P,) int, its track; pairs may repeat
    together      tracks a (Q,), b (Q,) and the number (Q,) of frames in which both voted
    merge_iou     least overlap, spec 5.3
    max_together  groups are not joined when two of their tracks voted together in more frames than this, spec 5.3
    returns       track -> the lowest track of its group, ascending
    """
    voxel, track = _unique_pairs(voxel, track)
    tracks, column = np.unique(track, return_inverse=True)
    sets = {k: np.unique(voxel[column == k]) for k in range(len(tracks))}
    near = _touching(voxel, column, len(tracks))
    members = {k: {k} for k in sets}
    rivals = _rivals(together, tracks, max_together)
    heap = [(-_overlap(sets[a], sets[b]), a, b) for a in sets for b in near[a] if a < b]
    heapq.heapify(heap)
    while heap and -heap[0][0] >= merge_iou:
        _, a, b = heapq.heappop(heap)
        if a not in sets or b not in sets or any(rivals[t] & members[b] for t in members[a]):
            continue
        new = len(near)  # a fresh number, so that entries of the two parts are recognised as stale
        sets[new], members[new] = np.union1d(sets.pop(a), sets.pop(b)), members.pop(a) | members.pop(b)
        near.append({k for k in near[a] | near[b] if k in sets})
        for other in near[new]:
            near[other].add(new)
            heapq.heappush(heap, (-_overlap(sets[other], sets[new]), other, new))
    group = {int(tracks[k]): int(tracks[min(parts)]) for parts in members.values() for k in parts}
    return dict(sorted(group.items()))


def _unique_pairs(voxel, track) -> tuple[np.ndarray, np.ndarray]:
    """Drop repeated pairs; a voxel has many points, so the rest is small, and chunks keep what is sorted small too."""
    codes = np.zeros(0, np.int64)
    for first in range(0, len(voxel), CHUNK):
        part = slice(first, first + CHUNK)
        codes = np.union1d(codes, voxel[part].astype(np.int64) << 32 | track[part])
    return codes >> 32, codes & 0xFFFFFFFF


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return len(np.intersect1d(a, b, assume_unique=True)) / min(len(a), len(b))


def _touching(voxel, column, num_tracks) -> list[set[int]]:
    """Return for each track the tracks with which it shares a voxel."""
    _, row = np.unique(voxel, return_inverse=True)
    incidence = sparse.csr_matrix((np.ones(len(row), np.int32), (row, column)), (row.max(initial=-1) + 1, num_tracks))
    shared = (incidence.T @ incidence).tocsr()
    return [set(shared.indices[shared.indptr[k] : shared.indptr[k + 1]].tolist()) - {k} for k in range(num_tracks)]


def _rivals(together, tracks, max_together) -> list[set[int]]:
    """Return for each track those that voted in more than `max_together` of its frames."""
    rivals: list[set[int]] = [set() for _ in tracks]
    a, b, frames = (values[together[2] > max_together] for values in together)
    for x, y in zip(np.searchsorted(tracks, a).tolist(), np.searchsorted(tracks, b).tolist(), strict=True):
        rivals[x].add(y)
        rivals[y].add(x)
    return rivals
