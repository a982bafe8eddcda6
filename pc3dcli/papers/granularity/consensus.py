# SPDX-License-Identifier: Apache-2.0
"""Instances by consensus of all views, ours: which pieces of the scene do most views see as one thing?

A tracking policy keeps the granularity of an object's first sighting, and a merge by overlap joins whatever one bad
mask joins.  Here every view is a witness: voxels that views keep in one mask form fragments, and fragments are
joined, surest first, while of the views that see both a sufficient share holds them in a single mask.  The share of
views is the idea of MaskClustering (Yan, Zhang, Zhu, Wang, CVPR 2024), which clusters whole masks; tracks enter as
further witnesses.

*Departures* from MaskClustering: nodes are fragments, not masks, so a mask that covers two objects is outvoted instead
of having to be detected and removed; rates are averaged over joined groups; a lower rate suffices between groups that
touch, because a network that sees parts half of the time must not leave an object in parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from pc3dcli.geometry.superpoints import felzenszwalb
from pc3dcli.geometry.voxels import voxel_offset
from pc3dcli.papers.granularity.clean import split_components
from pc3dcli.papers.granularity.instances import Instance, saturate

AGREEING_VIEWS = np.float32(1.2)  # views that must join two groups at least, where more than one sees both; ours
CHUNK = 1 << 17  # pairs that are worked on at a time: bounds memory, ours
MOST_NEEDED = np.float32(0.7)  # share of views; a lone view against dissenting tracks reaches 0.77; ours


def consensus_instances(votes, points, config, evidence) -> list[Instance]:
    """Make instances of all views.

    votes     PointVotes; evidence  ViewEvidence of single frames, possibly without views
    points    (N, 3) float, metres
    config    LiftConfig
    returns   instances, no point in two of them
    """
    tracks = _unit_tracks(votes, evidence)
    pairs = adjacent_units(evidence.keys)
    covered = _covered(votes, evidence, tracks, config)
    fragment = _fragments(evidence, tracks, pairs, covered, config)
    if fragment.max(initial=-1) < 0:
        return []
    group = _join_fragments(evidence, tracks, pairs, fragment, config)
    label = np.where(fragment >= 0, group[fragment], -1)  # (U,) instance of each unit
    return _instances(votes, points, evidence, tracks, label, config)


def adjacent_units(keys: np.ndarray) -> np.ndarray:
    """Return the (E, 2) int64 pairs of voxels, as positions in sorted `keys`, that share a face, edge or corner."""
    steps = [(dx, dy, dz) for dx in (-1, 0, 1) for dy in (-1, 0, 1) for dz in (-1, 0, 1)]
    pairs = []
    for step in steps[14:]:  # the 13 after (0, 0, 0): each pair once
        target = keys + voxel_offset(*step)
        place = np.minimum(np.searchsorted(keys, target), len(keys) - 1)
        first = np.flatnonzero(keys[place] == target)
        pairs.append(np.stack([first, place[first]], axis=1))
    return np.concatenate(pairs)


def _unit_tracks(votes, evidence) -> sparse.csr_matrix:
    """Return the (U, T) votes of tracks on units; columns follow votes.views()."""
    point, track, count = votes.pairs()
    column = np.searchsorted(np.array(list(votes.views()), np.int64), track)
    total = sparse.csr_matrix((len(evidence.keys), len(votes.views())))
    for first in range(0, len(point), CHUNK):  # a unit has many points: the sum is far smaller than its parts
        part = slice(first, first + CHUNK)
        total += sparse.coo_matrix((count[part], (evidence.unit[point[part]], column[part])), total.shape).tocsr()
    return total


def _fragments(evidence, tracks, pairs, covered, config) -> np.ndarray:
    """Partition the units that masks cover; (U,) int64 fragment, -1 where no mask is."""
    together, apart = _pair_views(evidence, pairs)
    share = _row_shares(tracks)
    agree = _row_overlap(share, pairs)
    has_tracks = np.diff(share.indptr) > 0
    weight = np.where(has_tracks[pairs].all(axis=1), config.track_weight, 0.0)
    affinity = (together + weight * agree) / np.maximum(together + apart + weight, 1e-9)
    inside = covered[pairs].all(axis=1)
    fragment = felzenszwalb(
        len(covered), pairs[inside], 1 - affinity[inside], config.fragment_scale, config.fragment_size
    )
    fragment[~covered] = -1
    _, renumbered = np.unique(np.r_[-1, fragment], return_inverse=True)
    return renumbered.reshape(-1)[1:] - 1


def _pair_views(evidence, pairs) -> tuple[np.ndarray, np.ndarray]:
    """Count for each pair of units the views that see both: (E,) in one mask together, (E,) with only one or in two."""
    together, apart = np.zeros(len(pairs), np.float32), np.zeros(len(pairs), np.float32)
    for view in evidence.views:
        words = (len(view.masks) + 63) // 64
        bits = np.zeros((len(evidence.keys), words), np.uint64)
        for k, mask in enumerate(view.masks):
            bits[view.unit[mask], k // 64] |= np.uint64(1 << (k % 64))
        is_seen = np.zeros(len(evidence.keys), bool)
        is_seen[view.unit] = True
        both = np.flatnonzero(is_seen[pairs[:, 0]] & is_seen[pairs[:, 1]])
        a, b = bits[pairs[both, 0]], bits[pairs[both, 1]]
        share_mask = ((a & b) != 0).any(axis=1)
        together[both] += share_mask
        apart[both] += ~share_mask & ((a | b) != 0).any(axis=1)
    return together, apart


def _covered(votes, evidence, tracks, config) -> np.ndarray:
    """Return (U,) whether enough of the frames that see a unit have a mask there."""
    seen, inside = np.zeros(len(evidence.keys)), np.zeros(len(evidence.keys))
    for view in evidence.views:
        seen[view.unit] += 1
        if view.masks:
            inside[view.unit[np.unique(np.concatenate(view.masks))]] += 1
    by_views = (inside > 0) & (inside >= config.min_seen_share * seen)
    voted = np.asarray(tracks.sum(axis=1)).reshape(-1)
    point_seen = np.bincount(evidence.unit, votes.seen, len(evidence.keys))
    return by_views | ((voted > 0) & (voted >= config.min_seen_share * point_seen))


def _row_shares(matrix) -> sparse.csr_matrix:
    total = np.asarray(matrix.sum(axis=1)).reshape(-1)
    return sparse.diags(1 / np.maximum(total, 1e-9)) @ matrix


def _row_overlap(matrix, pairs) -> np.ndarray:
    """Return (E,) the histogram intersection of the rows of each pair."""
    chunks = [pairs[first : first + CHUNK] for first in range(0, len(pairs), CHUNK)]
    parts = [matrix[part[:, 0]].minimum(matrix[part[:, 1]]).sum(axis=1) for part in chunks]
    return np.concatenate([np.zeros(0), *(np.asarray(part).reshape(-1) for part in parts)])


def _join_fragments(evidence, tracks, pairs, fragment, config) -> np.ndarray:
    """Return the group of each fragment, (F,) int64, numbered from 0."""
    count = int(fragment.max()) + 1
    together, by_tracks = _track_witness(tracks, fragment, count, config.track_weight)
    seen = by_tracks.copy()
    for view in evidence.views:
        _add_view(view, fragment, together, seen)
    inside = (fragment[pairs] >= 0).all(axis=1)
    touch = np.zeros((count, count), bool)
    a, b = fragment[pairs[inside]].T
    touch[a, b] = touch[b, a] = True
    size = np.bincount(fragment[fragment >= 0], minlength=count).astype(np.float32)
    by_views = seen - by_tracks
    pairs = np.where(by_views > 0, size[:, None] * size, np.float32(0))
    return join_groups(Witness(together, seen, by_views, pairs, touch), config.same_object, config.same_object_apart)


def _track_witness(tracks, fragment, count, weight) -> tuple[np.ndarray, np.ndarray]:
    """Start the witness matrices with what tracks say: (F, F) float32 pairs of units together, pairs of units seen."""
    inside = np.flatnonzero(fragment >= 0)
    select = sparse.csr_matrix((np.ones(len(inside)), (fragment[inside], inside)), (count, len(fragment)))
    share = _row_shares(select @ tracks).tocsr()  # (F, T)
    size = np.bincount(fragment[inside], minlength=count).astype(np.float64)
    size[np.diff(share.indptr) == 0] = 0  # fragments without votes say nothing
    together = np.zeros((count, count), np.float32)
    for column in share.tocsc().T:
        # overlap of the track shares, one track at a time: (F, F) dense minimum without a (F, F, T) array
        rows, values = column.indices, column.data
        together[np.ix_(rows, rows)] += np.minimum(values[:, None], values).astype(np.float32)
    pair_size = (weight * size[:, None] * size).astype(np.float32)
    return together * pair_size, pair_size


def _add_view(view, fragment, together, seen) -> None:
    """Add one view's witness: for fragments f, g that it sees, n_f n_g pairs of units, together or not; in place."""
    owner = fragment[view.unit]
    size = np.bincount(fragment[fragment >= 0], minlength=len(seen))
    visible = np.bincount(owner[owner >= 0], minlength=len(seen))
    rows = np.flatnonzero((visible > 0) & (visible >= 0.25 * size))
    members = np.zeros((len(rows), len(view.masks)), np.float32)
    for k, mask in enumerate(view.masks):
        hit = owner[mask]
        members[:, k] = np.bincount(hit[hit >= 0], minlength=len(seen))[rows]
    is_member = (members > 0.5 * visible[rows, None]).astype(np.float32)
    is_any = is_member.any(axis=1)
    weight = (size[rows, None] * size[rows]).astype(np.float32)
    together[np.ix_(rows, rows)] += weight * (is_member @ is_member.T > 0)
    seen[np.ix_(rows, rows)] += weight * (is_any[:, None] | is_any)


