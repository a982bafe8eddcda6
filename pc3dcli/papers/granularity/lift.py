# SPDX-License-Identifier: Apache-2.0
"""2D-to-3D lifting: votes of tracked masks become 3D instances.

J. Wang, Y. Kawanishi, T. Miyazaki, Z. Wang, S. Omachi: class-agnostic 3D segmentation from granularity-consistent 2D
mask tracking, arXiv 2511.00785; section 5 of granularity_tracking.md: votes, decision, fusion of split ids, cleaning.
Three ways to make instances of the same votes: `none` takes ids as they come, `tracks` is section 5, `consensus`
(consensus.py) is ours.

*Departures* from section 5: split ids are fused before the decision, not after it, because a point whose votes are
shared by two ids of one object fails the 0.5 gate although the object wins; scores are ours (see Instance).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pc3dcli.geometry.voxels import voxel_groups
from pc3dcli.papers.granularity.clean import snap_to_superpoints, split_components
from pc3dcli.papers.granularity.consensus import consensus_instances
from pc3dcli.papers.granularity.evidence import ViewEvidence
from pc3dcli.papers.granularity.fuse import fuse_tracks
from pc3dcli.papers.granularity.instances import Instance, LiftConfig, conflict_rate, saturate, winners
from pc3dcli.papers.granularity.votes import PointVotes

__all__ = ["Instance", "LiftConfig", "Lifter", "conflict_rate", "lift_instances"]


class Lifter:
    """Collects frames of one scene and makes instances of them; memory does not depend on the number of frames."""

    def __init__(self, points: np.ndarray, config: LiftConfig | None = None):
        """points  (N, 3) float, metres, world frame, finite."""
        self.config = config or LiftConfig()
        self.points = points
        self.votes = PointVotes(points, max_gap=self.config.max_gap, flying_pixel_range=self.config.flying_pixel_range)
        self.evidence = ViewEvidence(points, self.config.unit, self.config.max_keyframes)

    def add_frame(
        self,
        depth: np.ndarray,
        K: np.ndarray,
        world_from_cam: np.ndarray,
        label_ids: np.ndarray,
        detections: list[np.ndarray] | None = None,
    ) -> None:
        """Add one frame.

        depth           (H, W) float32, metres along the optical axis, 0 where missing
        K               (3, 3) float64, pixels; world_from_cam (4, 4) float64
        label_ids       (H, W) int32, composed tracks, negative for none
        detections      (H, W) bool masks that were found in this frame alone, which may overlap or nest; None or
                        empty where the frame was not a keyframe.  Only `consensus` reads them.
        raises          ValueError when the images differ in size or a track id is 2^20 or more
        """
        point, pixel = self.votes.add_frame(depth, K, world_from_cam, label_ids)
        if detections:
            self.evidence.add_view(point, pixel, detections)

    def instances(self, merge: str = "consensus", superpoint: np.ndarray | None = None) -> list[Instance]:
        """Return the instances of all frames so far; see `lift_instances`."""
        return lift_instances(self.votes, self.points, self.config, merge, self.evidence, superpoint)

    def conflict_rate(self) -> float:
        """Return kappa of the tracks, see `conflict_rate`."""
        return conflict_rate(self.votes)

    def winning_share(self) -> np.ndarray:
        """Return (N,) float32, the share of the votes on each point that its most voted track won, 0 without votes."""
        _, most, total = winners(*self.votes.pairs(), self.votes.num_points)
        return (most / np.maximum(total, 1)).astype(np.float32)


def lift_instances(
    votes: PointVotes,
    points: np.ndarray,
    config: LiftConfig,
    merge: str = "consensus",
    evidence: ViewEvidence | None = None,
    superpoint: np.ndarray | None = None,
) -> list[Instance]:
    """Turn votes into instances.

    points      (N, 3) float, metres
    merge       "tracks": spec 5; "consensus": all views decide, ours; "none": every id is an instance, by arg-max of
                votes without gates, fusion or cleaning
    evidence    masks of single views, for "consensus"; without any, the tracks alone decide
    superpoint  (N,) int32, snap instances to these segments; None keeps them as voted
    returns     instances by descending score; no point is in two of them
    raises      ValueError for another `merge`
    """
    if merge == "none":
        instances = _unmerged_instances(votes, config)
    elif merge == "tracks":
        instances = _track_instances(votes, points, config)
    elif merge == "consensus":
        instances = consensus_instances(votes, points, config, evidence)
    else:
        raise ValueError(f"merge is {merge!r}, expected none, tracks or consensus")
    if superpoint is not None:
        instances = [_snap(instance, superpoint, config) for instance in instances]
    instances = [instance for instance in instances if len(instance.point_index) >= config.min_points]
    return sorted(instances, key=lambda instance: (-instance.score, int(instance.point_index[0])))


def _unmerged_instances(votes, config) -> list[Instance]:
    winner, _, _ = winners(*votes.pairs(), votes.num_points)
    views = votes.views()
    objects = {track: np.flatnonzero(winner == track) for track in views}
    scores = _vote_scores(votes, {track: track for track in views}, objects)
    return [
        Instance(index, scores[track] * saturate(views[track]), views[track], (track,))
        for track, index in objects.items()
        if len(index) >= config.min_points
    ]


def _track_instances(votes, points, config) -> list[Instance]:
    point, track, count = votes.pairs()
    _, voxel, _ = voxel_groups(points, config.merge_voxel)
    group = fuse_tracks(
        voxel[point], track, votes.frames_together(), merge_iou=config.merge_iou, max_together=config.max_together
    )
    point, track, count = _relabel(point, track, count, group)
    winner, most, total = winners(point, track, count, votes.num_points)
    keep = (most >= config.min_vote_share * total) & (total >= config.min_seen_share * votes.seen) & (total > 0)
    winner[~keep] = -1
    views = _group_views(votes, group)
    objects = {k: np.flatnonzero(winner == k) for k in views if views[k] >= config.min_views}
    scores = _vote_scores(votes, group, objects)
    members = {k: tuple(t for t in group if group[t] == k) for k in views}
    instances = []
    for k, index in objects.items():
        for part in _split(points[index], config):
            instances.append(Instance(index[part], scores[k] * saturate(views[k]), views[k], members[k]))
    return instances


def _split(points, config) -> list[np.ndarray]:
    return split_components(
        points,
        eps=config.cluster_eps,
        min_neighbors=config.cluster_min_neighbors,
        min_points=config.min_points,
        min_share=config.component_share,
    )


def _snap(instance: Instance, superpoint, config) -> Instance:
    return replace(instance, point_index=snap_to_superpoints(instance.point_index, superpoint, config.snap_share))


def _relabel(point, track, count, group) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Replace tracks by their groups and add up votes on equal pairs, keeping the order by point, then track."""
    lead = np.array(list(group.values()), np.int32)[np.searchsorted(np.array(list(group), np.int32), track)]
    order = np.lexsort((lead, point))
    point, lead, count = point[order], lead[order], count[order]
    starts = np.flatnonzero((np.diff(point, prepend=-1) != 0) | (np.diff(lead, prepend=-1) != 0))
    return point[starts], lead[starts], np.add.reduceat(count, starts) if len(starts) else count


def _group_views(votes, group) -> dict[int, int]:
    """Return the frames in which each group voted; frames that two of its tracks share count once or twice."""
    views: dict[int, int] = {}
    for track, number in votes.views().items():
        views[group[track]] = views.get(group[track], 0) + number
    return {k: min(number, votes.num_frames) for k, number in views.items()}


def _vote_scores(votes, group, objects) -> dict[int, float]:
    """Return the IoU between the points of each object and its votes, summed over frames.

    group    track -> object; objects  object -> point indices
    returns  votes on the object's points / (frames that see these points + votes elsewhere), by object
    """
    point, track, count = votes.pairs()
    lead = np.array([group[t] for t in votes.views()], np.int64)
    rank = np.searchsorted(np.array(list(votes.views()), np.int64), track)
    scores = {}
    for k, index in objects.items():
        mine = np.flatnonzero(lead[rank] == k) if len(lead) else np.zeros(0, np.int64)
        is_inside = np.zeros(votes.num_points, bool)
        is_inside[index] = True
        every, inside = count[mine].sum(), count[mine][is_inside[point[mine]]].sum()
        scores[k] = float(inside / max(votes.seen[index].sum() + every - inside, 1))
    return scores
