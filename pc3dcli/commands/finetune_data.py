# SPDX-License-Identifier: Apache-2.0
"""The shapes that fine-tuning learns from and is tested on: splits of the same classes, parts of categories, sampling.

Training draws points among the farthest ones, testing takes the farthest; parts draw with replacement in both
(notes 4.1 and 4.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pc3dcli.datasets.shape_batches import (
    NO_AUGMENT,
    PARTS_AUGMENT,
    SCALE_ROTATE,
    SCALE_SHIFT,
    BatchConfig,
)
from pc3dcli.datasets.shape_set import ShapeSet, open_shapes
from pc3dcli.errors import InputError
from pc3dcli.metrics.parts import CATEGORIES

AUGMENTS = {"scale-shift": SCALE_SHIFT, "scale-rotate": SCALE_ROTATE, "parts": PARTS_AUGMENT, "none": NO_AUGMENT}
SHAPENET_PARTS = 50


@dataclass(frozen=True)
class Splits:
    """What is learned from and what is tested on, with the same classes.

    category_parts  part ids that a shape of each category may be given; () without parts
    """

    train: ShapeSet
    test: ShapeSet
    category_parts: tuple[tuple[int, ...], ...] = ()


def open_splits(path: Path, dataset: str, method: str, names: tuple[str, str]) -> Splits:
    """Open two splits of a data set of shapes for a method.

    names   of the splits that are learned from and tested on
    raises  as `open_shapes`; InputError for shapes without classes or parts, or fewer than two classes
    """
    sets = [open_shapes(path, dataset=dataset, split=name) for name in names]
    if method == "parts":
        return _with_parts(*(_with_categories(shapes) for shapes in sets))
    train, test = sets
    if train.label is None or test.label is None:
        raise InputError("its shapes have no classes", file=path, hint="a folder for each class, or an array label")
    if train.class_names != test.class_names:
        raise InputError(f"splits {names[0]} and {names[1]} have different classes", file=path)
    if np.unique(train.label).size < 2:
        raise InputError(f"all shapes of split {names[0]} have one class, expected two or more", file=path)
    return Splits(train, test)


def check_classes(description: dict, shapes: ShapeSet) -> None:
    """Raise InputError when weights with a head know other classes than those of the shapes.

    Released weights know how many there are, not their names.
    """
    known, found = list(description.get("classes") or CATEGORIES), list(shapes.class_names)
    is_unnamed = description["method"] == "released" and description["kind"] == "classify"
    if known != found and not (is_unnamed and len(known) == len(found)):
        names = [
            f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" for names in (found, known)
        ]
        raise InputError(f"found classes {names[0]}, the weights know {names[1]}", file=shapes.root)


def train_sampling(shapes: ShapeSet, method: str, num_points: int, augment: str, min_points: int) -> BatchConfig:
    """Return how clouds become rows of a training batch."""
    return BatchConfig(
        num_points=num_points,
        sampling="replacement" if method == "parts" else "farthest-random",
        normalize=shapes.normalization("cloud"),
        augment=AUGMENTS[augment],
        min_points=min_points,
    )


def test_sampling(shapes: ShapeSet, method: str, num_points: int, min_points: int) -> BatchConfig:
    """Return how clouds become rows of a test batch; nothing about them is random but the draws of parts."""
    config = train_sampling(shapes, method, num_points, "none", min_points)
    return config if method == "parts" else replace(config, sampling="farthest")


def best_parts(logits: np.ndarray, category: np.ndarray, category_parts: tuple | list) -> np.ndarray:
    """Return (B, N) the best part among those of each shape's category: logits (B, N, P), category (B,)."""
    found = np.empty(logits.shape[:2], np.int64)
    for row, index in enumerate(category):
        parts = np.asarray(category_parts[index])
        found[row] = parts[logits[row][:, parts].argmax(axis=1)]
    return found


def _with_categories(shapes: ShapeSet) -> ShapeSet:
    """Return shapes whose label is their category: given, or that of their first part in ShapeNetPart's numbering."""
    first = shapes.read(0) if len(shapes) else None
    if first is None or first.part is None:
        raise InputError("its shapes have no parts", file=shapes.root, hint="an array part, or ShapeNetPart's folder")
    if shapes.label is not None and shapes.class_names:
        return shapes
    category_of = [index for index, parts in enumerate(CATEGORIES.values()) for _ in parts]
    label = np.empty(len(shapes), np.int64)
    for index in range(len(shapes)):
        part = shapes.read(index).part
        if part.max() >= SHAPENET_PARTS:
            raise InputError(f"shape {shapes.names[index]} has part {part.max()} and no class", file=shapes.root)
        label[index] = category_of[part[0]]
    names = tuple(str(index) for index in range(SHAPENET_PARTS))
    return replace(shapes, label=label, class_names=tuple(CATEGORIES), part_names=names)


def _with_parts(train: ShapeSet, test: ShapeSet) -> Splits:
    """Return splits with the parts of each category: ShapeNetPart's ranges, else those that occur in training.

    A category that no shape is learned from may have all that occur there.
    """
    if train.class_names != test.class_names or train.part_names != test.part_names:
        raise InputError(f"splits {train.split} and {test.split} have different classes or parts", file=train.root)
    ranges = {name.lower(): tuple(parts) for name, parts in CATEGORIES.items()}
    if all(name.lower() in ranges for name in train.class_names):
        return Splits(train, test, tuple(ranges[name.lower()] for name in train.class_names))
    found: list[set[int]] = [set() for _ in train.class_names]
    for index in range(len(train)):
        found[int(train.label[index])].update(np.unique(train.read(index).part).tolist())
    anywhere = set().union(*found)
    return Splits(train, test, tuple(tuple(sorted(parts or anywhere)) for parts in found))
