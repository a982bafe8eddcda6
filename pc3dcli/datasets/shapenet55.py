# SPDX-License-Identifier: Apache-2.0
"""ShapeNet55: `shapenet_pc/<synset>-<model>.npy` with (8192, 3) points; lists `ShapeNet-55/{train,test}.txt`.

Classes are the synsets of both lists, sorted.  Model ids may hold dashes: a name is cut at its first one.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pc3dcli.datasets.shape import Shape, ShapeSet, as_float32, need_shapes
from pc3dcli.errors import FormatError
from pc3dcli.formats.arrays import read_npy
from pc3dcli.formats.paths import read_file, resolve_inside

PATTERN = "shapenet_pc/*.npy and ShapeNet-55/train.txt (ShapeNet55)"
POINTS, LISTS = "shapenet_pc", "ShapeNet-55"
_NAME = re.compile(r"[0-9A-Za-z]{1,40}-[0-9A-Za-z_.-]{1,150}\.npy")


def matches(path: Path) -> bool:
    """Tell whether a folder holds the points and a list."""
    return (path / POINTS).is_dir() and (path / LISTS).is_dir()


def open_shapes(path: Path, split: str) -> ShapeSet:
    """Open the shapes that the list of a split names; "all" is train and test."""
    lists = {name: _listed(path / LISTS / f"{name}.txt") for name in ("train", "test")}
    wanted = {"trainval": ("train",), "all": ("train", "test")}.get(split, (split,))
    names = [name for part in wanted for name in lists.get(part, [])]
    need_shapes(names, path, split, f"{LISTS}/{split}.txt")
    if len(set(names)) < len(names):
        raise FormatError("a shape is listed twice", file=path / LISTS)
    class_names = tuple(sorted({_synset(name) for listed in lists.values() for name in listed}))
    class_of = {name: index for index, name in enumerate(class_names)}
    label = np.array([class_of[_synset(name)] for name in names], np.int64)

    def load(index: int) -> Shape:
        file = resolve_inside(path, f"{POINTS}/{names[index]}.npy")
        return Shape(_read_points(file), int(label[index]))

    return ShapeSet("shapenet55", path, split, tuple(names), class_names, label, load)


def _listed(file: Path) -> list[str]:
    """Return the names without suffix of a list; [] when there is none."""
    if not file.is_file():
        return []
    lines = read_file(file).decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip() and not _NAME.fullmatch(line.strip()):
            raise FormatError(f"found {line[:60]!r}, expected <synset>-<model>.npy", file=file, line=number)
    return [line.strip().removesuffix(".npy") for line in lines if line.strip()]


def _read_points(file: Path) -> np.ndarray:
    points = read_npy(file)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind != "f":
        raise FormatError(f"found {points.shape} {points.dtype}, expected (8192, 3) numbers", file=file)
    return as_float32(points)


def _synset(name: str) -> str:
    return name.split("-", 1)[0]
