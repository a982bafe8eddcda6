# SPDX-License-Identifier: Apache-2.0
"""From predicted masks to instances of a cloud: score, split what falls apart, keep the best, follow superpoints.

Segment3D (arXiv 2312.17232) as granularity_tracking.md section 7.3 has it.  *Departures*: the reach of neighbours is
2.5 voxels, which is the released 0.05 m at its 0.02 m; components are DBSCAN's by `clean.density_components`; the share
that is kept is rounded up, so that one of one stays; masks are not averaged over superpoints before they are cut, which
the released evaluation does, but may follow superpoints afterwards (`snapped`); `distinct`, off by default, drops what
better instances cover: queries of a network that was trained for hours and not for days find an object many times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pc3dcli.errors import check_ranges
from pc3dcli.papers.granularity.clean import density_components, snap_to_superpoints


@dataclass(frozen=True)
class MaskInstancesConfig:
    """How masks become instances."""

    test_queries: int | None = None  # asked of a scene; none: four times those in training, at most 400 as Segment3D
    cluster_reach: float = 2.5  # voxels between neighbours of a cluster (DBSCAN)
    cluster_min_neighbors: int = 5  # within reach of a point that is no noise, itself included
    min_voxels: int = 16  # of a cluster; Segment3D keeps those above 15
    max_overlap: float = 1.0  # the largest share of an instance that better ones may have too; 1: any.  Ours
    keep_share: float = 0.8  # of the instances, the best by score; Segment3D's evaluation
    snap_share: float = 0.5  # of a superpoint that an instance must exceed to get the whole

    def __post_init__(self) -> None:
        check_ranges(self, test_queries=(1, 100_000), cluster_reach=(0.1, 1e4), cluster_min_neighbors=(1, 1e6))
        check_ranges(self, min_voxels=(1, 1e9), max_overlap=(0, 1), keep_share=(0, 1), snap_share=(0, 1))

    def num_queries(self, in_training: int) -> int:
        """Return how many queries are asked, for a network that was trained with so many."""
        return self.test_queries or min(4 * in_training, 400)


@dataclass(frozen=True, eq=False)
class MaskInstance:
    """One predicted instance.

    index       (n,) int64, ascending, of its voxels or points
    score       objectness times the mean probability over its voxels
    confidence  (n,) float32, probability of each
    """

    index: np.ndarray
    score: float
    confidence: np.ndarray


def mask_instances(
    classes: np.ndarray, masks: np.ndarray, coords: np.ndarray, config: MaskInstancesConfig
) -> list[MaskInstance]:
    """Turn predictions into instances of voxels, the best first; `best_share` keeps some of them.

    classes  (Q, C + 1) float, logits; the last is no object
    masks    (Q, n) float, logits
    coords   (n, 3) int, voxels
    """
    shifted = np.exp(classes - classes.max(axis=1, keepdims=True))
    objectness = 1 - shifted[:, -1] / shifted.sum(axis=1)
    found = []
    for query, logits in enumerate(masks):
        inside = np.flatnonzero(logits > 0)
        if len(inside) < config.min_voxels:
            continue
        component = density_components(
            coords[inside].astype(np.float64), config.cluster_reach, config.cluster_min_neighbors
        )
        for number in range(component.max(initial=-1) + 1):
            index = inside[component == number]
            if len(index) < config.min_voxels:
                break  # components come by size
            confidence = 1 / (1 + np.exp(-logits[index].astype(np.float64)))
            score = float(objectness[query] * confidence.mean())
            found.append(MaskInstance(index, score, confidence.astype(np.float32)))
    return sorted(found, key=lambda instance: -instance.score)


def best_share(instances: list[MaskInstance], config: MaskInstancesConfig) -> list[MaskInstance]:
    """Return the share of instances, the best first, that is kept: at least one of some."""
    return instances[: int(np.ceil(config.keep_share * len(instances)))]


def distinct(instances: list[MaskInstance], config: MaskInstancesConfig) -> list[MaskInstance]:
    """Leave out instances, the best first, of which too much belongs to better ones that were kept."""
    is_taken = np.zeros(max((instance.index[-1] + 1 for instance in instances), default=0), bool)
    kept = []
    for instance in instances:
        if is_taken[instance.index].mean() <= config.max_overlap:
            kept.append(instance)
            is_taken[instance.index] = True
    return kept


def joined(
    earlier: list[MaskInstance], later: list[MaskInstance], is_shared: np.ndarray, min_iou: float, min_common: int
) -> list[MaskInstance]:
    """Join the instances of a piece of a scene with those of the pieces before it, the best first.

    Instances are compared on the voxels that both sides saw; the pairs that agree best become one, each instance once.

    is_shared   (N,) bool, the voxels of the scene that this piece and an earlier one saw
    min_iou     an IoU above it is agreement
    min_common  voxels that they must have in common besides
    """
    seen = [instance.index[is_shared[instance.index]] for instance in earlier]
    is_in = np.zeros(len(is_shared), bool)
    pairs = []
    for number, instance in enumerate(later):
        own = instance.index[is_shared[instance.index]]
        is_in[own] = True
        for other, inside in enumerate(seen):
            common = int(np.count_nonzero(is_in[inside]))
            union = len(inside) + len(own) - common
            if common >= min_common and common > min_iou * union:
                pairs.append((-common / union, other, number))
        is_in[own] = False
    result: list[MaskInstance | None] = [*earlier, *later]
    for _, other, number in sorted(pairs):
        mine = len(earlier) + number
        if result[mine] is not None and result[other] is earlier[other]:
            result[other], result[mine] = _union(earlier[other], later[number]), None
    return sorted((one for one in result if one is not None), key=lambda instance: -instance.score)


def _union(a: MaskInstance, b: MaskInstance) -> MaskInstance:
    """Return two instances as one: the higher confidence, the score by their sizes."""
    index = np.union1d(a.index, b.index)
    confidence = np.zeros(len(index), np.float32)
    for one in (a, b):
        place = np.searchsorted(index, one.index)
        confidence[place] = np.maximum(confidence[place], one.confidence)
    sizes = np.array([len(a.index), len(b.index)])
    return MaskInstance(index, float(sizes @ [a.score, b.score] / sizes.sum()), confidence)


def on_points(instances: list[MaskInstance], voxel_of_point: np.ndarray) -> list[MaskInstance]:
    """Carry instances of voxels over to points; voxel_of_point (N,) int64, -1 for points outside all voxels."""
    moved = []
    confidence = np.full(voxel_of_point.max(initial=-1) + 2, -1, np.float32)  # the last stands for no voxel
    for instance in instances:
        confidence[instance.index] = instance.confidence
        of_point = confidence[voxel_of_point]
        index = np.flatnonzero(of_point >= 0)
        confidence[instance.index] = -1
        moved.append(MaskInstance(index, instance.score, of_point[index]))
    return moved


def snapped(instances: list[MaskInstance], superpoint: np.ndarray, config: MaskInstancesConfig) -> list[MaskInstance]:
    """Replace instances of points by the superpoints that they mostly fill; those that fill none are dropped.

    superpoint  (N,) int of each point; a point that joins has confidence 0.5
    """
    result = []
    for instance in instances:
        index = snap_to_superpoints(instance.index, superpoint, config.snap_share)
        if len(index):
            known = np.full(len(superpoint), 0.5, np.float32)
            known[instance.index] = instance.confidence
            result.append(MaskInstance(index, instance.score, known[index]))
    return result
