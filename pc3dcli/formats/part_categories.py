# SPDX-License-Identifier: Apache-2.0
"""What the categories of shapes and their parts are, as arrays beside predictions of parts.

class_names (C,) of text; category (S,) of each shape, an index into them; category_parts (K, 2), rows of a category
and a part that it has; part_names (P,) for people.  Files without them are ShapeNetPart's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError
from pc3dcli.formats.arrays import read_arrays

NAMES = ("class_names", "category", "category_parts")
MAX_CATEGORIES, MAX_PARTS = 1 << 12, 10_000  # ours


@dataclass(frozen=True)
class PartCategories:
    """Names of the categories, ascending parts of each, and the category (S,) int64 of each shape."""

    names: tuple[str, ...]
    parts: tuple[tuple[int, ...], ...]
    category: np.ndarray


def category_arrays(found: PartCategories, part_names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the arrays that say all this."""
    rows = [(index, part) for index, parts in enumerate(found.parts) for part in parts]
    return {
        "class_names": np.array(found.names),
        "category": found.category.astype(np.uint16),
        "category_parts": np.array(rows, np.uint16).reshape(-1, 2),
        "part_names": np.array(part_names),
    }


def read_categories(path: Path) -> tuple[tuple[str, ...], PartCategories | None]:
    """Return the class names of a file, () without, and its categories, None where it does not say which they are.

    raises  FormatError for arrays that do not fit together
    """
    arrays = read_arrays(path, NAMES)
    names = tuple(str(name) for name in np.atleast_1d(arrays.get("class_names", ())).ravel())
    if not arrays.keys() & {"category", "category_parts"}:
        return names, None
    missing = [name for name in NAMES if name not in arrays]
    if missing:
        raise FormatError(f"holds no {' and no '.join(missing)}, expected {', '.join(NAMES)} together", file=path)
    category, rows = (_integers(arrays[name], name, path) for name in NAMES[1:])
    if not 0 < len(names) <= MAX_CATEGORIES or len(set(names)) < len(names):
        raise FormatError(f"{len(names)} class_names, expected 1 to {MAX_CATEGORIES} different ones", file=path)
    if category.ndim != 1 or rows.ndim != 2 or rows.shape[1] != 2:
        problem = f"category is {category.shape} and category_parts {rows.shape}, expected (S,) and (K, 2)"
        raise FormatError(problem, file=path)
    for values, end, what in ((category, len(names), "category"), (rows[:, 0], len(names), "category"),
                              (rows[:, 1], MAX_PARTS, "part")):  # fmt: skip
        if values.size and not 0 <= values.min() <= values.max() < end:
            raise FormatError(f"{what} {values[(values < 0) | (values >= end)][0]}, expected 0 to {end - 1}", file=path)
    parts = [sorted(set(rows[rows[:, 0] == index, 1].tolist())) for index in range(len(names))]
    empty = next((names[index] for index in np.unique(category).tolist() if not parts[index]), None)
    if empty is not None:
        raise FormatError(f"category_parts has no part of {empty}", file=path)
    return names, PartCategories(names, tuple(map(tuple, parts)), category)


def _integers(array: np.ndarray, name: str, path: Path) -> np.ndarray:
    if array.dtype.kind not in "iu":
        raise FormatError(f"{name} is {array.dtype}, expected integers", file=path)
    return array.astype(np.int64)
