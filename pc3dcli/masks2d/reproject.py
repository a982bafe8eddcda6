# SPDX-License-Identifier: Apache-2.0
"""Carry masks through posed depth video by geometry alone; the propagator that needs no network and no colour.

A pixel of the new frame is looked up, in this order: in the previous frame (back-projected, projected, depth-tested:
sharp), in a voxel map of everything seen (revisits, what was hidden before), and, where the surface was never seen,
in the smooth surface that it continues (growth.py).  Missing depth takes the nearest label.  The map makes a lost
object's return free, which is the policy's geometric re-identification.  Ours; no paper describes it.

One label a pixel and a voxel: where tracks overlap, the smaller one keeps the place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from pc3dcli.errors import InputError, check_ranges
from pc3dcli.geometry.cameras import project_points, visible_pixels
from pc3dcli.masks2d.growth import fill_missing, grow_labels
from pc3dcli.masks2d.voxel_map import UNSEEN, VoxelMap

GUESS = 1 << 22  # added to a label that is a guess while it is carried; float32 holds the sum exactly


@dataclass(frozen=True)
class ReprojectConfig:
    """All ours."""

    voxel: float = 0.02  # metres, of the map
    vote_step: int = 3  # every how manyth pixel of a row and column votes
    gap: float = 0.012  # metres; a pixel is seen again if depths agree within gap + 4 noise z^2
    max_noise: float = 0.0025  # a metre; the noise, in units of z^2, is measured a frame and cut here
    flat: float = 0.03  # metres; a pixel that bends more than this lies beside a step
    flying: float = 0.1  # metres of depth range in 3 x 3 pixels from which none of them votes, spec section 5
    fill_share: float = 0.015  # of the image width, how far labels reach into missing depth
    rim: int = 4  # pixels along a seed's border that must agree in depth with its inside
    tau_complete: float = 0.5  # IoU from which a matched detection completes its track: a leg, a new side
    min_seen: int = 20  # voxels of a dormant track that a frame must see before a detection can revive it

    def __post_init__(self) -> None:
        check_ranges(
            self,
            voxel=(0.001, 10),
            vote_step=(1, 1000),
            gap=(0, 100),
            max_noise=(0, 1),
            flat=(0, 100),
            flying=(0, 100),
            fill_share=(0, 1),
            rim=(0, 1000),
            tau_complete=(0, 1),
            min_seen=(0, 1e9),
        )


@dataclass
class _Seen:
    """One processed frame.

    labels   (H, W) int32, UNSEEN where nothing is known, 0 where it is known that no track is
    is_seed  (H, W) bool, what detections drew
    is_weak  (H, W) bool, labels that are shown but neither vote nor go on to the next frame
    is_guess (H, W) bool, labels that growth alone gave: they go on but do not vote, and any detection may take them
    """

    depth: np.ndarray
    K: np.ndarray
    world_from_cam: np.ndarray
    labels: np.ndarray
    is_seed: np.ndarray
    is_weak: np.ndarray
    is_guess: np.ndarray
    shown: set[int] = field(default_factory=set)  # tracks whose masks were asked for or drawn


class Reproject:
    """A propagator (papers/granularity/policy.py) over views with `depth`, `K`, `world_from_cam` of one grid."""

    def __init__(self, config: ReprojectConfig = ReprojectConfig()) -> None:
        """Start a scene."""
        self.config = config
        self.tau_complete = config.tau_complete
        self.map = VoxelMap(config.voxel)
        self._now: _Seen | None = None
        self._t: int | None = None
        self._known: set[int] = set()

    def propagate(self, t: int, view, tracks: Sequence[int]) -> dict[int, np.ndarray]:
        """Return the (H, W) bool masks of the visible ones of `tracks`."""
        now = self._advance(t, view)
        now.shown = set(tracks)
        area = _areas(now.labels, max(tracks, default=0))
        return {k: now.labels == k for k in tracks if area[k]}

    def add_object(self, t: int, view, track: int, mask: np.ndarray) -> None:
        """Draw a track on the current frame.

        A new one lies under smaller tracks and over what no shown track holds; a known one takes free pixels only,
        so that a detection of the whole completes what it matched and never moves a border.
        """
        now = self._advance(t, view)
        solid = _on_one_surface(mask, now.depth, self.config.rim)
        area = _areas(now.labels, max([track, *now.shown]))
        keeps = np.zeros(len(area) + 1, bool)  # by track; the last one is that of UNSEEN
        for other in now.shown - {track}:
            keeps[other] = track in self._known or area[other] < np.count_nonzero(mask)
        drawn = solid & (~keeps[now.labels] | now.is_guess)
        now.labels[drawn] = track
        now.is_seed |= drawn
        now.is_weak &= ~drawn
        now.is_guess &= ~drawn
        now.shown.add(track)
        self._known.add(track)

    def assumed(self, t: int, view) -> np.ndarray:
        """Return (H, W) bool, the pixels that a track holds only because its surface seems to go on there."""
        now = self._advance(t, view)
        return now.is_guess | now.is_weak

    def remove_object(self, track: int) -> None:
        """Forget a track."""
        self._known.discard(track)
        self.map.forget(track)
        if self._now is not None:
            self._now.labels[self._now.labels == track] = 0

    def overlap(self, t: int, view, mask: np.ndarray, tracks: Sequence[int]) -> dict[int, float]:
        """Return the share of each track's visible voxels that a (H, W) bool mask covers.

        Tracks of which the frame sees less than `min_seen` voxels are left out.
        """
        now = self._advance(t, view)
        centers, owner = self.map.centers(tracks)
        index, pixels = visible_pixels(centers, now.depth, now.K, now.world_from_cam)
        size = max(tracks, default=0) + 1
        seen = np.bincount(owner[index], minlength=size)
        hit = np.bincount(owner[index], weights=mask.reshape(-1)[pixels], minlength=size)
        return {k: float(hit[k] / seen[k]) for k in tracks if seen[k] >= self.config.min_seen}

    def candidates(self, t: int, view, dormant: Sequence[int]) -> list[int]:
        """Return the dormant tracks that hold a pixel of the frame."""
        area = _areas(self._advance(t, view).labels, max(dormant, default=0))
        return [k for k in dormant if area[k]]

    def reverse(self, t: int, views: Sequence, tracks: Sequence[int]) -> Iterator[dict[int, np.ndarray]]:
        """Yield the masks of `tracks`, just drawn on frame t, on each earlier view, nearest first."""
        now = self._now
        wanted = np.isin(now.labels, tracks)
        reference = _only_labels(now.depth, now, np.where(wanted, now.labels, 0))
        for view in views:
            labels = np.zeros(view.size, np.int32)
            window = _window_of(reference, view, margin=8)
            if window is not None:
                depth = _depth_of(view)
                found = _look_back(depth[window], window, view, reference, self.config)
                found[found == UNSEEN] = 0
                fill_missing(found, depth[window] <= 0, self.config.fill_share * view.size[1])
                labels[window] = found
                reference = _only_labels(depth, view, labels)
            yield {k: labels == k for k in tracks if (labels == k).any()}

    def _advance(self, t: int, view) -> _Seen:
        """Return frame t with its labels, working it out on the first call."""
        if self._t == t and self._now is not None:
            return self._now
        if self._now is not None:
            self._now.labels[self._now.is_weak] = UNSEEN
            self._vote(self._now)
        depth = _depth_of(view)
        labels, is_weak, is_guess = self._labels_of(depth, view)
        is_seed = np.zeros(depth.shape, bool)
        self._now, self._t = _Seen(depth, view.K, view.world_from_cam, labels, is_seed, is_weak, is_guess), t
        return self._now

    def _labels_of(self, depth: np.ndarray, view) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the labels of a new frame, which of them are weak, and which are guesses."""
        if self._now is None:
            return np.zeros(depth.shape, np.int32), np.zeros(depth.shape, bool), np.zeros(depth.shape, bool)
        everything = (slice(0, depth.shape[0]), slice(0, depth.shape[1]))
        labels = _look_back(depth, everything, view, self._now, self.config)
        is_guess = labels >= GUESS
        labels[is_guess] -= GUESS
        self._look_up(labels, depth, view)
        unseen = labels == UNSEEN
        labels, is_weak = grow_labels(labels, depth, float(view.K[0, 0]))
        is_guess |= unseen & (labels > 0) & ~is_weak
        fill_missing(labels, depth <= 0, self.config.fill_share * depth.shape[1])
        return labels, is_weak, is_guess

    def _look_up(self, labels: np.ndarray, depth: np.ndarray, view) -> None:
        """Ask the map about pixels that the previous frame did not show: at the surface, then a voxel off it."""
        flat, z = labels.reshape(-1), depth.reshape(-1)
        for offset in (0.0, self.config.voxel, -self.config.voxel):
            pixels = np.flatnonzero((flat == UNSEEN) & (z > 0))
            if not len(pixels):
                return
            flat[pixels] = self.map.lookup(_world_points(pixels, z[pixels] + offset, view, depth.shape[1]))

    def _vote(self, seen: _Seen) -> None:
        """Enter a finished frame into the map."""
        step = self.config.vote_step
        depth = seen.depth
        steady = cv2.dilate(depth, np.ones((3, 3))) - cv2.erode(depth, np.ones((3, 3))) <= self.config.flying
        chosen = np.zeros(depth.shape, bool)
        chosen[::step, ::step] = True
        pixels = np.flatnonzero(chosen & steady & (depth > 0) & (seen.labels != UNSEEN) & ~seen.is_guess)
        points = _world_points(pixels, depth.reshape(-1)[pixels], seen, depth.shape[1])
        self.map.vote(points, seen.labels.reshape(-1)[pixels], seen.is_seed.reshape(-1)[pixels])


