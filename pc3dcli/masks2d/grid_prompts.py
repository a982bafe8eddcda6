# SPDX-License-Identifier: Apache-2.0
"""What the automatic mask generators of SAM and SAM 2 share: their settings, and masks out of what they return.

Both prompt the network with a grid of points and keep masks that are sure and stable (granularity_tracking.md section
3.2).  Nothing here loads a network.
"""

from __future__ import annotations

from dataclasses import dataclass

from pc3dcli.errors import check_ranges
from pc3dcli.masks2d.mask2d import Mask2d
from pc3dcli.masks2d.quality import mask_quality


@dataclass(frozen=True)
class GridPromptsConfig:
    """Settings of the automatic generators; the defaults are those of the packages."""

    points_per_side: int = 32  # prompts per image side
    points_per_batch: int = 64  # prompts decoded together; fewer need less memory
    predicted_iou: float | None = None  # drop masks whose own estimate of IoU is lower; none: sam 0.88, sam2 0.8
    stability: float = 0.95  # drop masks that change more than this with the threshold
    stability_offset: float = 1.0  # logits by which that threshold is shifted
    box_nms: float = 0.7  # drop a mask whose box overlaps a better one by more than this IoU

    def __post_init__(self) -> None:
        check_ranges(
            self,
            points_per_side=(1, 512),
            points_per_batch=(1, 1 << 18),
            predicted_iou=(-100, 100),
            stability=(0, 1),
            stability_offset=(0, 100),
            box_nms=(0, 1),
        )

    def generator_arguments(self, predicted_iou: float) -> dict[str, float]:
        """Return what either package's generator is built with; `predicted_iou` is that package's default."""
        return {
            "points_per_side": self.points_per_side,
            "points_per_batch": self.points_per_batch,
            "pred_iou_thresh": predicted_iou if self.predicted_iou is None else self.predicted_iou,
            "stability_score_thresh": self.stability,
            "stability_score_offset": self.stability_offset,
            "box_nms_thresh": self.box_nms,
        }


def masks_of_annotations(found: list[dict]) -> list[Mask2d]:
    """Turn what the generators return into masks, empty ones left out."""
    return [
        Mask2d(one["segmentation"], mask_quality(one["segmentation"], one["predicted_iou"], one["stability_score"]))
        for one in found
        if one["segmentation"].any()
    ]
