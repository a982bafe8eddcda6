# SPDX-License-Identifier: Apache-2.0
"""The quality score of a mask that a network proposed (granularity_tracking.md section 3, last paragraph)."""

from __future__ import annotations

import numpy as np


def edge_touch(mask: np.ndarray) -> float:
    """Return the share of a mask's boundary pixels that lie on the image border, in [0, 1].

    mask     (H, W) bool; a boundary pixel has a 4-neighbour outside the mask or outside the image
    returns  0 for an empty mask
    """
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), bool)
    padded[1:-1, 1:-1] = mask
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    boundary = mask & ~inner
    total = np.count_nonzero(boundary)
    boundary[1:-1, 1:-1] = False
    return np.count_nonzero(boundary) / total if total else 0.0


def mask_quality(mask: np.ndarray, predicted_iou: float, stability: float) -> float:
    """Return predicted_iou * stability * (1 - edge_touch), each factor limited to [0, 1].

    mask           (H, W) bool
    predicted_iou  the network's own estimate; SAM 1 lets it exceed 1 a little
    stability      IoU of the mask at a lower and a higher threshold
    """
    return float(min(max(predicted_iou, 0.0), 1.0) * min(max(stability, 0.0), 1.0) * (1.0 - edge_touch(mask)))
