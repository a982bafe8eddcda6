# SPDX-License-Identifier: Apache-2.0
"""Overlap of rotated rectangles in the ground plane, for many pairs at once, in double precision.

The area of A and B together is a sum over the four edges of B seen from A (Green's theorem with the field
clamp(x, -a, a) inside |y| <= b): no vertices to collect or to sort, so that equal boxes, shared edges and touching
corners are ordinary cases, and axis-aligned boxes of exact coordinates have exact areas.  Ours.
"""

from __future__ import annotations

import numpy as np

_AROUND = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * 0.5  # corners of a unit square, counter-clockwise


def intersection_area(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the areas that pairs of rotated rectangles share, (N,) float64.

    a, b  (N, 5) float64: centre x, y; length along the heading, width; heading in radians, counter-clockwise from +x
          (for the camera's x, z plane pass -rotation_y); the signs of length and width do not matter
    """
    area = np.zeros(len(a))
    offset, reach = b[:, :2] - a[:, :2], np.hypot(a[:, 2], a[:, 3]) + np.hypot(b[:, 2], b[:, 3])
    near = np.flatnonzero(4 * (offset**2).sum(axis=1) < reach**2)  # circles around both meet
    if near.size:
        area[near] = _area(a[near], b[near], offset[near])
    return area


def _area(a: np.ndarray, b: np.ndarray, offset: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(a[:, 4]), np.sin(a[:, 4])
    center = np.stack([cos * offset[:, 0] + sin * offset[:, 1], cos * offset[:, 1] - sin * offset[:, 0]], axis=1)
    turn = b[:, 4] - a[:, 4]
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    along, across = (np.abs(b[:, axis, None]) * _AROUND[:, axis - 2] for axis in (2, 3))
    x = center[:, :1] + cos * along - sin * across  # (N, 4) corners of b in the frame of a
    y = center[:, 1:] + sin * along + cos * across
    half_length, half_width = np.abs(a[:, 2, None]) / 2, np.abs(a[:, 3, None]) / 2
    edges = _edge_integral(x, y, np.roll(x, -1, axis=1), np.roll(y, -1, axis=1), half_length, half_width)
    return np.maximum(edges.sum(axis=1), 0.0)  # rounding may leave -1e-17


def _edge_integral(
    x0: np.ndarray, y0: np.ndarray, x1: np.ndarray, y1: np.ndarray, half_length: np.ndarray, half_width: np.ndarray
) -> np.ndarray:
    """Integrate clamp(x, -half_length, half_length) dy over the part of each edge with |y| <= half_width."""
    low, high = np.clip(y0, -half_width, half_width), np.clip(y1, -half_width, half_width)
    rise = y1 - y0
    rise = np.where(rise == 0, 1.0, rise)  # then low == high and the edge adds nothing
    start, end = x0 + (low - y0) / rise * (x1 - x0), x1 + (high - y1) / rise * (x1 - x0)
    return (high - low) * _mean_clamped(np.minimum(start, end), np.maximum(start, end), half_length)


def _mean_clamped(left: np.ndarray, right: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Return the mean of clamp(x, -limit, limit) over x from left to right; exact also where they are close."""
    inner_left, inner_right = np.clip(left, -limit, limit), np.clip(right, -limit, limit)
    inside = (inner_right - inner_left) * (inner_left + inner_right) / 2
    below, above = np.minimum(right, -limit) - left, right - np.maximum(left, limit)
    total = inside + limit * (np.maximum(above, 0) - np.maximum(below, 0))
    width = right - left
    return np.where(width > 0, total / np.where(width > 0, width, 1.0), inner_left)
