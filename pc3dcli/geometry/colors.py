# SPDX-License-Identifier: Apache-2.0
"""Colours of pictures: one per instance id, one per score, grey for points of no instance, pale ones for large planes.

The palette is grown by farthest-point selection: each colour is the candidate farthest from all earlier ones and
from grey, where the distance of two colours is the least of their OKLab distances (Ottosson 2020) as seen with
normal vision, with protanopia and with deuteranopia (Machado, Oliveira and Fernandes 2009, severity 1; the latter
two count double, or reds and greens would hardly be used).  So colours differ in lightness where hue alone would
not be seen, and low ids, the most frequent ones, are the most distinct.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

NONE_COLOR = (150, 150, 150)  # points of no instance; ours
PALETTE_SIZE = 256  # ids repeat colours after this many; ours
PALE = (232, 232, 228)
PALENESS = 0.72  # share of `PALE` in the colour of a wall or floor; ours
FLATNESS = 0.25  # of its width that a flat instance is thick at most, both as standard deviations; ours
LARGE_AREA = {"floor": 0.2, "wall": 0.05}  # of the scene's, of level and of upright instances; ours
WALL_HEIGHT = 0.6  # of the scene's that a wall has at least; ours
FIRST_COLOR = (0, 114, 178)  # the blue of Okabe and Ito 2008, where the selection starts

_LMS_FROM_LINEAR = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929],
     [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_LAB_FROM_LMS = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468],
     [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip
_PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
_DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
# dark blue to light yellow, lightness rising evenly, told apart by any colour vision; ours
_SCORE_ANCHORS = np.array([[24, 36, 92], [66, 78, 122], [116, 120, 124], [176, 166, 104], [250, 224, 74]], np.float64)


def instance_colors(ids: np.ndarray) -> np.ndarray:
    """Return the colour of each instance id.

    ids      (...) integers, negative for none
    returns  (..., 3) uint8 RGB; the same id has the same colour everywhere, ids `PALETTE_SIZE` apart share one
    """
    ids = np.asarray(ids).astype(np.int64)  # 256 does not fit a uint8
    table = np.concatenate((_palette(), np.array([NONE_COLOR], np.uint8)))
    return table[np.where(ids < 0, PALETTE_SIZE, ids % PALETTE_SIZE)]


def pale(colors: np.ndarray) -> np.ndarray:
    """Return pale variants of (..., 3) uint8 RGB colours, for what is large and of little interest."""
    return np.rint((1 - PALENESS) * colors + PALENESS * np.array(PALE)).astype(np.uint8)


def is_large_plane(points: np.ndarray, scene: np.ndarray) -> bool:
    """Tell whether an instance is flat and spans much of its scene, as walls, floors and ceilings do.

    points, scene  (n, 3), (N, 3) float, metres, z up
    """
    if len(points) < max(3, len(scene) // 500):  # most instances are told from their size
        return False
    _, axes = _principal(points)
    off = np.abs((points - np.median(points, axis=0)) @ axes[:, 0])
    # what a mask has besides the plane, as the headboard at a wall, does not count
    points = points[off <= max(3 * float(np.median(off)), 1e-9)]
    spread, axes = _principal(points)
    whole, _ = _principal(scene)
    area = spread[1] * spread[2] / max(whole[1] * whole[2], 1e-12)
    if spread[0] > FLATNESS * spread[1]:
        return False
    if abs(axes[2, 0]) > 0.7:  # its normal is nearer to upright than to level
        return bool(area > LARGE_AREA["floor"])
    return bool(area > LARGE_AREA["wall"] and _height(points) > WALL_HEIGHT * _height(scene))


def _principal(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard deviations (3,) along the principal axes, ascending, and the axes as columns (3, 3)."""
    sample = np.asarray(points[:: max(1, len(points) // 5000)], np.float64)
    variance, axes = np.linalg.eigh(np.cov(sample.T))
    return np.sqrt(variance.clip(0)), axes


def _height(points: np.ndarray) -> float:
    return float(np.ptp(np.percentile(points[:: max(1, len(points) // 5000), 2], (1, 99))))


def score_colors(scores: np.ndarray) -> np.ndarray:
    """Return a colour between dark blue (0) and light yellow (1) for each score.

    scores   (...) float in [0, 1], clipped to it; NaN where there is none
    returns  (..., 3) uint8 RGB, grey for NaN
    """
    scores = np.asarray(scores, np.float64)
    known = np.isfinite(scores)
    place = np.clip(np.where(known, scores, 0.0), 0.0, 1.0) * (len(_SCORE_ANCHORS) - 1)
    low = np.minimum(place.astype(np.int64), len(_SCORE_ANCHORS) - 2)
    weight = (place - low)[..., None]
    colors = _SCORE_ANCHORS[low] * (1.0 - weight) + _SCORE_ANCHORS[low + 1] * weight
    return np.where(known[..., None], np.rint(colors), np.array(NONE_COLOR)).astype(np.uint8)


def tint(colors: np.ndarray, rgb: np.ndarray | None, amount: float = 0.35) -> np.ndarray:
    """Let the brightness of the recorded colour show through a label colour, so that texture stays readable.

    colors   (N, 3) uint8, label colours
    rgb      (N, 3) uint8, recorded colours, or None for no change
    amount   share of brightness taken from `rgb`, in [0, 1]
    returns  (N, 3) uint8
    """
    if rgb is None or len(rgb) == 0:
        return colors
    luma = rgb.astype(np.float32) @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    middle = max(float(np.median(luma)), 1.0)  # a dark scan must not darken every label
    gain = np.clip(1.0 + amount * (luma / middle - 1.0), 0.55, 1.35)
    return np.clip(colors * gain[:, None], 0, 255).astype(np.uint8)


def color_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the least OKLab distance of two colours over normal vision and, doubled, protanopia and deuteranopia.

    first, second  (..., 3) uint8 RGB, broadcast against each other
    returns        (...) float64, 0 for equal colours; black to white is 1
    """
    return _gap(_seen(np.asarray(first)), _seen(np.asarray(second)))


@lru_cache(maxsize=1)
def _palette() -> np.ndarray:
    """Return the (PALETTE_SIZE, 3) uint8 palette."""
    levels = np.linspace(0, 255, 18).astype(np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = _seen(candidates)[:, 0]
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    # neither near black (shading), nor near white (page), nor grey (no instance), nor glaring; ours
    candidates = candidates[(lab[:, 0] > 0.45) & (lab[:, 0] < 0.90) & (chroma > 0.07) & (chroma < 0.20)]
    chosen = [np.array(FIRST_COLOR, np.uint8)]
    grey = np.array(NONE_COLOR, np.uint8)
    nearest = np.minimum(color_distance(candidates, grey), color_distance(candidates, chosen[0]))
    seen = _seen(candidates)
    for _ in range(PALETTE_SIZE - 1):
        best = int(nearest.argmax())  # the first of equals: deterministic
        chosen.append(candidates[best])
        np.minimum(nearest, _gap(seen, seen[best]), out=nearest)
    return np.array(chosen, np.uint8)


def _gap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (np.sqrt(((first - second) ** 2).sum(-1)) * (1.0, 2.0, 2.0)).min(-1)


def _seen(colors: np.ndarray) -> np.ndarray:
    """Return (..., 3, 3) OKLab values of (..., 3) uint8 sRGB colours under the three kinds of colour vision."""
    value = colors.astype(np.float64) / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    kinds = np.stack((linear, linear @ _PROTANOPIA.T, linear @ _DEUTERANOPIA.T), -2).clip(0.0, 1.0)  # (..., 3, 3)
    return np.cbrt(kinds @ _LMS_FROM_LINEAR.T) @ _LAB_FROM_LMS.T