def _only_labels(depth: np.ndarray, camera, labels: np.ndarray) -> _Seen:
    """Return a reference of which nothing but the labels counts."""
    nowhere = np.zeros(depth.shape, bool)
    return _Seen(depth, camera.K, camera.world_from_cam, labels, nowhere, nowhere, nowhere)


def _depth_of(view) -> np.ndarray:
    if view.depth is None:
        raise InputError("the frame has no depth image", hint="--propagate sam2 works on colour alone")
    return view.depth


def _look_back(depth: np.ndarray, window: tuple[slice, slice], view, reference: _Seen, config) -> np.ndarray:
    """Return the labels that a reference frame shows for the pixels of a window, UNSEEN where it does not show them.

    depth    (h, w) float32, metres, of the window; view has `K` and `world_from_cam`
    returns  (h, w) int32
    """
    cam_from_world = np.linalg.inv(reference.world_from_cam)
    reference_from_cam = cam_from_world @ view.world_from_cam
    # a pixel (u, v) at depth z lies at z A (u, v, 1) + b in homogeneous pixels of the reference
    A = (reference.K @ reference_from_cam[:3, :3] @ np.linalg.inv(view.K)).astype(np.float32)
    b = (reference.K @ reference_from_cam[:3, 3]).astype(np.float32)
    u = np.arange(window[1].start, window[1].stop, dtype=np.float32)
    v = np.arange(window[0].start, window[0].stop, dtype=np.float32)
    x, y, z = ((A[k, 0] * u + A[k, 2] + (A[k, 1] * v)[:, None]) * depth + b[k] for k in range(3))
    safe = np.maximum(z, 1e-3)
    maps = cv2.convertMaps(x / safe, y / safe, cv2.CV_16SC2, nninterpolation=True)
    # float32 holds track ids exactly up to 2^24
    carried = (reference.labels + GUESS * reference.is_guess).astype(np.float32)
    found = cv2.remap(carried, *maps, cv2.INTER_NEAREST, borderValue=0).astype(np.int32)
    found[~_agree(reference.depth, x / safe, y / safe, z, config) | (depth <= 0)] = UNSEEN
    return found


