# SPDX-License-Identifier: Apache-2.0
"""ModelNet40 (or ModelNet10), resampled with normals: `<class>/<class>_0001.txt` with 10,000 rows x,y,z,nx,ny,nz.

`modelnet40_{train,test}.txt` list the shapes, `modelnet40_shape_names.txt` the classes in their order.  The pickled
caches that training code leaves beside them (`modelnet40_train_8192pts_fps.dat`) are never read.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pc3dcli.datasets.shape import Shape, ShapeSet, as_float32, need_shapes
from pc3dcli.errors import FormatError
from pc3dcli.formats.number_text import parse_numbers
from pc3dcli.formats.paths import read_file, resolve_inside

PATTERN = "modelnet40_shape_names.txt, modelnet40_train.txt and <class>/*.txt"
COLUMNS = 6  # x y z nx ny nz
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,150}_[0-9]{1,10}")


def matches(path: Path) -> bool:
    """Tell whether a folder holds the list of classes."""
    return any((path / f"{prefix}_shape_names.txt").is_file() for prefix in ("modelnet40", "modelnet10"))


def open_shapes(path: Path, split: str) -> ShapeSet:
    """Open the shapes that the list of a split names; "all" is train and test."""
    prefix = "modelnet40" if (path / "modelnet40_shape_names.txt").is_file() else "modelnet10"
    class_names = tuple(name for name, _ in _lines(path / f"{prefix}_shape_names.txt"))
    class_of = {name: index for index, name in enumerate(class_names)}
    if len(class_of) < len(class_names):
        raise FormatError("a class is listed twice", file=path / f"{prefix}_shape_names.txt")
    wanted = {"trainval": ("train",), "all": ("train", "test")}.get(split, (split,))
    names, label = [], []
    for file in [path / f"{prefix}_{part}.txt" for part in wanted if part in ("train", "test")]:
        for name, line in _lines(file):
            if not _NAME.fullmatch(name) or name.rsplit("_", 1)[0] not in class_of:
                raise FormatError(f"found {name[:60]!r}, expected <class>_0001", file=file, line=line)
            names.append(name)
            label.append(class_of[name.rsplit("_", 1)[0]])
    need_shapes(names, path, split, f"{prefix}_{split}.txt")
    if len(set(names)) < len(names):
        raise FormatError("a shape is listed twice", file=path)

    def load(index: int) -> Shape:
        file = resolve_inside(path, f"{class_names[label[index]]}/{names[index]}.txt")
        return Shape(as_float32(parse_numbers(read_file(file), COLUMNS, file)[:, :3]), label[index])

    return ShapeSet("modelnet40", path, split, tuple(names), class_names, np.array(label, np.int64), load)


def _lines(file: Path) -> list[tuple[str, int]]:
    """Return the lines of a list that are not empty, with their numbers."""
    lines = read_file(file).decode("utf-8", "replace").splitlines()
    return [(line.strip(), number) for number, line in enumerate(lines, 1) if line.strip()]
