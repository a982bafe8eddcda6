# SPDX-License-Identifier: Apache-2.0
"""Region measure J and contour measure F of masks in video (evaluation.md section 8), as the scorer of DAVIS 2017.

F. Perazzi et al., A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation, 2016; J. Pont-Tuset et
al., The 2017 DAVIS Challenge, 2017.  Boundaries are kept as one long integer, a bit a pixel: widening one by a disk is
a few dozen shifts of some 50 kB, ten times cheaper than a filter with that disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pc3dcli.metrics.assignment import assign

BOUND = 0.008  # tolerance of contours, share of the image diagonal
GOOD = 0.5  # "recall" of J and F is the share of frames above it
_MAX_FRAMES = 256  # the public scorer counts the frames of "decay" in eight bits

Masks = Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Contour:
    """A boundary and the same widened by the tolerance, a bit a pixel; those of one crop can be compared."""

    line: int
    wide: int
    length: int  # pixels of the line


def tolerance(size: tuple[int, int]) -> int:
    """Return how far in pixels two contours may be apart in an image of (H, W)."""
    return math.ceil(BOUND * float(np.linalg.norm(size)))


def mask_boundary(mask: np.ndarray) -> np.ndarray:
    """Return where a (H, W) bool mask differs from its right, lower or lower right neighbour, (H, W) bool.

    The last row is compared with the right only, the last column with below only, the last pixel with nothing: so a
    mask of the whole image has no boundary (public behaviour).
    """
    found = np.zeros_like(mask)
    here, right, below = mask[:-1, :-1], mask[:-1, 1:], mask[1:, :-1]
    found[:-1, :-1] = (here ^ right) | (here ^ below) | (here ^ mask[1:, 1:])
    found[-1, :-1] = mask[-1, :-1] ^ mask[-1, 1:]
    found[:-1, -1] = mask[:-1, -1] ^ mask[1:, -1]
    return found


def contours(masks: Sequence[np.ndarray], radius: int) -> list[Contour]:
    """Return the contours of (H, W) bool masks of one image, to be compared with each other."""
    return [_contour(mask_boundary(mask), radius) for mask in _cropped(masks)]


def _cropped(masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Cut masks to what any of them covers and one pixel around it, where the image has one."""
    union = np.logical_or.reduce(masks)
    rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
    if not rows.size:
        return [mask[:1, :1] for mask in masks]
    window = (slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2))
    return [mask[window] for mask in masks]


def _contour(boundary: np.ndarray, radius: int) -> Contour:
    height, width = boundary.shape
    stride = width + radius  # empty columns, so that no shift carries a row into its neighbour
    padded = np.zeros((height, stride), bool)
    padded[:, :width] = boundary
    line = int.from_bytes(np.packbits(padded).tobytes(), "big")
    return Contour(line, _widened(line, radius, stride), line.bit_count())


def _widened(line: int, radius: int, stride: int) -> int:
    """Return the bits within a disk x^2 + y^2 <= radius^2 around those of `line`, rows being `stride` bits apart."""
    total, row, reach = 0, line, 0
    for y in range(radius, -1, -1):
        while reach < math.isqrt(radius * radius - y * y):
            reach += 1
            row |= line << reach | line >> reach
        total |= row << y * stride | row >> y * stride
    return total


