# SPDX-License-Identifier: Apache-2.0
"""Completing a label image: newly seen surface joins the smooth surface that it continues, and holes are closed.

Works on inverse depth, which is affine in the pixel on any plane: its second difference is zero on planes, negative
on creases that bulge towards the camera, positive on hollow ones.  Objects meet their support in hollow creases, so
labels may pass the former and not the latter.  All thresholds are ours.
"""

from __future__ import annotations

import cv2
import numpy as np

HOLLOW = 0.6  # change of slope (metres a metre) from which a crease separates; tan 31 degrees
MIN_CONTACT = 3  # pixels


def surface_edges(depth: np.ndarray, focal: float) -> np.ndarray:
    """Mark depth steps and hollow creases.

    depth    (H, W) float32, metres, 0 where missing
    focal    pixels
    returns  (H, W) bool, also True where depth is missing
    """
    valid = (depth > 0).astype(np.float32)
    inverse = np.divide(1.0, depth, out=np.zeros_like(depth), where=depth > 0)
    weight = cv2.blur(valid, (3, 3), borderType=cv2.BORDER_REPLICATE)
    smooth = cv2.blur(inverse, (3, 3), borderType=cv2.BORDER_REPLICATE) / np.maximum(weight, 0.1)
    squared = depth * depth
    step = (0.03 + 0.01 * squared) / np.maximum(squared, 1e-6)  # in inverse depth
    hollow = (HOLLOW + 0.04 * squared) / np.maximum(depth, 1e-3) / focal  # a wider margin where depth is noisier
    edges = depth <= 0
    for axis in (0, 1):
        raw, reach = _second_difference(inverse, 1, axis), 2
        edges |= np.abs(raw) > step
        edges |= _second_difference(smooth, reach, axis) > hollow * reach
    return edges


def grow_labels(labels: np.ndarray, depth: np.ndarray, focal: float) -> np.ndarray:
    """Give unknown pixels the label of the known surface that they continue.

    Patches grow at half resolution, where a crease is as visible and noise is averaged; single pixels then follow
    the neighbour that is closest in depth.

    labels   (H, W) int32: -1 unknown, 0 none, else a track
    depth    (H, W) float32, metres, 0 where missing
    focal    pixels
    returns  (H, W) int32; pixels that continue nothing stay -1
    """
    grown = labels.copy()
    coarse, near = labels[::2, ::2], depth[::2, ::2]
    patches = _grow_patches(coarse, near, focal / 2)
    v, u = np.nonzero((labels < 0) & (depth > 0))
    gap = np.abs(near[v // 2, u // 2] - depth[v, u])
    # a pixel follows its half-resolution sample if that was unknown too and lies on the same surface
    same = (coarse[v // 2, u // 2] < 0) & (gap < _tolerance(depth[v, u]))
    grown[v[same], u[same]] = patches[v[same] // 2, u[same] // 2]
    for _ in range(4):
        grown = _spread_once(grown, depth)
    return grown


def _grow_patches(labels: np.ndarray, depth: np.ndarray, focal: float) -> np.ndarray:
    """Label each smooth patch of unknown pixels as most known pixels around it are."""
    unknown = (labels < 0) & (depth > 0)
    smooth = ~surface_edges(depth, focal)
    num_patches, patches = cv2.connectedComponents((unknown & smooth).view(np.uint8), connectivity=4)
    if num_patches == 1:
        return labels
    winner = _label_in_contact(patches, np.where(smooth, labels, -1), num_patches)
    return np.where(patches > 0, winner[patches], labels)


def fill_missing(labels: np.ndarray, holes: np.ndarray, reach: float) -> None:
    """Copy to each pixel of `holes` (H, W) bool the label of the nearest other pixel, up to `reach` pixels away.

    labels  (H, W) int32, changed in place
    """
    if not holes.any() or holes.all():
        return
    distance, nearest = cv2.distanceTransformWithLabels(
        holes.view(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    source = np.zeros(int(nearest.max()) + 1, np.int32)
    source[nearest[~holes]] = labels[~holes]
    near = holes & (distance <= reach)
    labels[near] = source[nearest[near]]


def _second_difference(image: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """Return image[k - reach] - 2 image[k] + image[k + reach], 0 at the border and where a value is missing (0)."""
    image = image if axis else image.T
    low, middle, high = image[:, : -2 * reach], image[:, reach:-reach], image[:, 2 * reach :]
    difference = np.zeros_like(image)
    np.multiply(low - 2 * middle + high, (low > 0) & (high > 0), out=difference[:, reach:-reach])
    return difference if axis else difference.T


def _label_in_contact(patches: np.ndarray, labels: np.ndarray, num_patches: int) -> np.ndarray:
    """Return (num_patches,) int32: the label that most known neighbours of a patch have, -1 without a majority."""
    codes = []
    width = int(labels.max(initial=0)) + 1
    for a, b in ((patches[:, :-1], labels[:, 1:]), (patches[:, 1:], labels[:, :-1])):
        codes.append(_contact_codes(a, b, width))
    for a, b in ((patches[:-1], labels[1:]), (patches[1:], labels[:-1])):
        codes.append(_contact_codes(a, b, width))
    pairs, counts = np.unique(np.concatenate(codes), return_counts=True)
    total = np.bincount(pairs // width, weights=counts, minlength=num_patches)
    order = np.argsort(counts, kind="stable")  # the last write wins: the largest count
    winner, contact = np.full(num_patches, -1, np.int32), np.zeros(num_patches, np.int64)
    winner[pairs[order] // width] = pairs[order] % width
    contact[pairs[order] // width] = counts[order]
    winner[(contact < MIN_CONTACT) | (contact <= 0.5 * total)] = -1
    winner[0] = -1
    return winner


def _contact_codes(patches: np.ndarray, labels: np.ndarray, width: int) -> np.ndarray:
    touching = (patches > 0) & (labels >= 0)
    return patches[touching].astype(np.int64) * width + labels[touching]


def _spread_once(labels: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Let unknown pixels take the label of the 4-neighbour closest in depth."""
    v, u = np.nonzero((labels < 0) & (depth > 0))
    if not len(v):
        return labels
    H, W = labels.shape
    best = _tolerance(depth[v, u])
    spread = np.full(len(v), -1, np.int32)
    for dv, du in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        y, x = np.clip(v + dv, 0, H - 1), np.clip(u + du, 0, W - 1)
        gap = np.abs(depth[y, x] - depth[v, u])
        better = (labels[y, x] >= 0) & (depth[y, x] > 0) & (gap < best)
        spread[better], best = labels[y, x][better], np.where(better, gap, best)
    result = labels.copy()
    result[v, u] = spread
    return result


def _tolerance(z: np.ndarray) -> np.ndarray:
    """Return how far neighbouring pixels of one surface may differ in depth, metres."""
    return 0.02 + 0.005 * z * z