@dataclass(eq=False)
class Witness:
    """What views say about pairs of groups; all (F, F) and symmetric.

    together  float32, pairs of units that a view has in one mask, summed over views and tracks
    seen      float32, pairs of units that a view has in any mask, summed over views and tracks
    by_views  float32, the part of `seen` that is not from tracks
    pairs     float32, pairs of units in `by_views`, each counted once: by_views / pairs is a number of views
    touch     bool, whether two units of them are neighbours
    """

    together: np.ndarray
    seen: np.ndarray
    by_views: np.ndarray
    pairs: np.ndarray
    touch: np.ndarray

    def add_to(self, a: int, b: int) -> None:
        """Let group a stand for groups a and b."""
        for matrix in (self.together, self.seen, self.by_views, self.pairs, self.touch):
            matrix[a] += matrix[b]
            matrix[:, a] = matrix[a]

    def surplus(self, rows: np.ndarray, same_object: float, same_object_apart: float) -> np.ndarray:
        """Return (R, F) by how much the share of views that join exceeds what is needed, -1 where none sees a pair."""
        seen = np.maximum(self.seen[rows], np.float32(1e-9))
        views = self.by_views[rows] / np.maximum(self.pairs[rows], np.float32(1e-9))  # 0 or at least 1
        needed = np.where(self.touch[rows], np.float32(same_object), np.float32(same_object_apart))
        # one view alone may err: of two or three views, two must agree
        few = np.minimum(MOST_NEEDED, AGREEING_VIEWS / np.maximum(views, 1)) * (views > 0)
        return np.where(self.seen[rows] > 0, self.together[rows] / seen - np.maximum(needed, few), np.float32(-1))


