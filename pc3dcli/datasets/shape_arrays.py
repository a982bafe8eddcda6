# SPDX-License-Identifier: Apache-2.0
"""Shapes as arrays: `.npz` or `.safetensors` files of many shapes each, alone or in a folder.

points (S, N, 3) of any float type; or pos (P, 3) of all shapes in one row, cut by start (S+1,).  Beside them, where
known: label (S,), class_names, part of each point, part_names, id of each shape.  A file belongs to the split that
stands in its name between underscores: train.npz, extra_train_chair.npz, cap_test.npz.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pc3dcli.datasets.shape import SPLITS, Shape, ShapeSet, as_float32, need_shapes, shape_names
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.arrays import read_arrays

PATTERN = "a .npz with points (S, N, 3), or a folder of them: train.npz, test.npz"
SUFFIXES = (".npz", ".safetensors")
MAX_CLASSES = 10_000  # without names; ours
_ARRAYS = ("points", "pos", "start", "label", "class_names", "part", "part_names", "id")


def matches(path: Path) -> bool:
    """Tell whether `path` is a file of many shapes, or a folder with such files and no folders beside them."""
    if path.is_dir():
        files = _files(path)
        return bool(files) and (any(split_of(file) for file in files) or _holds_many(files[0]))
    return path.suffix in SUFFIXES and path.is_file() and _holds_many(path)


def open_shapes(path: Path, split: str) -> ShapeSet:
    """Open the files of one split; the arrays are read now and kept in their stored type."""
    files = files_of(path, split)
    blocks = [_read_block(file) for file in files]
    classes = _same(blocks, "class_names", files)
    parts = _same(blocks, "part_names", files)
    label = _labels(blocks, files, classes)
    if label is not None and not classes:
        classes = _numbered(path if path.is_dir() else files[0])
    places = [(number, row) for number, block in enumerate(blocks) for row in range(len(block["xyz"]))]

    def load(index: int) -> Shape:
        number, row = places[index]
        block = blocks[number]
        part = block["part"][row].astype(np.int64) if "part" in block else None
        return Shape(as_float32(block["xyz"][row]), None if label is None else int(label[index]), part)

    names = shape_names([str(name) for block in blocks for name in block["id"]], path)
    return ShapeSet("arrays", path, split, names, classes, label, load, parts, files=tuple(files))


def files_of(path: Path, split: str) -> list[Path]:
    """Return the files of a split: of a folder those named after it, or all where none is named after a split.

    raises  InputError when there is none, and for a single file of another split
    """
    files = _files(path) if path.is_dir() else [path]
    if split != "all":
        wanted = ("train", "val") if split == "trainval" else (split,)
        is_split = any(split_of(file) for file in files)
        files = [file for file in files if (split_of(file) in wanted if is_split else split in ("train", "trainval"))]
    need_shapes(files, path, split, f"files with {split!r} in their names; --split all takes every file")
    return files


def split_of(file: Path) -> str | None:
    """Return the split that stands in a file's name as a word, None without one."""
    words = re.split(r"[^a-z]+", file.stem.lower())
    return next((split for split in SPLITS[:3] if split in words), None)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())


def _holds_many(file: Path) -> bool:
    """Tell whether a file holds shapes by the shape of its points; a damaged one counts, its reading will say why."""
    try:
        arrays = read_arrays(file, ("points", "pos", "start"))
    except (FormatError, InputError):
        return True
    return "start" in arrays or arrays.get("points", np.empty(0)).ndim == 3


