# SPDX-License-Identifier: Apache-2.0
"""Part segmentation of ShapeNetPart (evaluation.md section 7): IoU of shapes and categories, public rule.

A shape belongs to the category of its first ground-truth label; its parts are those of that category, whatever other
labels it has.  A part that neither ground truth nor prediction has counts as IoU 1.
"""

from __future__ import annotations

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
_CATEGORY_OF_PART = [name for name, parts in CATEGORIES.items() for _ in parts]


@dataclass(frozen=True)
class ShapeScore:
    """IoU of a shape, mean over the parts of its category; how many of its points are right, and how many there are."""

    category: str
    iou: float
    num_right: int
    num_points: int
    num_outside: int  # points with a predicted part of another category


def category_of(part: np.ndarray) -> str:
    """Return the category of the first of (N,) ground-truth parts, N at least 1."""
    return _CATEGORY_OF_PART[int(part[0])]


def predicted_parts(logits: np.ndarray, category: str) -> np.ndarray:
    """Return (N,) the best part among those of the category, logits (N, 50); ties: the lowest part."""
    parts = CATEGORIES[category]
    return logits[:, parts.start : parts.stop].argmax(axis=1) + parts.start


def score_shape(part: np.ndarray, prediction: np.ndarray) -> ShapeScore:
    """Score the parts (N,) of a shape against its ground truth (N,), N at least 1, all in 0..49."""
    category = category_of(part)
    parts = CATEGORIES[category]
    inside = slice(parts.start, parts.stop)
    is_right = part == prediction
    both = np.bincount(part[is_right], minlength=NUM_PARTS)[inside]
    true = np.bincount(part, minlength=NUM_PARTS)[inside]
    predicted = np.bincount(prediction, minlength=NUM_PARTS)[inside]
    union = true + predicted - both
    iou = np.where(union > 0, both / np.maximum(union, 1), 1.0)
    return ShapeScore(category, float(iou.mean()), int(is_right.sum()), part.size, int(part.size - predicted.sum()))