def join_groups(witness: Witness, same_object: float, same_object_apart: float) -> np.ndarray:
    """Join groups by average linkage, surest first.

    witness      of F groups; overwritten
    same_object  least share of views that join groups that touch; same_object_apart  others
    returns      (F,) int64 group, numbered from 0 by lowest member
    """
    count = len(witness.seen)
    group = np.arange(count)
    surplus = witness.surplus(group, same_object, same_object_apart)
    np.fill_diagonal(surplus, -np.inf)
    best = surplus.argmax(axis=1)
    value = surplus[np.arange(count), best]
    while count and value.max() >= 0:
        a = int(value.argmax())
        a, b = sorted((a, int(best[a])))
        group[group == b] = a
        witness.add_to(a, b)
        row = witness.surplus(np.array([a]), same_object, same_object_apart)[0]
        row[np.isneginf(surplus[a])] = -np.inf  # itself and those already joined
        row[b] = -np.inf
        surplus[b] = surplus[:, b] = -np.inf
        surplus[a] = surplus[:, a] = row
        value[b] = -np.inf
        stale = np.flatnonzero((best == a) | (best == b) | (np.arange(count) == a) | (row > value))
        best[stale] = surplus[stale].argmax(axis=1)
        value[stale] = surplus[stale, best[stale]]
    return np.unique(group, return_inverse=True)[1].reshape(-1)


