# SPDX-License-Identifier: Apache-2.0
"""What lifting is configured by and what it returns: `LiftConfig`, `Instance`, and the decision rule of votes.

Implements section 5.2 of granularity_tracking.md (arXiv 2511.00785).  *Departures*, ours: the score of an instance
(the paper's is unknown), and `vote_score`'s saturation with the number of views.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pc3dcli.errors import check_ranges


@dataclass(frozen=True)
class LiftConfig:
    """Numbers of 2D-to-3D lifting; "ours" where neither paper nor spec states one."""

    voxel: float = 0.02  # metres, clouds fused from depth, issue text
    max_gap: float = 0.05  # metres, depth test max(max_gap, 0.025 z), spec 2
    flying_pixel_range: float = 0.1  # metres within 3x3 pixels, spec 5.5
    min_views: int = 3  # frames that must have voted for an instance, ours
    min_points: int = 50  # points of a component, spec 5.4
    min_vote_share: float = 0.5  # of the votes on a point for its winner, spec 5.2
    min_seen_share: float = 0.3  # of the frames that see a point and label it, spec 5.2
    merge_iou: float = 0.5  # overlap of split ids, relative to the smaller, spec 5.3
    merge_voxel: float = 0.05  # metres, voxels on which the overlap of split ids is taken, spec 5.3
    max_together: int = 2  # frames in which two joined ids may both occur, spec 5.3
    cluster_eps: float = 0.1  # metres, reach of neighbours (DBSCAN), spec 5.4
    cluster_min_neighbors: int = 4  # within reach of a point that is no noise (DBSCAN), spec 5.4
    component_share: float = 0.3  # of an object, to become an instance of its own, spec 5.4
    snap_share: float = 0.5  # of a superpoint, to join an object, spec 5.4
    unit: float = 0.05  # metres, voxels on which views are compared (consensus), ours
    max_keyframes: int = 192  # views kept for consensus; every second one is dropped beyond, ours
    same_object: float = 0.3  # least share of views that see two touching groups as one (consensus), ours
    same_object_apart: float = 0.35  # the same for groups that do not touch, ours
    track_weight: float = 0.3  # views that agreement of the tracks counts for (consensus), ours
    fragment_scale: float = 0.3  # k of the partition of voxels into fragments (consensus), ours
    fragment_size: int = 4  # voxels of the smallest fragment (consensus), ours

    def __post_init__(self) -> None:
        shares = "min_vote_share min_seen_share component_share snap_share same_object same_object_apart"
        check_ranges(
            self,
            voxel=(0.001, 10),
            max_gap=(0, 100),
            flying_pixel_range=(0, 100),
            min_views=(0, 1e6),
            min_points=(1, 1e9),
            merge_iou=(0, 2),  # above 1 nothing is joined
            merge_voxel=(0.001, 10),
            max_together=(0, 1e6),
            cluster_eps=(0.001, 10),
            cluster_min_neighbors=(1, 1e6),
            unit=(0.001, 10),
            max_keyframes=(1, 1e6),
            track_weight=(0, 1000),
            fragment_scale=(0, 1000),
            fragment_size=(1, 1e6),
            **dict.fromkeys(shares.split(), (0, 1)),
        )


@dataclass(frozen=True, eq=False)
class Instance:
    """One lifted object.

    point_index  (n,) int64, ascending, points of the scene in file order
    score        in [0, 1]; higher is surer.  How well the object's points and its votes or masks agree (an IoU),
                 times views / (views + 2): few views prove little.  Ours.
    views        number of frames that voted for it
    tracks       the 2D tracks it was made of, ascending
    """

    point_index: np.ndarray
    score: float
    views: int
    tracks: tuple[int, ...]


def winners(
    point: np.ndarray, track: np.ndarray, count: np.ndarray, num_points: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the track with most votes of each point.

    point, track, count  (P,) int, votes sorted by point, then track, pairs unique
    returns              (N,) int64 winner, lowest track on ties, -1 without votes; (N,) int64 its votes; (N,) int64 all
    """
    winner, most, total = np.full(num_points, -1), np.zeros(num_points, np.int64), np.zeros(num_points, np.int64)
    if len(point):
        starts = np.flatnonzero(np.diff(point, prepend=-1))
        rows = point[starts]
        total[rows], most[rows] = np.add.reduceat(count, starts), np.maximum.reduceat(count, starts)
        is_best = np.flatnonzero(count == most[point])
        winner[point[is_best][::-1]] = track[is_best][::-1]  # the last assignment, the lowest track, stays
    return winner, most, total


def conflict_rate(votes) -> float:
    """Return kappa, the mean over points with votes of the share that is not for the winner, spec 5.2; 0 if none has.

    votes  PointVotes
    """
    point, track, count = votes.pairs()
    _, most, _ = winners(point, track, count, votes.num_points)
    total = votes.total[votes.total > 0]
    return float(np.mean(1 - most[votes.total > 0] / total)) if len(total) else 0.0


def saturate(views: int) -> float:
    """Return how much `views` agreeing frames prove, in [0, 1)."""
    return views / (views + 2)
