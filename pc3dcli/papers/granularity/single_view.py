# SPDX-License-Identifier: Apache-2.0
"""Single-view samples, stage 1 of the curriculum (granularity_tracking.md section 3.5; arXiv 2511.00785).

*Departures*: none known; the minimum of 100 pixels an id is Segment3D's.
"""

from __future__ import annotations

import numpy as np

from pc3dcli.geometry.cameras import back_project

MIN_PIXELS = 100  # ids with fewer become -1 (ignored), Segment3D


def view_sample(
    rgb: np.ndarray, depth: np.ndarray, K: np.ndarray, world_from_cam: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Back-project all valid pixels of one frame with the ids painted on them.

    rgb      (H, W, 3) uint8; depth (H, W) float32 metres, 0 where missing
    K        (3, 3) float64 pixels; world_from_cam (4, 4) float64
    labels   (H, W) int32, -1 for none
    returns  points (N, 3) float32 metres in the world, colours (N, 3) uint8, and labels (N,) int32 renumbered
             0 .. M - 1 by ascending id, -1 for none
    """
    is_valid = (depth > 0).reshape(-1)
    points = back_project(depth, K, world_from_cam).reshape(-1, 3)[is_valid].astype(np.float32)
    ids, position, count = np.unique(labels.reshape(-1)[is_valid], return_inverse=True, return_counts=True)
    is_kept = (ids >= 0) & (count >= MIN_PIXELS)
    number = np.where(is_kept, np.cumsum(is_kept) - 1, -1).astype(np.int32)
    return points, rgb.reshape(-1, 3)[is_valid], number[position]