def _instances(votes, points, evidence, tracks, label, config) -> list[Instance]:
    point_label = label[evidence.unit]
    inside, track_total = _votes_inside(tracks, label), np.asarray(tracks.sum(axis=0)).reshape(-1)
    seen = np.bincount(point_label[point_label >= 0], votes.seen[point_label >= 0], len(inside))
    track_ids, track_views = list(votes.views()), np.array(list(votes.views().values()), np.int64)
    fits, view_counts = _view_fits(evidence, label, len(inside))
    instances = []
    for k in range(len(inside)):
        index = np.flatnonzero(point_label == k)
        parts = split_components(
            points[index],
            eps=config.cluster_eps,
            min_neighbors=config.cluster_min_neighbors,
            min_points=config.min_points,
            min_share=2.0,  # never cut: views have decided what belongs together
        )
        fit = float(fits[k])
        if np.isnan(fit):  # as for tracks: votes inside / (frames that see the points + votes elsewhere)
            fit = float((inside[k] / np.maximum(seen[k] + track_total - inside[k], 1)).max(initial=0))
        mine = np.flatnonzero(inside[k] > 0.5 * track_total)
        views = max(int(view_counts[k]), int(track_views[mine].max(initial=0)))
        if parts and views >= config.min_views:
            tracks_of = tuple(track_ids[j] for j in mine)
            instances.append(Instance(index[parts[0]], fit * saturate(views), views, tracks_of))
    return instances


def _votes_inside(tracks, label) -> np.ndarray:
    """Return (I, T) the votes of each track on the units of each instance."""
    inside = np.flatnonzero(label >= 0)
    select = sparse.csr_matrix((np.ones(len(inside)), (label[inside], inside)), (label.max(initial=-1) + 1, len(label)))
    return (select @ tracks).toarray()


def _view_fits(evidence, label, count) -> tuple[np.ndarray, np.ndarray]:
    """Compare instances with the masks of single views.

    label    (U,) int, instance of each unit, -1 for none; count  number of instances
    returns  (I,) mean over the views that see an instance, by visible units, of the best IoU of a mask with the visible
             part, NaN when no view sees it; (I,) number of views with an IoU above 0.25
    """
    total, weight, views = np.zeros(count), np.zeros(count), np.zeros(count, np.int64)
    for view in evidence.views:
        owner = label[view.unit]
        visible = np.bincount(owner[owner >= 0], minlength=count)
        size = np.array([len(mask) for mask in view.masks], np.int64)
        hit = owner[np.concatenate(view.masks)] if view.masks else owner[:0]
        cell = (np.repeat(np.arange(len(size)) * count, size) + hit)[hit >= 0]
        shared = np.bincount(cell, minlength=len(size) * count).reshape(len(size), count)
        best = (shared / np.maximum(visible + size[:, None] - shared, 1)).max(axis=0, initial=0)
        total += best * visible
        weight += visible
        views += best > 0.25
    return np.where(weight > 0, total / np.maximum(weight, 1), np.nan), views
