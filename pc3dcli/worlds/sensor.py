# SPDX-License-Identifier: Apache-2.0
"""What a structured-light camera makes of an exact frame: noise that grows with z^2, steps, holes.

Axial noise and the disparity step follow the published Kinect v1 measurements (Nguyen, Izadi, Lovell 2012:
sigma = 1.2 mm + 1.9 mm (z - 0.4)^2; Khoshelham and Elberink 2012: 2.85 mm step at 1 m, growing with z^2); the
probabilities of holes are ours.
"""

from __future__ import annotations

import cv2
import numpy as np

DISPARITY_STEP = 0.00285  # metres at 1 m


def sense_color(color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add white noise to a (H, W, 3) float image in [0, 1]: sigma 2 % plus a 1 % shift of the exposure a frame."""
    return color * (1 + rng.normal(0, 0.01)) + rng.normal(0, 0.02, color.shape)


def sense_depth(
    depth: np.ndarray,
    color: np.ndarray,
    cosine: np.ndarray,
    noise: bool,
    missing: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the (H, W) depth as measured, metres, 0 where missing.

    depth, cosine  (H, W) float64 exact depth, and cosine between ray and surface normal
    color          (H, W, 3) float64 in [0, 1]
    """
    measured = depth.copy()
    if noise:
        measured = _jitter(measured, rng)
        measured += rng.normal(size=depth.shape) * (0.0012 + 0.0019 * (measured - 0.4) ** 2)
        inverse = np.round(1.0 / np.maximum(measured, 0.1) / DISPARITY_STEP)
        measured = 1.0 / (inverse * DISPARITY_STEP)
    if missing:
        measured[_holes(depth, color, cosine, rng)] = 0.0
    return measured


def _jitter(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Read each pixel up to one pixel beside itself: ragged depth edges, as block matching gives."""
    H, W = depth.shape
    v, u = np.mgrid[0:H, 0:W]
    du, dv = np.rint(rng.normal(0, 0.5, (2, H, W))).astype(np.int64)
    return depth[np.clip(v + dv, 0, H - 1), np.clip(u + du, 0, W - 1)]


def _holes(depth: np.ndarray, color: np.ndarray, cosine: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mark grazing and dark surfaces, the shadow left of depth steps, the image border and a few blobs."""
    H, W = depth.shape
    patchy = cv2.resize(rng.random((H // 8 + 1, W // 8 + 1)), (W, H), interpolation=cv2.INTER_LINEAR)
    holes = cosine < 0.12 + 0.1 * patchy
    holes |= (color.mean(axis=2) < 0.1) & (patchy > 0.45)
    shadow = np.zeros((H, W), np.uint8)
    shadow[:, :-1] = (depth[:, :-1] - depth[:, 1:]) > 0.1  # the projector stands to the right: shadows fall left
    width = max(2, W // 160)
    holes |= cv2.dilate(shadow, np.ones((1, width), np.uint8), anchor=(0, 0)).astype(bool)
    holes |= patchy > 0.985
    border = max(1, W // 80)
    holes[:, :border] = True
    holes[: border // 2] = True
    return holes
