# SPDX-License-Identifier: Apache-2.0
"""Overlaps among many 2D masks at the cost of their pixels: masks are sorted flat pixel indices, sets of masks are
label images, and a count of labels under a mask gives its intersection with every other mask at once.

Holds the containment filter of granularity_tracking.md section 3 (tau_contain = 0.8 is published, "keep the larger" is
the spec's reading) and the composition of section 4.2 step 4.  *Departures*: contain_mode "fine" is ours; it drops a
mask that the kept smaller ones cover together, so that a decal never costs us the object it is on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class MaskLayers:
    """A growing set of masks over one image, kept in as few label images as their overlaps allow."""

    def __init__(self, num_pixels: int) -> None:
        self.num_pixels = num_pixels
        self.num_masks = 0
        self._layers: list[np.ndarray] = []  # (num_pixels,) int32, 0 none, k + 1 for mask k

    def add(self, pixels: np.ndarray) -> None:
        """Add a mask given by its (n,) int64 flat pixel indices; it becomes mask number `num_masks`."""
        self.num_masks += 1
        for layer in self._layers:
            if not layer[pixels].any():
                layer[pixels] = self.num_masks
                return
        layer = np.zeros(self.num_pixels, np.int32)
        layer[pixels] = self.num_masks
        self._layers.append(layer)

    def overlaps(self, pixels: np.ndarray) -> np.ndarray:
        """Return (num_masks,) int64 pixels that the mask `pixels` shares with each mask of the set."""
        shared = np.zeros(self.num_masks + 1, np.int64)
        for layer in self._layers:
            shared += np.bincount(layer[pixels], minlength=self.num_masks + 1)
        return shared[1:]


def containment_filter(
    pixels: Sequence[np.ndarray], num_pixels: int, tau_contain: float = 0.8, contain_mode: str = "coarse"
) -> list[int]:
    """Drop masks that say again what a kept one says.

    pixels        one (n,) int64 array of flat pixel indices a mask
    contain_mode  "coarse": large to small, drop a when some kept b has |a & b| > tau_contain |a|;
                  "fine": small to large, drop a when the kept ones cover more than tau_contain |a| together
    returns       indices of the kept masks in that order; equal areas keep the input order
    raises        ValueError for another mode
    """
    if contain_mode not in ("coarse", "fine"):
        raise ValueError(f"contain_mode is {contain_mode!r}, expected 'coarse' or 'fine'")
    area = np.array([len(p) for p in pixels], np.int64)
    order = np.argsort(-area if contain_mode == "coarse" else area, kind="stable")
    layers, covered, kept = MaskLayers(num_pixels), np.zeros(num_pixels, bool), []
    for k in order:
        if area[k] == 0:
            continue
        if contain_mode == "coarse":
            shared = layers.overlaps(pixels[k]).max(initial=0)
        else:
            shared = int(covered[pixels[k]].sum())
        if shared <= tau_contain * area[k]:
            kept.append(int(k))
            covered[pixels[k]] = True
            layers.add(pixels[k])
    return kept


def compose_labels(
    masks: dict[int, np.ndarray], size: tuple[int, int], area_min: float, order: Sequence[int] | None = None
) -> np.ndarray:
    """Paint masks into one label image, by default small on top (section 4.2 step 4).

    masks     track -> (n,) int64 flat pixel indices
    area_min  pixels; a mask that keeps less than half of its pixels *and* fewer than this is dropped
    order     all tracks, the one on top last; None for small on top
    returns   (H, W) int32, 0 none
    """
    labels = np.zeros(size[0] * size[1], np.int32)
    for track in order or sorted(masks, key=lambda track: (-len(masks[track]), track)):
        labels[masks[track]] = track
    shown = np.bincount(labels, minlength=max(masks, default=0) + 1)
    for track, pixels in masks.items():
        if shown[track] < 0.5 * len(pixels) and shown[track] < area_min:
            labels[pixels[labels[pixels] == track]] = 0
    return labels.reshape(size)
