# SPDX-License-Identifier: Apache-2.0
"""Settings of the propagation with SAM 2's video predictor, apart from it because it loads torch."""

from __future__ import annotations

from dataclasses import dataclass

from pc3dcli.errors import check_ranges


@dataclass(frozen=True)
class Sam2VideoConfig:
    """Settings of the propagation; all but `max_prompts` and `encoded_frames` as granularity_tracking.md has them."""

    chunk: int = 16  # frames of memory kept an object; SAM 2 reads 15 back
    max_prompts: int = 4  # conditioning frames that SAM 2 keeps an object, 2 or more
    encoded_frames: int = 12  # encoded images that SAM 2 keeps for reverse passes, 17 MB each at 1024 pixels
    min_area: float = 0.0005  # share of the image below which a mask of SAM 2 is not visible
    prior_voxel: float = 0.05  # metres, of the map that tells SAM 2 which lost objects a frame may show
    prior_min_seen: int = 30  # voxels of a lost object that a frame must see before SAM 2 is asked for it

    def __post_init__(self) -> None:
        check_ranges(
            self,
            chunk=(1, 1 << 30),
            max_prompts=(2, 1 << 20),
            encoded_frames=(1, 1 << 20),
            min_area=(0, 10),
            prior_voxel=(0.001, 10),
            prior_min_seen=(1, 1 << 30),
        )
