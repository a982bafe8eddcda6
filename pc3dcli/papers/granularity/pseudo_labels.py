# SPDX-License-Identifier: Apache-2.0
"""Which instances of a segmenter become labels of the third stage, and which of their points.

"Granularity-Consistent 2D Mask Tracking for 3D instance segmentation", arXiv 2511.00785, trains its network once more
on what it is sure of; how sure is not published.  The numbers are those of Segment3D and of a public re-implementation
(granularity_tracking.md section 6).

*Departures*, ours: points of an instance that the network is not sure of count neither for nor against it, where the
re-implementation takes them as negatives (`negatives`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pc3dcli.errors import check_ranges


@dataclass(frozen=True)
class PseudoLabelConfig:
    """When an instance is taken for true."""

    min_score: float = 0.6  # of an instance, Segment3D
    min_confidence: float = 0.8  # of a point in it; an example of the re-implementation
    min_points: int = 50  # that remain of it
    max_instances: int = 150  # of a scene, the best by score, Segment3D
    negatives: bool = False  # unsure points count against their instance

    def __post_init__(self) -> None:
        check_ranges(self, min_score=(0, 1), min_confidence=(0, 1), min_points=(1, 1e9), max_instances=(1, 1e6))


@dataclass(frozen=True, eq=False)
class PseudoLabel:
    """A label: its points (n,) int64, those that do not count for it (k,) int64, and the instance it was made from."""

    index: np.ndarray
    ignored: np.ndarray
    instance: int


def pseudo_labels(
    indices: list[np.ndarray], scores: np.ndarray, confidences: list[np.ndarray], config: PseudoLabelConfig
) -> list[PseudoLabel]:
    """Filter the instances of a scene.

    indices      (n,) int64 of each, its points
    scores       (M,) of each
    confidences  (n,) of each, the probability of its points
    returns      labels, the best first; an instance is left out where score or number of sure points is too low
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")[: config.max_instances]
    labels = []
    for number in order.tolist():
        is_sure = confidences[number] > config.min_confidence
        if scores[number] <= config.min_score or is_sure.sum() < config.min_points:
            continue
        unsure = indices[number][~is_sure]
        labels.append(PseudoLabel(indices[number][is_sure], unsure[:0] if config.negatives else unsure, number))
    return labels
