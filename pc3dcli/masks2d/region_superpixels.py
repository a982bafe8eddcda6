# SPDX-License-Identifier: Apache-2.0
"""Superpixels of a colour and depth image, and what is seen along the border of each adjacent pair.

A watershed floods from one marker per grid cell over a map of colour edges, depth steps and creases. Each border is
described by depth step, signed crease angle and colour contrast, sampled a few pixels to either side.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pc3dcli.geometry.normals import SurfaceFit


@dataclass(frozen=True, eq=False)
class Borders:
    """Adjacent superpixel pairs; E pairs, first < second, sorted.

    pairs     (E, 2) int32 superpixel ids
    length    (E,) float32, pixels of common border
    features  (E, F) float32, see FEATURES; means over the border
    """

    pairs: np.ndarray
    length: np.ndarray
    features: np.ndarray


FEATURES = ("known", "step", "concave", "convex", "lightness", "chroma")


def edge_maps(lab: np.ndarray, fit: SurfaceFit | None, plane_label: np.ndarray, noise: float) -> tuple:
    """Return how much each pixel looks like a boundary, by any evidence and by geometry alone, two (H, W) uint8.

    lab          (H, W, 3) float32 CIE Lab, smoothed
    fit          surface of the same grid, or None
    plane_label  (H, W) int32, structure plane of each pixel, -1 for none
    noise        expected error of inverse depth, 1/metres
    """
    edges, geometry = np.zeros(lab.shape[:2], np.float32), np.zeros(lab.shape[:2], np.float32)
    for axis in (0, 1):
        if lab.shape[axis] < 2:
            continue
        first, second = _neighbours(axis)
        strength = np.abs(lab[second] - lab[first]).max(-1) / 25.0
        strength = np.maximum(strength, 2.0 * (plane_label[first] != plane_label[second]))
        _raise_to(edges, strength, axis)
        if fit is not None:
            _raise_to(geometry, _geometry_strength(fit, axis, noise), axis)
    return tuple(np.clip(e * 120.0, 0, 255).astype(np.uint8) for e in (np.maximum(edges, geometry), geometry))


def _raise_to(edges: np.ndarray, strength: np.ndarray, axis: int) -> None:
    """Raise both pixels of each touching pair to the strength between them, in place."""
    for side in _neighbours(axis):
        np.maximum(edges[side], strength, out=edges[side])


def _neighbours(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Index pairs of pixels that touch along an axis (0 down, 1 right)."""
    rest = (slice(None),) * axis
    return (*rest, slice(None, -1)), (*rest, slice(1, None))


def _geometry_strength(fit: SurfaceFit, axis: int, noise: float) -> np.ndarray:
    """Depth step, crease and end of depth between touching pixels, about 1 where clear."""
    first, second = _neighbours(axis)
    slope = fit.slope[..., 1 - axis]
    step = np.abs(fit.inverse[second] - fit.inverse[first] - 0.5 * (slope[first] + slope[second])) / (4.0 * noise)
    crease = (1.0 - (fit.normal[first] * fit.normal[second]).sum(-1)) * 4.0
    both = fit.valid[first] & fit.valid[second]
    ends = fit.valid[first] != fit.valid[second]
    return np.where(both, np.minimum(step + crease, 1.5), np.where(ends, 1.0, 0.0)).astype(np.float32)


def superpixels(edges: np.ndarray, spacing: int) -> np.ndarray:
    """Flood the edge map from the calmest pixel of each grid cell and return (H, W) int32 labels 0..S-1."""
    H, W = edges.shape
    markers = _grid_markers(edges, spacing)
    if min(H, W) < 3 or len(np.unique(markers)) <= 2:
        return np.zeros((H, W), np.int32)
    labels = markers.copy()
    cv2.watershed(cv2.merge([edges] * 3), labels)
    return _close_lines(labels, edges)


