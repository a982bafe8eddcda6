# SPDX-License-Identifier: Apache-2.0
"""ShapeNetPart with normals: `<synset>/<id>.txt` rows x y z nx ny nz part, split by the lists in `train_test_split/`.

The label of a shape is its category, in the order of `synsetoffset2category.txt`; parts are numbered 0 to 49 over all.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pc3dcli.datasets.shape import Shape, ShapeSet, as_float32, need_shapes
from pc3dcli.errors import FormatError
from pc3dcli.formats.number_text import parse_numbers
from pc3dcli.formats.paths import read_file, resolve_inside
from pc3dcli.formats.shapenet_part import NUM_PARTS, categories, find_shapes, is_dataset

PATTERN = "synsetoffset2category.txt, train_test_split/*.json and <synset>/*.txt (ShapeNetPart)"
COLUMNS = 7


def matches(path: Path) -> bool:
    """Tell whether a folder is ShapeNetPart as it is distributed."""
    return path.is_dir() and is_dataset(path)


def open_shapes(path: Path, split: str) -> ShapeSet:
    """Open the shapes of a split; "trainval" is what networks are trained on, "all" every file."""
    synset_of = categories(path)
    files = find_shapes(path, None if split == "all" else split)
    class_names, synsets = tuple(synset_of), list(synset_of.values())
    need_shapes(files, path, split, "train_test_split/*.json")
    names = tuple(files)
    unknown = next((name for name in names if name.split("/")[0] not in synsets), None)
    if unknown is not None:
        raise FormatError(f"shape {unknown} is of no category", file=path / "synsetoffset2category.txt")
    label = np.array([synsets.index(name.split("/")[0]) for name in names], np.int64)

    def load(index: int) -> Shape:
        xyz, part = _read_points(resolve_inside(path, f"{names[index]}.txt"))
        return Shape(xyz, int(label[index]), part)

    parts = tuple(str(index) for index in range(NUM_PARTS))
    return ShapeSet("shapenetpart", path, split, names, class_names, label, load, parts)


def _read_points(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the points (n, 3) float32 and their parts (n,) int64."""
    table = parse_numbers(read_file(file), COLUMNS, file)
    part = table[:, 6]
    is_part = (part >= 0) & (part < NUM_PARTS) & (part == np.floor(part))
    if not is_part.all():
        line = int(np.argmin(is_part)) + 1
        raise FormatError(f"found part {part[line - 1]:g}, expected 0 to {NUM_PARTS - 1}", file=file, line=line)
    return as_float32(table[:, :3]), part.astype(np.int64)
