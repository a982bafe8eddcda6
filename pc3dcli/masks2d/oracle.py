# SPDX-License-Identifier: Apache-2.0
"""Simulated SAM and SAM2 on worlds whose objects and parts are known (granularity_tracking.md section 13).

The mask source shows the fault that the tracking policy is to repair: per frame an object comes out whole or in parts,
sometimes merged with a neighbour, sometimes with a nested part besides, with ragged edges.  The propagator keeps what
its seed stood for, for ever.  Both are functions of (seed, frame), so order and repetition change nothing.
*Departure*: the spec leaves open whether a merged object can also come in parts; here it is merged instead.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pc3dcli.errors import FormatError, check_ranges
from pc3dcli.formats.images import read_label_image
from pc3dcli.formats.paths import resolve_inside
from pc3dcli.masks2d.mask2d import Mask2d

Labels = Callable[[Any], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class OracleConfig:
    """Probabilities of section 13."""

    p_whole: float = 0.8  # an object comes as one mask, else as its visible parts; p_w
    p_merge: float = 0.05  # it comes merged with an object that touches it in the image; p_m
    p_nested: float = 0.5  # a whole mask is accompanied by one of its parts
    p_eroded: float = 0.15  # a mask loses its border, one pixel wide
    p_dilated: float = 0.15  # a mask gains a border, one pixel wide
    seed: int = 0

    def __post_init__(self) -> None:
        shares = ("p_whole", "p_merge", "p_nested", "p_eroded", "p_dilated")
        check_ranges(self, **dict.fromkeys(shares, (0, 1)))


def folder_labels(view) -> tuple[np.ndarray, np.ndarray]:
    """Read instance/<frame>.png and part/<frame>.png of a written world.

    view     has `root`, `frame.frame` and `size`
    returns  (H, W) int32 objects and parts, 0 for the structure
    """
    images = []
    for kind in ("instance", "part"):
        path = resolve_inside(view.root, f"{kind}/{view.frame.frame}.png")
        images.append(read_label_image(path))
        if images[-1].shape != tuple(view.size):
            raise FormatError(f"found {images[-1].shape} pixels, expected {tuple(view.size)}", file=path)
    return images[0], images[1]


@dataclass(frozen=True)
class _Meaning:
    """What a mask stands for, whichever of it is visible: whole objects and single parts."""

    objects: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()

    def mask(self, instance: np.ndarray, part: np.ndarray) -> np.ndarray:
        """Return its (H, W) bool mask in a frame."""
        return np.isin(instance, self.objects) | np.isin(part, self.parts)


class OracleMasks:
    """The oracle SAM, a mask source."""

    def __init__(self, config: OracleConfig = OracleConfig(), labels: Labels = folder_labels) -> None:
        """labels returns the (H, W) int objects and parts of a view."""
        self.config, self.labels = config, labels

    def masks(self, view) -> list[Mask2d]:
        """Return the masks of a frame, scores 1, by ascending object."""
        return [Mask2d(mask, 1.0) for _, mask in self.meanings(view)]

    def meanings(self, view) -> list[tuple[_Meaning, np.ndarray]]:
        """Return what each mask of a frame stands for, and the mask."""
        instance, part = self.labels(view)
        rng = _generator(self.config.seed, view)
        touching = _touching_objects(instance)
        meanings = []
        for item in np.unique(instance[instance > 0]).tolist():
            meanings += self._emit(item, np.unique(part[instance == item]).tolist(), touching.get(item, []), rng)
        found = [(meaning, _ragged(meaning.mask(instance, part), self.config, rng)) for meaning in meanings]
        return [(meaning, mask) for meaning, mask in found if mask.any()]

    def _emit(self, item: int, parts: list[int], touching: list[int], rng: np.random.Generator) -> list[_Meaning]:
        """Draw the masks of one object."""
        merged, whole, nested = rng.random(3) < (self.config.p_merge, self.config.p_whole, self.config.p_nested)
        if merged and touching:
            return [_Meaning(objects=(item, touching[int(rng.integers(len(touching)))]))]
        if not whole:
            return [_Meaning(parts=(p,)) for p in parts]
        inside = [_Meaning(parts=(parts[int(rng.integers(len(parts)))],))] if nested and len(parts) > 1 else []
        return [_Meaning(objects=(item,)), *inside]


class OracleTracks:
    """The oracle SAM2, a propagator: a seed keeps its part set for ever."""

    tau_complete = 2.0  # never: what a track stands for is known

    def __init__(self, config: OracleConfig = OracleConfig(), labels: Labels = folder_labels) -> None:
        """Use the same config as the mask source, so that seeds are recognised exactly."""
        self.config, self.labels = config, labels
        self._source = OracleMasks(config, labels)
        self._meanings: dict[int, _Meaning] = {}

    def propagate(self, t: int, view, tracks: Sequence[int]) -> dict[int, np.ndarray]:
        """Return the (H, W) bool masks of the visible ones of `tracks`."""
        instance, part = self.labels(view)
        masks = {}
        for track in tracks:
            rng = _generator(self.config.seed, view, track)
            mask = _ragged(self._meanings[track].mask(instance, part), self.config, rng)
            if mask.any():
                masks[track] = mask
        return masks

    def add_object(self, t: int, view, track: int, mask: np.ndarray) -> None:
        """Start a track; a further prompt for a known one changes nothing."""
        if track not in self._meanings:
            self._meanings[track] = self._meaning_of(view, mask)

    def assumed(self, t: int, view) -> None:
        """Return None: its masks are no guesses."""

    def remove_object(self, track: int) -> None:
        """Forget a track."""
        del self._meanings[track]

    def overlap(self, t: int, view, mask: np.ndarray, tracks: Sequence[int]) -> dict[int, float]:
        """Return nothing: what a track stands for is known, so propagation alone revives it."""
        return {}

    def candidates(self, t: int, view, dormant: Sequence[int]) -> list[int]:
        """Return all: looking costs nothing."""
        return list(dormant)

    def reverse(self, t: int, views: Sequence, tracks: Sequence[int]) -> Iterator[dict[int, np.ndarray]]:
        """Yield the masks on earlier frames."""
        for view in views:
            yield self.propagate(t, view, tracks)

    def _meaning_of(self, view, mask: np.ndarray) -> _Meaning:
        """Recognise an oracle mask exactly, any other by its best IoU with an object or a part."""
        instance, part = self.labels(view)
        for meaning, emitted in self._source.meanings(view):
            if np.array_equal(emitted, mask):
                return meaning
        candidates = [_Meaning(objects=(k,)) for k in np.unique(instance[mask]).tolist() if k]
        candidates += [_Meaning(parts=(k,)) for k in np.unique(part[mask]).tolist() if k]
        return max(candidates, key=lambda meaning: _iou(meaning.mask(instance, part), mask), default=_Meaning())


def _generator(seed: int, view, *more: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(str(view.frame.frame).encode()), *more])


def _ragged(mask: np.ndarray, config: OracleConfig, rng: np.random.Generator) -> np.ndarray:
    draw = rng.random()
    if draw >= config.p_eroded + config.p_dilated:
        return mask
    change = cv2.erode if draw < config.p_eroded else cv2.dilate
    return change(mask.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool)


def _touching_objects(instance: np.ndarray) -> dict[int, list[int]]:
    """Return for each object the ascending list of those with a pixel beside one of its own."""
    sides = [(instance[:, :-1], instance[:, 1:]), (instance[:-1], instance[1:])]
    pairs = np.concatenate([np.stack([a[a != b], b[a != b]], axis=1) for a, b in sides])
    pairs = np.unique(pairs[(pairs > 0).all(axis=1)], axis=0)
    touching: dict[int, set[int]] = {}
    for a, b in pairs.tolist():
        touching.setdefault(a, set()).add(b)
        touching.setdefault(b, set()).add(a)
    return {item: sorted(others) for item, others in touching.items()}


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / max(np.count_nonzero(a | b), 1)
