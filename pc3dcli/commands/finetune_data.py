# SPDX-License-Identifier: Apache-2.0
"""The shapes that fine-tuning learns from and is tested on: splits of the same classes, parts of categories, sampling.

Training draws points among the farthest ones, testing takes the farthest; parts draw with replacement in both,
as published.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pc3dcli.commands.segment_categories import occurring_parts, with_categories
from pc3dcli.datasets.shape_batches import (
    NO_AUGMENT,
    PARTS_AUGMENT,
    SCALE_ROTATE,
    SCALE_SHIFT,
    BatchConfig,
)
from pc3dcli.datasets.shape_set import ShapeSet, open_shapes
from pc3dcli.errors import InputError
from pc3dcli.metrics.parts import CATEGORIES, known_categories, predicted_parts

AUGMENTS = {"scale-shift": SCALE_SHIFT, "scale-rotate": SCALE_ROTATE, "parts": PARTS_AUGMENT, "none": NO_AUGMENT}
_ONE_SPLIT = "--hold-out 0.2 tests on a share of each class, --split A,B names two splits"


@dataclass(frozen=True)
class Splits:
    """What is learned from and what is tested on, with the same classes.

    category_parts  part ids that a shape of each category may be given; () without parts
    scored_parts    part ids over which its IoU is a mean: those that are learned or occur in the test
    """

    train: ShapeSet
    test: ShapeSet
    category_parts: tuple[tuple[int, ...], ...] = ()
    scored_parts: tuple[tuple[int, ...], ...] = ()


def open_splits(
    path: Path, dataset: str, method: str, names: tuple[str, ...], *, hold_out: float | None = None, seed: int = 0
) -> Splits:
    """Open two splits of a data set of shapes for a method.

    names     of the splits that are learned from and tested on; with `hold_out` of one
    hold_out  share of the shapes of each class that is tested on, drawn by the seed
    raises    as `open_shapes`; InputError for shapes without classes or parts, or fewer than two classes
    """
    sets = [_open_split(path, dataset, name) for name in names]
    if method == "parts":
        sets = [with_categories(shapes) for shapes in sets]
    elif any(shapes.label is None for shapes in sets):
        raise InputError("its shapes have no classes", file=path, hint="a folder for each class, or an array label")
    train, test = sets if hold_out is None else _held_out(sets[0], hold_out, seed)
    if method == "parts":
        return _with_parts(train, test)
    if train.class_names != test.class_names:
        raise InputError(f"splits {names[0]} and {names[1]} have different classes", file=path)
    if np.unique(train.label).size < 2:
        raise InputError(f"all shapes of split {names[0]} have one class, expected two or more", file=path)
    return Splits(train, test)


def unlearned_classes(splits: Splits) -> str | None:
    """Return what to say of classes that are tested on and that nothing is learned of, which can never be right.

    raises  InputError where classes have numbers for names: those of the splits may not be the same then
    """
    unseen = np.setdiff1d(splits.test.label, splits.train.label)
    if not unseen.size:
        return None
    names = splits.test.class_names
    said = f"no shape that is learned from has class {_some([names[index] for index in unseen])}, which the test has"
    if names == tuple(str(index) for index in range(len(names))):
        raise InputError(said, file=splits.test.root)
    return said


def open_predicted(path: Path, dataset: str, method: str, split: str | None, description: dict) -> Splits:
    """Open shapes that trained weights are asked about, as both splits, with the classes of the weights.

    split        None: the test split, or all shapes where there is none
    description  of the weights
    raises       as `open_shapes`; InputError for shapes without parts, and for classes that the weights lack
    """
    try:
        shapes = open_shapes(path, dataset=dataset, split=split or ("all" if path.is_file() else "test"))
    except InputError:
        if split is not None:
            raise
        shapes = open_shapes(path, dataset=dataset, split="all")
    if method == "parts":
        shapes = with_categories(shapes)
    shapes = _with_classes(shapes, description)
    shapes = replace(shapes, is_raw=description.get("is_raw", shapes.is_raw))
    if method == "classify":
        return Splits(shapes, shapes)
    parts = description.get("category_parts") or list(CATEGORIES.values())
    scored = _scored(parts, occurring_parts(shapes))
    return Splits(shapes, shapes, tuple(map(tuple, parts)), scored)


def _with_classes(shapes: ShapeSet, description: dict) -> ShapeSet:
    """Return shapes whose labels are those of the weights, by the names of the classes, case aside.

    Released classifiers know how many there are, not their names.
    """
    known = tuple(description.get("classes") or CATEGORIES)
    if shapes.label is None:
        return replace(shapes, class_names=known)
    is_unnamed = description["method"] == "released" and description["kind"] == "classify"
    if is_unnamed and len(known) == len(shapes.class_names):
        return shapes
    index_of = {name.lower(): index for index, name in enumerate(known)} | {n: i for i, n in enumerate(known)}
    index = np.array([index_of.get(name, index_of.get(name.lower(), -1)) for name in shapes.class_names], np.int64)
    label = index[shapes.label]
    if (label < 0).any():
        lacking = _some([shapes.class_names[row] for row in np.unique(shapes.label[label < 0])])
        problem = f"found classes {lacking}, which are not among those that the weights know: {_some(known)}"
        raise InputError(problem, file=shapes.root, hint="a folder of clouds alone is predicted without classes")
    return replace(shapes, label=label, class_names=known)


def _some(names: list[str] | tuple[str, ...]) -> str:
    return f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"


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
    rows = zip(logits, category, strict=True)
    return np.stack([predicted_parts(row, category_parts[index]) for row, index in rows])


def _open_split(path: Path, dataset: str, name: str) -> ShapeSet:
    """Open a split; where there is none but others are, say what can be done about that."""
    try:
        return open_shapes(path, dataset=dataset, split=name)
    except InputError as error:
        try:
            open_shapes(path, dataset=dataset, split="all")
        except InputError:
            raise error from None
        raise InputError(error.message, file=error.file, hint=_ONE_SPLIT) from None


def _held_out(shapes: ShapeSet, share: float, seed: int) -> tuple[ShapeSet, ShapeSet]:
    """Return shapes without a share of each class, and these: one at least, none of a class with a single shape."""
    rng = np.random.default_rng(seed)
    is_test = np.zeros(len(shapes), bool)
    for label in np.unique(shapes.label):
        found = np.flatnonzero(shapes.label == label)
        count = min(max(1, round(share * len(found))), len(found) - 1)
        is_test[rng.permutation(found)[:count]] = True
    if not is_test.any():
        raise InputError("every class has a single shape, none can be held out", file=shapes.root)
    return shapes.select(np.flatnonzero(~is_test)), shapes.select(np.flatnonzero(is_test))


def _with_parts(train: ShapeSet, test: ShapeSet) -> Splits:
    """Return splits with the parts of each category: ShapeNetPart's where all lie in its ranges, else those that occur.

    A category that no shape is learned from may have all that occur in others.
    """
    if train.class_names != test.class_names or train.part_names != test.part_names:
        raise InputError(f"splits {train.split} and {test.split} have different classes or parts", file=train.root)
    none: list[set[int]] = [set() for _ in train.class_names]
    is_known = train.layout == "shapenetpart" and all(known_categories(train.class_names, none).parts)
    learned = none if is_known else occurring_parts(train)  # of the data set itself the ranges hold, unread
    parts = known_categories(train.class_names, learned).parts
    anywhere = tuple(sorted(set().union(*parts)))
    allowed = tuple(some or anywhere for some in parts)
    return Splits(train, test, allowed, parts if is_known else _scored(parts, occurring_parts(test)))


def _scored(learned: list | tuple, occurring: list[set[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sorted({*some, *found})) for some, found in zip(learned, occurring, strict=True))