def _agree(depth: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, config) -> np.ndarray:
    """Say which points at pixels (x, y) and depth z a reference's (H, W) `depth` shows, (h, w) bool.

    The nearest measurement settles it; on slanted planes, not beside steps, the interpolated one may as well.
    """
    measured = cv2.remap(depth, x, y, cv2.INTER_NEAREST, borderValue=0)
    inverse = np.divide(1.0, depth, out=np.zeros_like(depth), where=depth > 0)
    bend = np.abs(cv2.Laplacian(inverse, cv2.CV_32F)) * depth * depth  # 0 on planes, about the step beside one
    is_flat = cv2.remap((bend < config.flat).view(np.uint8), x, y, cv2.INTER_NEAREST, borderValue=0).view(bool)
    between = cv2.remap(depth, x, y, cv2.INTER_LINEAR, borderValue=0)
    error = np.abs(measured - z)
    error = np.where(is_flat, np.minimum(error, np.abs(between - z)), error)
    sample = (slice(None, None, 7), slice(None, None, 7))
    relative = error[sample] / np.maximum(z[sample] ** 2, 1e-6)
    relative = relative[(measured[sample] > 0) & (z[sample] > 1e-3) & (relative < 4 * config.max_noise)]
    noise = float(np.median(relative)) if relative.size else config.max_noise  # poses count as noise too
    return (error <= config.gap + 4 * noise * z * z) & (measured > 0) & (z > 1e-3)