def _read_block(file: Path) -> dict:
    """Read one file into lists of a shape each: xyz, part where known, id; labels and names as they are."""
    arrays = read_arrays(file, _ARRAYS)
    if "points" not in arrays and "pos" not in arrays:
        raise FormatError("expected an array points (S, N, 3), or pos (P, 3) and start (S+1,)", file=file)
    start = arrays.get("start")
    xyz = arrays["points" if "points" in arrays else "pos"]
    block = {"xyz": _pieces(xyz, start, file, (3,))}
    if "part" in arrays:
        if arrays["part"].dtype.kind not in "iu" or (arrays["part"] < 0).any():
            raise FormatError(f"parts are {arrays['part'].dtype}, expected integers from 0", file=file)
        highest, count = arrays["part"].max(initial=0), np.size(arrays.get("part_names", ()))
        if count and highest >= count:
            raise FormatError(f"found part {highest}, expected 0 to {count - 1}", file=file)
        block["part"] = _pieces(arrays["part"], start, file, ())
    for name in block:
        if [len(piece) for piece in block[name]] != [len(piece) for piece in block["xyz"]]:
            raise FormatError(f"{name} and points are of different sizes", file=file)
    count = len(block["xyz"])
    ids = arrays.get("id", np.array([f"{file.stem}_{index:05d}" for index in range(count)]))
    if ids.shape != (count,) or ids.dtype.kind not in "Uiu":
        raise FormatError(f"id is {ids.shape} {ids.dtype}, expected text a shape, {count}", file=file)
    return block | {"id": ids} | {name: arrays[name] for name in arrays.keys() & {"label", "class_names", "part_names"}}


def _pieces(array: np.ndarray, start: np.ndarray | None, file: Path, tail: tuple[int, ...]) -> np.ndarray | list:
    """Return an array of (S, N, *tail), or the pieces of (P, *tail) between `start`."""
    is_numbers = array.dtype.kind in ("f" if tail else "iu")
    if array.ndim != len(tail) + (2 if start is None else 1) or array.shape[array.ndim - len(tail) :] != tail:
        is_numbers = False
    if not is_numbers:
        raise FormatError(f"found {array.shape} {array.dtype}, expected numbers of shapes x points x {tail}", file=file)
    if start is None:
        return array
    is_start = start.ndim == 1 and start.dtype.kind in "iu" and start.size > 1
    cuts = start.astype(np.int64) if is_start else np.zeros(1, np.int64)
    if not is_start or cuts[0] != 0 or cuts[-1] != len(array) or (np.diff(cuts) < 0).any():
        raise FormatError(f"start does not cut {array.shape} into shapes: expected 0, ..., {len(array)}", file=file)
    return np.split(array, cuts[1:-1])


def _same(blocks: list[dict], name: str, files: list[Path]) -> tuple[str, ...]:
    """Return names that all files agree on; () where none has them."""
    found = [tuple(str(text) for text in np.ravel(block[name])) if name in block else () for block in blocks]
    for file, names in zip(files, found, strict=True):
        if names != found[0]:
            raise FormatError(f"{name} are {len(names)}, not the {len(found[0])} of {files[0].name}", file=file)
        if len(set(names)) < len(names):
            raise FormatError(f"{name} name one twice", file=file)
    return found[0]


def _labels(blocks: list[dict], files: list[Path], classes: tuple[str, ...]) -> np.ndarray | None:
    if not all("label" in block for block in blocks):
        return None
    for file, block in zip(files, blocks, strict=True):
        label, count = block["label"], len(block["xyz"])
        label = label[:, 0] if label.ndim == 2 and label.shape[1] == 1 else label
        if label.shape != (count,) or label.dtype.kind not in "iu":
            raise FormatError(f"label is {label.shape} {label.dtype}, expected an integer a shape, {count}", file=file)
        wrong = (label < 0) | ((label >= len(classes)) if classes else False)
        if wrong.any():
            raise FormatError(f"found label {label[wrong][0]}, expected 0 to {len(classes) - 1}", file=file)
        block["label"] = label
    return np.concatenate([block["label"].astype(np.int64) for block in blocks])


def _numbered(path: Path) -> tuple[str, ...]:
    """Name classes by their numbers, up to the highest label of any split, so that splits agree."""
    found = [read_arrays(file, ("label",)).get("label") for file in (_files(path) if path.is_dir() else [path])]
    highest = max(int(label.max(initial=0)) for label in found if label is not None and label.dtype.kind in "iu")
    if highest >= MAX_CLASSES:
        raise FormatError(f"found label {highest}, expected fewer than {MAX_CLASSES} classes", file=path)
    return tuple(str(index) for index in range(highest + 1))
