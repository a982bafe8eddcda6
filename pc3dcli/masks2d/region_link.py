# SPDX-License-Identifier: Apache-2.0
"""Joins parts of one surface that something in front cuts into pieces.

Two regions belong together when one plane explains the depth of both about as well as each alone, their colours are
alike, and whatever lies between them in the image is in front of that plane or was not seen.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pc3dcli.geometry.normals import SurfaceFit


@dataclass(frozen=True)
class LinkLimits:
    """When two pieces are one surface; all values ours.

    noise       expected error of inverse depth, 1/metres
    misfit      largest joint residual of either piece, in units of noise
    colour      least overlap of colour histograms, in [0, 1]
    min_pixels  smallest piece considered, trusted pixels
    """

    noise: float
    misfit: float
    colour: float
    min_pixels: float


@dataclass(frozen=True, eq=False)
class RegionMoments:
    """Sums over pixels with depth for R regions: moments (R, 10) of (1, u, v, w, uu, uv, vv, uw, vw, ww), w = 1/z;
    centre (R, 2) mean pixel; colour (R, B) normalised histogram. Pixel coordinates are divided by the image width."""

    moments: np.ndarray
    centre: np.ndarray
    colour: np.ndarray


def trusted_depth(fit: SurfaceFit, geometry_edges: np.ndarray, noise: float) -> np.ndarray:
    """(H, W) bool: valid and clear of silhouettes and creases.

    Mixed pixels at silhouettes lie centimetres off their surface; a few would swamp every misfit below.
    """
    calm = (fit.valid & (fit.residual < noise) & (geometry_edges < 90)).astype(np.uint8)
    return cv2.erode(calm, np.ones((5, 5), np.uint8), borderValue=0) > 0


def superpixel_moments(
    labels: np.ndarray, fit: SurfaceFit, lab: np.ndarray, calm: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return per superpixel the (S, 10) depth moments and (S, B) colour counts.

    labels  (H, W) int32 superpixels 0..S-1
    lab     (H, W, 3) float32 CIE Lab
    calm    (H, W) bool, pixels with trusted depth
    """
    S = labels.max() + 1
    W = labels.shape[1]
    y, x = np.nonzero(calm)
    where = labels[y, x]
    u, v, w = x / W, y / W, fit.inverse[y, x].astype(np.float64)
    columns = (None, u, v, w, u * u, u * v, v * v, u * w, v * w, w * w)
    moments = np.stack([np.bincount(where, column, S) for column in columns], 1)
    return moments, _colour_counts(labels, lab, S)


def _colour_counts(labels: np.ndarray, lab: np.ndarray, num_labels: int) -> np.ndarray:
    """(S, 5 * 6 * 6) pixels per cell of CIE Lab."""
    cell = (np.clip(lab[..., 0] / 20.0, 0, 4.99)).astype(np.int32) * 36
    cell += np.clip((lab[..., 1] + 45.0) / 15.0, 0, 5.99).astype(np.int32) * 6
    cell += np.clip((lab[..., 2] + 45.0) / 15.0, 0, 5.99).astype(np.int32)
    return np.bincount((labels * 180 + cell).ravel(), minlength=num_labels * 180).reshape(num_labels, 180)


def region_moments(members: np.ndarray, moments: np.ndarray, colour: np.ndarray) -> RegionMoments:
    """Sum superpixel moments over regions given as (R, S) bool."""
    weight = members.astype(np.float64)
    total = weight @ moments
    centre = total[:, 1:3] / np.maximum(total[:, :1], 1e-9)
    counts = weight @ colour
    return RegionMoments(total, centre, counts / np.maximum(counts.sum(1, keepdims=True), 1.0))


def link_pieces(
    regions: RegionMoments, owner: np.ndarray, region_label: np.ndarray, fit: SurfaceFit, limits: LinkLimits
) -> np.ndarray:
    """Return (L, 2) int32 pairs of owners that look like one occluded surface.

    regions       R regions (patches of the owners)
    owner         (R,) int32, object each region belongs to
    region_label  (H, W) int32, region of each pixel or -1
    fit           surface of the same grid
    """
    usable = np.nonzero(regions.moments[:, 0] >= limits.min_pixels)[0]
    alone = np.full(len(owner), np.inf)
    alone[usable] = _misfit(regions.moments[usable], _plane_of(regions.moments[usable]))
    usable = usable[np.sqrt(alone[usable]) <= limits.misfit * limits.noise]
    first, second = (usable[i] for i in np.triu_indices(len(usable), 1))
    likeness = np.minimum(regions.colour[first], regions.colour[second]).sum(1)
    maybe = (owner[first] != owner[second]) & (likeness >= limits.colour)
    first, second = first[maybe], second[maybe]
    joint = regions.moments[first] + regions.moments[second]
    planes = _plane_of(joint)
    fits = np.ones(len(first), bool)
    for side in (first, second):
        # Each piece has to fit by itself: in a sum a large piece would hide how badly a small one fits.
        error = np.sqrt(_misfit(regions.moments[side], planes)) / limits.noise
        fits &= error <= np.minimum(np.maximum(1.3 * np.sqrt(alone[side]) / limits.noise, 1.0), limits.misfit)
    links = [
        (owner[first[k]], owner[second[k]])
        for k in np.nonzero(fits)[0]
        if _hidden_between(regions, planes[k], (first[k], second[k]), region_label, fit, limits.noise)
    ]
    return np.array(sorted(set(links)), np.int32).reshape(-1, 2)


def _plane_of(moments: np.ndarray) -> np.ndarray:
    """(…, 3) least squares (a, b, c) of w = a u + b v + c."""
    n, u, v, w, uu, uv, vv, uw, vw, _ = np.moveaxis(moments, -1, 0)
    normal = np.stack([np.stack([uu, uv, u], -1), np.stack([uv, vv, v], -1), np.stack([u, v, n], -1)], -2)
    normal = normal + 1e-9 * np.maximum(n, 1.0)[..., None, None] * np.eye(3)
    return np.linalg.solve(normal, np.stack([uw, vw, w], -1)[..., None])[..., 0]


def _misfit(moments: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Mean squared distance of w to given planes (..., 3), (1/metres)^2."""
    n, u, v, w, uu, uv, vv, uw, vw, ww = np.moveaxis(moments, -1, 0)
    a, b, c = np.moveaxis(planes, -1, 0)
    square = a * a * uu + b * b * vv + c * c * n + 2 * (a * b * uv + a * c * u + b * c * v)
    return np.maximum(ww - 2 * (a * uw + b * vw + c * w) + square, 0.0) / np.maximum(n, 1.0)


def _hidden_between(
    regions: RegionMoments, plane: np.ndarray, pair: tuple, region_label: np.ndarray, fit: SurfaceFit, noise: float
) -> bool:
    """True when the straight line between two regions is covered by nearer or unseen pixels."""
    H, W = region_label.shape
    a, b = pair
    t = np.linspace(0.0, 1.0, 40)[:, None]
    line = regions.centre[a] * (1 - t) + regions.centre[b] * t
    x = np.clip(np.round(line[:, 0] * W).astype(int), 0, W - 1)
    y = np.clip(np.round(line[:, 1] * W).astype(int), 0, H - 1)
    outside = (region_label[y, x] != a) & (region_label[y, x] != b)
    if not outside.any():
        return True
    expected = plane[0] * line[:, 0] + plane[1] * line[:, 1] + plane[2]
    hidden = ~fit.valid[y, x] | (fit.inverse[y, x] > expected + 2.0 * noise)
    return hidden[outside].mean() >= 0.85 and (fit.valid[y, x] & hidden & outside).any()