def _grid_markers(edges: np.ndarray, spacing: int) -> np.ndarray:
    """Return (H, W) int32 with one 3x3 marker, ids from 1, near the calmest pixel of each cell."""
    H, W = edges.shape
    calm = cv2.boxFilter(edges, cv2.CV_32F, (3, 3))
    rows, cols = max(1, H // spacing), max(1, W // spacing)
    cell = H // rows, W // cols
    block = calm[: rows * cell[0], : cols * cell[1]].reshape(rows, cell[0], cols, cell[1])
    block = block.transpose(0, 2, 1, 3).reshape(rows * cols, -1)
    # Among equally calm pixels take the one nearest the centre, so that flat areas give a regular grid.
    centre = np.add.outer((np.arange(cell[0]) - cell[0] / 2) ** 2, (np.arange(cell[1]) - cell[1] / 2) ** 2).ravel()
    pick = (block + 0.02 * centre[None].astype(np.float32)).argmin(1)
    y = np.arange(rows * cols) // cols * cell[0] + pick // cell[1]
    x = np.arange(rows * cols) % cols * cell[1] + pick % cell[1]
    markers = np.zeros((H, W), np.int32)
    markers[y, x] = np.arange(1, rows * cols + 1)
    return markers


def _close_lines(labels: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Give the watershed lines (and the image frame) to a neighbouring basin; return labels from 0 without gaps."""
    labels = labels.copy()
    H, W = labels.shape
    for _ in range(4):
        y, x = np.nonzero(labels <= 0)
        if len(y) == 0:
            break
        best = np.full(len(y), np.iinfo(np.int32).max, np.int32)
        taken = labels[y, x].copy()
        for dy, dx in ((0, -1), (-1, 0), (0, 1), (1, 0)):
            v, u = np.clip(y + dy, 0, H - 1), np.clip(x + dx, 0, W - 1)
            cost = np.where(labels[v, u] > 0, np.abs(edges[v, u].astype(np.int32) - edges[y, x]), best)
            better = cost < best
            best[better] = cost[better]
            taken[better] = labels[v, u][better]
        labels[y, x] = taken
    labels[labels <= 0] = 1
    present = np.zeros(labels.max() + 1, bool)
    present[labels.ravel()] = True
    return (np.cumsum(present) - 1)[labels].astype(np.int32)


def describe_borders(labels: np.ndarray, lab: np.ndarray, fit: SurfaceFit | None, noise: float, reach: int) -> Borders:
    """Collect the features of every pair of touching superpixels.

    labels  (H, W) int32 superpixels 0..S-1
    lab     (H, W, 3) float32 CIE Lab, smoothed
    fit     surface of the same grid or None
    noise   expected error of inverse depth, 1/metres
    reach   pixels from the border at which each side is sampled
    """
    pairs, values = [], []
    for axis in (0, 1):
        if labels.shape[axis] < 2:
            continue
        first, second = _border_pixels(labels, axis)
        pairs.append(np.stack([labels.ravel()[first], labels.ravel()[second]], 1))
        values.append(_pair_features(labels, lab, fit, noise, first, second, axis, reach))
    if not pairs or sum(len(p) for p in pairs) == 0:
        return Borders(np.zeros((0, 2), np.int32), np.zeros(0, np.float32), np.zeros((0, len(FEATURES)), np.float32))
    pair = np.sort(np.concatenate(pairs), axis=1).astype(np.int64)
    key, index = np.unique(pair[:, 0] * (labels.max() + 1) + pair[:, 1], return_inverse=True)
    length = np.bincount(index, minlength=len(key)).astype(np.float32)
    return Borders(
        np.stack([key // (labels.max() + 1), key % (labels.max() + 1)], 1).astype(np.int32),
        length,
        _border_means(index, len(key), np.concatenate(values), length),
    )


def _border_means(index: np.ndarray, num_borders: int, values: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Average pixel-pair features per border; geometry only over pairs with depth on both sides."""
    known = values[:, 0]
    count = np.bincount(index, known, num_borders)
    columns = [count / length]
    for name, column in zip(FEATURES[1:], values.T[1:], strict=True):
        total = np.bincount(index, column, num_borders)
        columns.append(total / (length if name in ("lightness", "chroma") else np.maximum(count, 1)))
    return np.stack(columns, 1).astype(np.float32)


def _border_pixels(labels: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of touching pixels with different labels along an axis."""
    first, second = _neighbours(axis)
    y, x = np.nonzero(labels[first] != labels[second])
    flat = y * labels.shape[1] + x
    return flat, flat + (labels.shape[1] if axis == 0 else 1)


def _pair_features(
    labels: np.ndarray,
    lab: np.ndarray,
    fit: SurfaceFit | None,
    noise: float,
    first: np.ndarray,
    second: np.ndarray,
    axis: int,
    reach: int,
) -> np.ndarray:
    """Return (P, F) float32 features of pixels that touch along an axis, given by flat indices (P,)."""
    H, W = labels.shape
    position = first // W if axis == 0 else first % W
    stride, end = (W, H - 1) if axis == 0 else (1, W - 1)
    flat = labels.ravel()
    back = first - stride * np.minimum(reach, position)
    ahead = second + stride * np.minimum(reach, end - position - 1)
    # A superpixel thinner than the reach is sampled at its border pixel instead.
    back = np.where(flat[back] == flat[first], back, first)
    ahead = np.where(flat[ahead] == flat[second], ahead, second)
    colour = np.abs(lab.reshape(-1, 3)[back] - lab.reshape(-1, 3)[ahead])
    chroma = np.sqrt(colour[:, 1] ** 2 + colour[:, 2] ** 2)
    features = np.zeros((len(first), len(FEATURES)), np.float32)
    features[:, 4], features[:, 5] = np.minimum(colour[:, 0], 60.0) / 30.0, np.minimum(chroma, 40.0) / 20.0
    if fit is not None and len(first):
        gap = (ahead - back) // stride
        features[:, :4] = _pair_geometry(fit, back, ahead, axis, gap, noise)
    return features


def _pair_geometry(
    fit: SurfaceFit, back: np.ndarray, ahead: np.ndarray, axis: int, gap: np.ndarray, noise: float
) -> np.ndarray:
    """Return (P, 4): both sides known, depth step, concave and convex crease (both radians)."""
    inverse, slope = fit.inverse.ravel(), fit.slope[..., 1 - axis].ravel()
    known = fit.valid.ravel()[back] & fit.valid.ravel()[ahead]
    # Both planes are compared at two places near the border: planes that cross in between form a crease, not a step.
    change = inverse[ahead] - inverse[back]
    near = change - (slope[ahead] * 0.75 + slope[back] * 0.25) * gap
    far = change - (slope[ahead] * 0.25 + slope[back] * 0.75) * gap
    step = np.where(near * far > 0, np.minimum(np.abs(near), np.abs(far)), 0.0)
    residual = fit.residual.ravel()
    step /= np.maximum(noise, 0.75 * (np.where(known, residual[back], 0.0) + np.where(known, residual[ahead], 0.0)))
    normal, points = fit.normal.reshape(-1, 3), fit.points.reshape(-1, 3)
    turn = normal[ahead] - normal[back]
    angle = 2.0 * np.arcsin(np.clip(0.5 * np.sqrt((turn * turn).sum(-1)), 0.0, 1.0))
    opens = (turn * (points[ahead] - points[back])).sum(-1) > 0
    step = np.minimum(step, 12.0) / 4.0
    columns = [np.ones_like(step), step, np.where(opens, 0.0, angle), np.where(opens, angle, 0.0)]
    return np.stack(columns, 1) * known[:, None]
