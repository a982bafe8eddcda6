# SPDX-License-Identifier: Apache-2.0
"""Close the surface of a sparse object cloud for drawing: a disc for every point, in the plane of its neighbours.

A thousand points are too few for discs that face the camera: small ones let the far side show through, large ones
stick out at the outline.  Here a disc lies in the surface, reaches its neighbours and ends where they end, as at a
rim.  It consists of dots, so that drawing them needs nothing new, and a dot has the colour of the point nearest to it.
For looking only: between points the surface is a guess, so the points themselves are drawn on it.
All numbers are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pc3dcli.geometry.render import Viewpoint, Visible, edge_shading, splat_radii, visible_points

NEIGHBORS = 12  # that say how far the surface goes
PLANE_NEIGHBORS = 9  # that say how it lies, the point among them
REACH_RANK = 8  # a disc reaches the neighbour of this rank: nine in ten places are then in several discs
REACH_LIMIT = 2.0  # of the median reach, for points that stray
DOTS = (6, 96)  # of a disc, least and most; fewer would not close it, and that many points do without
OVERHANG = 1.25  # times as far as its neighbours go a disc goes on, or chance leaves holes
DOT_SIZE = 1.05  # radius of a dot, times reach / sqrt(dots): a single disc is closed
POINT_SIZE = 0.0026  # of the cloud's diagonal, radius of the points drawn on the surface
POINT_SHARE = 0.1  # of the spacing that this radius is at most
POINT_SHADE = 0.7  # of the surface's brightness
SLACK = 0.5  # of the spacing that a point may lie below the guessed surface


@dataclass(frozen=True)
class Surface:
    """What is drawn in place of a cloud.

    xyz      (M, 3) float, the dots; radius (M,) float, of their discs
    source   (M,) int64, the point of the cloud whose colour a dot has
    spacing  typical reach of a disc, 0 where the dots are the points themselves
    """

    xyz: np.ndarray
    radius: np.ndarray
    source: np.ndarray
    spacing: float = 0.0


def close_surface(xyz: np.ndarray, max_dots: int) -> Surface:
    """Return discs of together some `max_dots` dots at points xyz (N, 3); of many points, or very few, those alone."""
    from scipy.spatial import cKDTree

    num_dots = min(max_dots // max(len(xyz), 1), DOTS[1])
    if num_dots < DOTS[0] or len(xyz) <= NEIGHBORS:
        return Surface(xyz, splat_radii(xyz), np.arange(len(xyz)))
    cloud = np.asarray(xyz, np.float64)
    tree = cKDTree(cloud)
    distance, neighbor = tree.query(cloud, k=NEIGHBORS + 1)  # the first is the point, or its twin
    near = cloud[neighbor[:, :PLANE_NEIGHBORS]]
    near = near - near.mean(axis=1, keepdims=True)
    plane = np.linalg.eigh(np.einsum("nki,nkj->nij", near, near))[1][:, :, 1:]  # (N, 3, 2), without the normal
    reach = distance[:, REACH_RANK]
    reach = np.minimum(reach, REACH_LIMIT * np.median(reach))
    share, direction = _sunflower(num_dots)
    beside = np.einsum("nki,nij->nkj", cloud[neighbor] - cloud[:, None], plane)  # (N, K, 2)
    extent = (beside @ direction.T).max(axis=1)  # (N, dots), how far the neighbours go in each direction
    is_drawn = reach[:, None] * share <= OVERHANG * extent
    is_drawn[:, 0] = True
    offset = reach[:, None, None] * (share[:, None] * direction)  # (N, dots, 2)
    dots = cloud[:, None] + np.einsum("nij,ndj->ndi", plane, offset)
    radius = np.broadcast_to(DOT_SIZE * reach[:, None] / np.sqrt(num_dots), is_drawn.shape)
    source = tree.query(dots[is_drawn])[1]
    return Surface(dots[is_drawn], radius[is_drawn], source, float(np.median(reach)))


def see_surface(surface: Surface, xyz: np.ndarray, view: Viewpoint) -> tuple[Visible, np.ndarray]:
    """Return what each pixel of a view shows, as numbers of the points xyz (N, 3), and its shade (H, W).

    surface  of these points; the points that are on its near side are drawn on it, darker
    """
    seen = visible_points(surface.xyz, surface.radius, view)
    index = np.where(seen.index < 0, -1, surface.source[seen.index]).astype(np.int32)
    shade = edge_shading(seen.depth)
    if surface.spacing == 0:
        return Visible(index, seen.depth), shade
    size = min(POINT_SIZE * float(np.linalg.norm(np.ptp(xyz, axis=0))), POINT_SHARE * surface.spacing)
    points = visible_points(xyz, np.full(len(xyz), size), view)
    is_point = (points.index >= 0) & (points.depth <= seen.depth + SLACK * surface.spacing)
    return Visible(np.where(is_point, points.index, index), seen.depth), np.where(is_point, POINT_SHADE, 1) * shade


def _sunflower(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return evenly spread places in the unit disc, as distance (count,) and direction (count, 2)."""
    number = np.arange(count)
    angle = number * np.pi * (3 - np.sqrt(5))
    return np.sqrt((number + 0.5) / count), np.stack((np.cos(angle), np.sin(angle)), axis=1)
