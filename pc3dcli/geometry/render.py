# SPDX-License-Identifier: Apache-2.0
"""Draw point clouds without a screen: z-buffered discs sized by distance, edges shaded from depth.

A picture is made in two steps, so that several colourings share the costly one: `visible_points` says which point
each pixel shows, `paint` looks its colour up.  Discs are slightly convex, so that of two neighbouring points of a
surface each shows its own half.  Shading is eye-dome lighting (Boucheny 2009): a pixel darkens by how far its
neighbours stand in front of it, which needs no normals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_SPLAT = 28  # pixels; a nearer point would cover what lies beside it.  Ours
MAX_SHARE = 0.012  # of the size of the scene, the largest disc: sparse clouds stay clouds.  Ours
NEAR = 0.05  # metres in front of the camera where drawing begins; ours
EDGE_STRENGTH = 9.0  # darkening per doubling of distance; ours
EDGE_LIMIT = 0.12  # one neighbour's largest share, in doublings: outlines stay translucent; ours
BACKGROUND = (250, 250, 248)


@dataclass(frozen=True)
class Viewpoint:
    """A camera and what it leaves out.

    K               (3, 3) float64 pixels, origin at the centre of the top-left pixel
    world_from_cam  (4, 4) float64, x right, y down, z forward
    size            (H, W)
    hidden          (N,) bool, points this view does not draw, None for all points
    """

    name: str
    K: np.ndarray
    world_from_cam: np.ndarray
    size: tuple[int, int]
    hidden: np.ndarray | None = None


@dataclass(frozen=True)
class Visible:
    """What each pixel of a view shows.

    index  (H, W) int32, the point's number in the cloud, -1 for background
    depth  (H, W) float32, metres along the optical axis, inf for background
    """

    index: np.ndarray
    depth: np.ndarray


def splat_radii(xyz: np.ndarray, *, neighbors: int = 5, limit: float = 2.5) -> np.ndarray:
    """Return the disc radius of each point that closes surfaces between it and its neighbours.

    xyz        (N, 3) float, metres
    neighbors  the radius is half the distance to the neighbour of this rank, a little enlarged
    limit      points without neighbours within this many times the median are strays, and get small discs
    returns    (N,) float32, metres, none above `MAX_SHARE` of the diagonal that spans the central 98 % of the points
    """
    from scipy.spatial import cKDTree

    if len(xyz) < 2:
        return np.full(len(xyz), 0.01, np.float32)
    origin = np.asarray(xyz, np.float64).mean(0)
    local = np.ascontiguousarray(xyz - origin, dtype=np.float32)
    tree = cKDTree(local, balanced_tree=False, compact_nodes=False)
    rank = min(neighbors, len(xyz) - 1)
    sample = local if len(local) <= 20_000 else local[:: len(local) // 20_000]
    typical = float(np.median(tree.query(sample, k=[rank + 1])[0]))
    # the search stops at the limit, which bounds its cost where points are sparse
    reach, _ = tree.query(local, k=[rank + 1], eps=0.3, distance_upper_bound=max(limit * typical, 1e-9))
    reach = np.where(np.isfinite(reach[:, 0]), reach[:, 0], 0.0)  # large discs of strays would hide what is there
    largest = MAX_SHARE * float(np.linalg.norm(np.diff(np.percentile(sample, (1, 99), axis=0), axis=0)))
    least = max(0.3 * typical, 1e-6)  # a disc of twins is no point
    return np.clip(0.6 * reach, least, None).clip(None, max(largest, 1e-6)).astype(np.float32)


def visible_points(xyz: np.ndarray, radius: np.ndarray, view: Viewpoint) -> Visible:
    """Draw every point as a disc and keep the nearest at each pixel.

    xyz      (N, 3) float, metres, world frame
    radius   (N,) float, disc radii in metres
    view     camera, and the points it leaves out
    returns  index and depth images; of points at the same place the first in the cloud is kept
    """
    height, width = view.size
    pad = 2 * MAX_SPLAT  # discs of points beside the picture reach into it, and never out of the buffer
    padded_width = width + 2 * pad
    cell, depth, pixels, index = _project(xyz, radius, view, pad)
    order = np.argsort(depth, kind="stable")[::-1]  # far to near, and of equal depths the first point last
    front = np.full((height + 2 * pad) * padded_width, -1, np.int64)
    front[cell[order]] = order  # of repeated cells the last one written stays: the nearest
    kept = front[front >= 0]
    pixels = pixels[kept]
    by_size = np.argsort(-pixels, kind="stable")  # large discs first: each offset below is a prefix
    kept, pixels = kept[by_size], pixels[by_size]
    depth_image, index_image = _draw_discs(
        cell[kept], depth[kept], pixels, index[kept], radius, padded_width, front.size
    )
    shape, inner = (height + 2 * pad, padded_width), (slice(pad, pad + height), slice(pad, pad + width))
    return Visible(index_image.reshape(shape)[inner].copy(), depth_image.reshape(shape)[inner].copy())


def edge_shading(depth: np.ndarray) -> np.ndarray:
    """Return eye-dome shading of a depth image.

    depth    (H, W) float32, metres, inf for background
    returns  (H, W) float32 in (0, 1], 1 where no neighbour stands in front
    """
    log_depth = np.log2(depth)
    shadow = np.zeros_like(log_depth)
    for step in (1, 2):
        ahead = log_depth[:, step:], log_depth[:, :-step], log_depth[step:], log_depth[:-step]
        for here, there in ((0, 1), (1, 0), (2, 3), (3, 2)):
            target = (shadow[:, step:], shadow[:, :-step], shadow[step:], shadow[:-step])[here]
            with np.errstate(invalid="ignore"):  # background against background
                gap = ahead[here] - ahead[there]
            np.clip(gap, 0.0, EDGE_LIMIT, out=gap)
            target += gap
    shade = np.exp(-EDGE_STRENGTH / 8 * np.nan_to_num(shadow))
    shade[~np.isfinite(depth)] = 1.0
    return shade


def paint(
    visible: Visible,
    shade: np.ndarray,
    colors: np.ndarray,
    background: tuple[int, int, int] = BACKGROUND,
) -> np.ndarray:
    """Colour a view.

    visible  what each pixel shows
    shade    (H, W) float32, brightness factor of each pixel, from `edge_shading`
    colors   (N, 3) uint8 RGB
    returns  (H, W, 3) uint8 RGB
    """
    table = np.concatenate((colors, np.array([background], np.uint8)))  # index -1 is the last row
    return (table[visible.index] * shade[..., None] + 0.5).astype(np.uint8)


def _project(xyz, radius, view: Viewpoint, pad: int):
    """Return buffer cell, depth, disc radius in pixels and cloud index of the points in front of the camera."""
    rotation, position = view.world_from_cam[:3, :3], view.world_from_cam[:3, 3]
    # the subtraction in float64: georeferenced clouds have coordinates that float32 cannot tell apart
    local = (np.asarray(xyz) - position).astype(np.float32) @ rotation.astype(np.float32)  # (N, 3) camera frame
    height, width = view.size
    depth = local[:, 2]
    usable = depth > NEAR
    if view.hidden is not None:
        usable &= ~view.hidden
    scale = np.divide(1.0, depth, out=np.zeros_like(depth), where=usable)
    column = local[:, 0] * scale * np.float32(view.K[0, 0]) + np.float32(view.K[0, 2])
    row = local[:, 1] * scale * np.float32(view.K[1, 1]) + np.float32(view.K[1, 2])
    margin = MAX_SPLAT + 0.49
    usable &= (column > -margin) & (column < width - 1 + margin) & (row > -margin) & (row < height - 1 + margin)
    index = np.flatnonzero(usable)
    cell = (
        (np.rint(row[index]).astype(np.int64) + pad) * (width + 2 * pad) + np.rint(column[index]).astype(np.int64) + pad
    )
    pixels = np.rint(radius[index] * scale[index] * np.float32(view.K[0, 0]) + 0.2)
    return cell, depth[index], np.clip(pixels, 0, MAX_SPLAT).astype(np.int32), index.astype(np.int32)


def _draw_discs(cell, depth, pixels, index, radius, padded_width: int, num_cells: int):
    """Draw discs sorted by falling radius; their centres are distinct cells, so each offset touches a cell once."""
    depth_image = np.full(num_cells, np.inf, np.float32)
    index_image = np.full(num_cells, -1, np.int32)
    # a disc's rim lies half its radius behind its centre
    bulge = 0.5 * radius[index] / np.maximum(pixels, 1).astype(np.float32) ** 2
    for distance, shift in _disc_offsets(padded_width):
        # radius r covers squared distances up to r (r + 1)
        count = np.searchsorted(-(pixels * (pixels + 1)), -distance, side="right")
        if count == 0:
            break
        there = cell[:count] + shift
        candidate = depth[:count] + bulge[:count] * np.float32(distance)
        closer = np.flatnonzero(candidate < depth_image[there])
        there = there[closer]
        depth_image[there] = candidate[closer]
        index_image[there] = index[closer]
    return depth_image, index_image


def _disc_offsets(padded_width: int) -> list[tuple[int, int]]:
    """Return (squared distance, shift in cells) of every pixel of the largest disc, nearest first."""
    reach = range(-MAX_SPLAT, MAX_SPLAT + 1)
    offsets = sorted((dy * dy + dx * dx, dy * padded_width + dx) for dy in reach for dx in reach)
    return [offset for offset in offsets if offset[0] <= MAX_SPLAT * (MAX_SPLAT + 1)]