def _world_points(pixels: np.ndarray, z: np.ndarray, view, width: int) -> np.ndarray:
    """Return the (N, 3) float32 world points of flat pixel indices at depths z."""
    v, u = np.divmod(pixels, width)
    A = (view.world_from_cam[:3, :3] @ np.linalg.inv(view.K)).astype(np.float32)
    rays = np.stack([u, v, np.ones_like(u)]).astype(np.float32)
    return ((A @ rays) * z.astype(np.float32)).T + view.world_from_cam[:3, 3].astype(np.float32)


def _window_of(reference: _Seen, view, margin: int) -> tuple[slice, slice] | None:
    """Return the part of a view in which the labelled surface of a reference can lie, None when it cannot."""
    pixels = np.flatnonzero((reference.labels > 0) & (reference.depth > 0))
    if not len(pixels):
        return None
    pixels = pixels[:: max(1, len(pixels) // 2000)]
    points = _world_points(pixels, reference.depth.reshape(-1)[pixels], reference, reference.depth.shape[1])
    projected, z = project_points(points, view.K, view.world_from_cam)
    projected = projected[z > 0.05]
    if not len(projected):
        return None
    low = np.maximum(np.floor(projected.min(axis=0)) - margin, 0).astype(int)
    high = np.minimum(np.ceil(projected.max(axis=0)) + margin + 1, view.size[::-1]).astype(int)
    return (slice(low[1], high[1]), slice(low[0], high[0])) if (low < high).all() else None


def _on_one_surface(mask: np.ndarray, depth: np.ndarray, rim: int) -> np.ndarray:
    """Drop border pixels of a mask that belong to what lies behind: colour and depth never agree to the pixel.

    A pixel at most `rim` from the border goes if it is behind the mask's inside and level with the outside beside it;
    the second keeps thin parts, which have no inside of their own.

    returns  (H, W) bool
    """
    top, left, height, width = _bounds(mask)
    window = (slice(max(top - rim, 0), top + height + rim), slice(max(left - rim, 0), left + width + rim))
    part, z = mask[window], depth[window]
    inside = cv2.erode(part.view(np.uint8), np.ones((2 * rim + 1,) * 2), borderValue=1).view(bool) & (z > 0)
    outside = ~part & (z > 0)
    if not inside.any() or not outside.any():
        return mask
    behind = z > _nearest_value(inside, z) * 1.03 + 0.03
    level = np.abs(_nearest_value(outside, z) - z) < 0.01 + 0.003 * z * z
    solid = np.zeros_like(mask)
    solid[window] = part & ~(behind & level & ~inside)
    return solid


def _nearest_value(where: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return for each pixel the value at the nearest pixel of a (H, W) bool `where`."""
    _, nearest = cv2.distanceTransformWithLabels(
        (~where).view(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    found = np.zeros(int(nearest.max()) + 1, values.dtype)
    found[nearest[where]] = values[where]
    return found[nearest]


def _areas(labels: np.ndarray, highest: int) -> np.ndarray:
    """Return the pixels of each track from 0 (which counts nothing) to at least `highest`."""
    return np.bincount(labels[labels > 0], minlength=highest + 1)


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return top, left, height, width