def contour_f(truth: Contour, predicted: Contour) -> float:
    """Return the F measure of two contours; 1 when both are empty, 0 when one is."""
    if not truth.length or not predicted.length:
        return float(truth.length == predicted.length)
    precision = (predicted.line & truth.wide).bit_count() / predicted.length
    recall = (truth.line & predicted.wide).bit_count() / truth.length
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def region_j(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the intersection over union of two (H, W) bool masks; 1 when both are empty."""
    union = np.count_nonzero(truth | predicted)
    return np.count_nonzero(truth & predicted) / union if union else 1.0


def statistics(values: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """Return mean, recall (share above 0.5) and decay (mean of the first quarter minus that of the last) over frames.

    values  (T,) J or F of one object
    returns None for no frame; decay None for more than 256 frames, whose quarters the public scorer miscounts
    """
    if not values.size:
        return None, None, None
    mean, recall = float(values.mean()), float((values > GOOD).mean())
    if values.size > _MAX_FRAMES:
        return mean, recall, None
    edge = np.round(np.linspace(1, values.size, 5) + 1e-10).astype(int) - 1
    first, last = values[edge[0] : edge[1] + 1], values[edge[3] : edge[4] + 1]  # quarters share their edges
    return mean, recall, float(first.mean() - last.mean())


class PromptedScores:
    """J and F of objects that keep their ids: each object against the mask of the same id."""

    def __init__(self, objects: Sequence[int]) -> None:
        self.objects = list(objects)
        self._j: list[list[float]] = []
        self._f: list[list[float]] = []

    def add(self, truth: Masks, predicted: Masks, size: tuple[int, int]) -> None:
        """Score a frame; masks (H, W) bool by id, those without a pixel may be missing."""
        empty, radius = np.zeros(size, bool), tolerance(size)
        pairs = [(truth.get(o, empty), predicted.get(o, empty)) for o in self.objects]
        self._j.append([region_j(*pair) for pair in pairs])
        self._f.append([contour_f(*contours(pair, radius)) for pair in pairs])

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Return J and F, both (objects, frames) float64."""
        shape = (len(self._j), len(self.objects))
        return np.reshape(self._j, shape).T, np.reshape(self._f, shape).T


class FreeScores:
    """J and F of objects whose tracks have ids of their own: the assignment with the largest mean of J and F."""

    def __init__(self, objects: Sequence[int]) -> None:
        self.objects = list(objects)
        self._frames: list[dict[int, np.ndarray]] = []  # track -> (2, objects), J and F
        self._alone: list[np.ndarray] = []  # (2, objects): the same against nothing

    def add(self, truth: Masks, predicted: Masks, size: tuple[int, int]) -> None:
        """Score every object against every track of a frame; masks (H, W) bool by id."""
        empty = np.zeros(size, bool)
        true = [truth.get(o, empty) for o in self.objects]
        tracks = sorted(predicted)
        drawn = contours([empty, *true, *(predicted[track] for track in tracks)], tolerance(size))
        alone, lines, others = drawn[0], drawn[1 : 1 + len(true)], drawn[1 + len(true) :]
        self._alone.append(
            np.array([[float(not mask.any()) for mask in true], [contour_f(line, alone) for line in lines]])
        )
        self._frames.append(
            {
                track: np.array(
                    [[region_j(mask, predicted[track]) for mask in true], [contour_f(line, other) for line in lines]]
                )
                for track, other in zip(tracks, others, strict=True)
            }
        )

    def finish(self, num_empty: int) -> tuple[np.ndarray, np.ndarray]:
        """Return J and F of the assigned tracks, both (objects, frames) float64.

        num_empty  tracks without a mask that take part; there are always as many tracks as objects
        """
        tracks = sorted({track for frame in self._frames for track in frame})
        num_empty = min(max(num_empty, len(self.objects) - len(tracks)), len(self.objects))
        alone = np.reshape(self._alone, (len(self._alone), 2, len(self.objects)))
        total = np.tile(alone.sum(axis=(0, 1)), (len(tracks) + num_empty, 1))
        for row, track in enumerate(tracks):
            total[row] += sum(
                (frame[track] - nothing).sum(axis=0)
                for frame, nothing in zip(self._frames, alone, strict=True)
                if track in frame
            )
        rows, columns = assign(total)
        chosen = {column: tracks[row] for row, column in zip(rows, columns, strict=True) if row < len(tracks)}
        for t, frame in enumerate(self._frames):
            for column, track in chosen.items():
                if track in frame:
                    alone[t, :, column] = frame[track][:, column]
        return alone[:, 0].T, alone[:, 1].T
