# SPDX-License-Identifier: Apache-2.0
"""Completing a label image: newly seen surface joins the smooth surface that it continues, and holes are closed.

Works on inverse depth, which is affine in the pixel on any plane: its second difference is zero on planes, negative
on creases that bulge towards the camera, positive on hollow ones.  Objects meet their support in hollow creases, so
labels may pass the former and not the latter.  All thresholds are ours.
"""

from __future__ import annotations

import cv2
import numpy as np

STEP = 0.03  # metres, a step between neighbouring pixels separates
HOLLOW = 0.6  # change of slope (metres a metre) from which a crease separates; tan 31 degrees
MIN_CONTACT = 3  # pixels
GAP_AREA = 30  # pixels, the largest patch that single pixels may fill from its border
CONTACT_SHARE = 0.5  # of the square root of a patch's area: a wall seen past a shelf touches it in a few pixels only


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
    step = STEP / np.maximum(depth * depth, 1e-6)  # in inverse depth
    crease = 2.5 / np.maximum(depth, 1e-3) / focal  # what a bulging right angle adds on its own
    hollow = HOLLOW / np.maximum(depth, 1e-3) / focal
    edges = depth <= 0
    for axis in (0, 1):
        raw, bend, reach = _second_difference(inverse, 1, axis), _second_difference(smooth, 2, axis), 2
        # on most pixels of a frame these differences are nothing but noise, whatever the sensor
        margin = step + 3 * _typical(raw, depth)
        edges |= (raw > margin) | (raw < -margin - crease)
        edges |= bend > hollow * reach + 3 * _typical(bend, depth)
    # the differences end two pixels before the border, where new surface comes in: carry the edges on to it
    edges[:, :2] |= edges[:, 2:3]
    edges[:, -2:] |= edges[:, -3:-2]
    edges[:2] |= edges[2:3]
    edges[-2:] |= edges[-3:-2]
    return edges


def _typical(difference: np.ndarray, depth: np.ndarray) -> float:
    """Return the median size of a difference over the pixels that have depth (a ninth of them)."""
    sample = np.abs(difference[1::3, 1::3])[depth[1::3, 1::3] > 0]
    return float(np.median(sample)) if sample.size else 0.0


def grow_labels(labels: np.ndarray, depth: np.ndarray, focal: float) -> tuple[np.ndarray, np.ndarray]:
    """Give unknown pixels the label of the known surface that they continue.

    Patches grow at half resolution, where a crease is as visible and noise is averaged; single pixels then follow
    the neighbour that is closest in depth.

    labels   (H, W) int32: -1 unknown, 0 none, else a track
    depth    (H, W) float32, metres, 0 where missing
    focal    pixels
    returns  (H, W) int32, -1 where a pixel continues nothing, and (H, W) bool, pixels that only followed a neighbour:
             good enough to show, too weak to grow from, or labels would creep over the floor from where a leg meets it
    """
    coarse, near = labels[::2, ::2], depth[::2, ::2]
    patches, is_foreign = _grow_patches(coarse, near, focal / 2)
    v, u = np.nonzero((labels < 0) & (depth > 0))
    y, x = v // 2, u // 2
    # a pixel follows its half-resolution sample if that was unknown too and lies on the same surface
    same = (coarse[y, x] < 0) & (np.abs(near[y, x] - depth[v, u]) < _tolerance(depth[v, u]))
    grown = labels.copy()
    grown[v[same], u[same]] = patches[y[same], x[same]]
    waiting = np.zeros(labels.shape, bool)
    waiting[v, u] = ~is_foreign[y, x]
    waiting &= grown < 0
    _follow_neighbors(grown, depth, waiting)
    return grown, waiting & (grown >= 0)


def _grow_patches(labels: np.ndarray, depth: np.ndarray, focal: float) -> tuple[np.ndarray, np.ndarray]:
    """Label each smooth patch of unknown pixels as most known pixels around it are.

    returns  (H, W) int32 labels, and (H, W) bool, patches too large to be a mere gap that continue nothing
    """
    unknown = (labels < 0) & (depth > 0)
    smooth = ~surface_edges(depth, focal)
    num_patches, patches = cv2.connectedComponents((unknown & smooth).view(np.uint8), connectivity=4)
    area = np.bincount(patches.reshape(-1), minlength=num_patches)
    winner = _label_in_contact(patches, np.where(smooth, labels, -1), area)
    is_foreign = (winner < 0) & (area > GAP_AREA)
    is_foreign[0] = False
    return np.where(patches > 0, winner[patches], labels), is_foreign[patches]


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


def _label_in_contact(patches: np.ndarray, labels: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return (P,) int32: the label that most known neighbours of a patch have, -1 without a majority; area (P,)."""
    codes, num_patches = [], len(area)
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
    enough = np.maximum(MIN_CONTACT, CONTACT_SHARE * np.sqrt(area))
    winner[(contact < enough) | (contact <= 0.5 * total)] = -1
    winner[0] = -1
    return winner


def _contact_codes(patches: np.ndarray, labels: np.ndarray, width: int) -> np.ndarray:
    touching = (patches > 0) & (labels >= 0)
    return patches[touching].astype(np.int64) * width + labels[touching]


def _follow_neighbors(labels: np.ndarray, depth: np.ndarray, waiting: np.ndarray) -> None:
    """Let pixels of `waiting` (H, W) bool take the label of the 4-neighbour closest in depth, six times, in place.

    A pixel is passed over while an unknown neighbour is much closer: that one may get its label from another side.
    """
    H, W = labels.shape
    v, u = np.nonzero(waiting)
    y = np.clip(v + np.array([[-1], [1], [0], [0]]), 0, H - 1)
    x = np.clip(u + np.array([[0], [0], [-1], [1]]), 0, W - 1)
    pixels, around = v * W + u, y * W + x  # (N,), (4, N)
    flat, z = labels.reshape(-1), depth.reshape(-1)
    gap = np.where((z[around] > 0) & (around != pixels), np.abs(z[around] - z[pixels]), np.inf)
    limit = np.minimum(2 * gap.min(axis=0, initial=np.inf) + 0.01, 2 * _tolerance(z[pixels]))
    gap[gap > limit] = np.inf
    for _ in range(6):
        usable = np.where(flat[around] >= 0, gap, np.inf)
        best = np.argmin(usable, axis=0)[None]
        found = np.isfinite(np.take_along_axis(usable, best, axis=0)[0])
        flat[pixels[found]] = flat[np.take_along_axis(around, best, axis=0)[0][found]]
        pixels, around, gap = pixels[~found], around[:, ~found], gap[:, ~found]


def _tolerance(z: np.ndarray) -> np.ndarray:
    """Return how far neighbouring pixels of one surface may differ in depth, metres."""
    return 0.02 + 0.005 * z * z
