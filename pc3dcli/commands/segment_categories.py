# SPDX-License-Identifier: Apache-2.0
"""Categories of shapes that have parts, and which parts occur in each: for those who learn parts and those who score.

Shapes without classes are ShapeNetPart's, where a part alone says what the category is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pc3dcli.datasets.shape_set import ShapeSet
from pc3dcli.errors import InputError
from pc3dcli.formats.part_categories import MAX_PARTS
from pc3dcli.metrics.parts import CATEGORIES, NUM_PARTS, SHAPENET, category_of


def with_categories(shapes: ShapeSet) -> ShapeSet:
    """Return shapes whose label is their category: given, or that of their parts in ShapeNetPart's numbering.

    raises  InputError without parts, and for parts without classes that are not of one category of ShapeNetPart
    """
    if not len(shapes) or shapes.read(0).part is None:
        hint = "an array part, or ShapeNetPart's folder; pc3d segment --parts finds the parts of clouds"
        raise InputError("its shapes have no parts", file=shapes.root, hint=hint)
    if shapes.label is not None:
        return shapes
    label = np.array([_shapenet_category(shapes, index) for index in range(len(shapes))], np.int64)
    names = tuple(str(index) for index in range(NUM_PARTS))
    return replace(shapes, label=label, class_names=tuple(CATEGORIES), part_names=names)


def read_part(shapes: ShapeSet, index: int) -> np.ndarray:
    """Return the part (n,) int64 of each point of a shape; raises InputError for more parts than a network has."""
    part = shapes.read(index).part
    low, high = int(part.min()), int(part.max())
    if low < 0 or high >= MAX_PARTS:
        problem = f"shape {shapes.names[index]} has part {high if low >= 0 else low}"
        place = shapes.files[0] if len(shapes.files) == 1 else shapes.root
        raise InputError(f"{problem}, expected fewer than {MAX_PARTS} parts, from 0 on", file=place)
    return part


def occurring_parts(shapes: ShapeSet) -> list[set[int]]:
    """Return the parts that occur in each category; raises as `read_part`."""
    found: list[set[int]] = [set() for _ in shapes.class_names]
    for index in range(len(shapes)):
        found[int(shapes.label[index])].update(np.unique(read_part(shapes, index)).tolist())
    return found


def are_of(part: np.ndarray, category: int) -> bool:
    """Tell whether all of (N,) parts are of one category of ShapeNetPart."""
    return bool(np.isin(part, SHAPENET.parts[category]).all())


def _shapenet_category(shapes: ShapeSet, index: int) -> int:
    part = read_part(shapes, index)
    if part[0] < NUM_PARTS and are_of(part, category_of(part)):
        return category_of(part)
    found = ", ".join(map(str, np.unique(part)[:8].tolist()))
    problem = f"shape {shapes.names[index]} has no class, and parts {found} are of no one category of ShapeNetPart"
    raise InputError(problem, file=shapes.root, hint="arrays label and class_names say what the shapes are")
