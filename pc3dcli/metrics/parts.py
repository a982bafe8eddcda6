# SPDX-License-Identifier: Apache-2.0
"""Part segmentation of ShapeNetPart (evaluation.md section 7): IoU of shapes and categories, public rule.

In ShapeNetPart a shape belongs to the category of its first ground-truth label; other data says what its categories
are.  The parts of a shape are those of its category, whatever other labels it has.  A part that neither ground truth
nor prediction has counts as IoU 1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

# category -> its parts, contiguous and in this order
CATEGORIES = {
    "Airplane": range(0, 4),
    "Bag": range(4, 6),
    "Cap": range(6, 8),
    "Car": range(8, 12),
    "Chair": range(12, 16),
    "Earphone": range(16, 19),
    "Guitar": range(19, 22),
    "Knife": range(22, 24),
    "Lamp": range(24, 28),
    "Laptop": range(28, 30),
    "Motorbike": range(30, 36),
    "Mug": range(36, 38),
    "Pistol": range(38, 41),
    "Rocket": range(41, 44),
    "Skateboard": range(44, 47),
    "Table": range(47, 50),
}
NUM_PARTS = 50
_CATEGORY_OF_PART = [index for index, parts in enumerate(CATEGORIES.values()) for _ in parts]


@dataclass(frozen=True)
class Categories:
    """Names of categories, all different, and the ascending ids of the parts of each; some may share a part."""

    names: tuple[str, ...]
    parts: tuple[tuple[int, ...], ...]

    @property
    def num_parts(self) -> int:
        """One more than the highest id of a part."""
        return 1 + max((max(parts, default=-1) for parts in self.parts), default=-1)


SHAPENET = Categories(tuple(CATEGORIES), tuple(map(tuple, CATEGORIES.values())))


@dataclass(frozen=True)
class ShapeScore:
    """IoU of a shape, mean over the parts of its category; how many of its points are right, and how many there are."""

    category: int
    iou: float
    num_right: int
    num_points: int
    num_outside: int  # points with a predicted part of another category


def known_categories(names: Sequence[str], found: Sequence[Collection[int]]) -> Categories:
    """Return categories with the parts `found` in each, or ShapeNetPart's where they may be those.

    They may where all names are its categories, case aside, and every part lies in the range of its category.
    """
    ranges = {name.lower(): parts for name, parts in CATEGORIES.items()}
    theirs = [ranges.get(name.lower(), range(0)) for name in names]
    if all(theirs) and all(part in parts for parts, some in zip(theirs, found, strict=True) for part in some):
        return Categories(tuple(names), tuple(map(tuple, theirs)))
    return Categories(tuple(names), tuple(tuple(sorted(parts)) for parts in found))


def category_of(part: np.ndarray) -> int:
    """Return ShapeNetPart's category of the first of (N,) ground-truth parts, N at least 1."""
    return _CATEGORY_OF_PART[int(part[0])]


def predicted_parts(logits: np.ndarray, parts: Sequence[int]) -> np.ndarray:
    """Return (N,) the best of some ascending parts, logits (N, P); ties: the lowest part."""
    parts = np.asarray(parts)
    return parts[logits[:, parts].argmax(axis=1)]


def score_shape(
    part: np.ndarray, prediction: np.ndarray, category: int, categories: Categories = SHAPENET
) -> ShapeScore:
    """Score the parts (N,) of a shape of a category against its ground truth (N,), N at least 1, ids from 0."""
    parts = np.asarray(categories.parts[category])
    size = 1 + int(max(parts.max(), part.max(), prediction.max()))
    is_right = part == prediction
    both = np.bincount(part[is_right], minlength=size)[parts]
    true = np.bincount(part, minlength=size)[parts]
    predicted = np.bincount(prediction, minlength=size)[parts]
    union = true + predicted - both
    iou = np.where(union > 0, both / np.maximum(union, 1), 1.0)
    return ShapeScore(category, float(iou.mean()), int(is_right.sum()), part.size, int(part.size - predicted.sum()))
