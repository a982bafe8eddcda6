# SPDX-License-Identifier: Apache-2.0
"""ModelNet40 as HDF5: `ply_data_{train,test}*.h5` with data (n, 2048, 3) and label (n, 1), and `shape_names.txt`.

The published linear SVM takes the first 1,024 points as they are, without normalisation, and so
does `eval --task svm`; elsewhere points are sampled as of any layout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pc3dcli.datasets.shape import Shape, ShapeSet, as_float32, need_shapes
from pc3dcli.errors import FormatError
from pc3dcli.formats.hdf5 import read_hdf5
from pc3dcli.formats.paths import read_file

PATTERN = "ply_data_train0.h5 ... (ModelNet40)"
NAMES = "shape_names.txt"
NUM_CLASSES = 40


def matches(path: Path) -> bool:
    """Tell whether a folder holds `ply_data_*.h5`."""
    return path.is_dir() and any(path.glob("ply_data_*.h5"))


def open_shapes(path: Path, split: str) -> ShapeSet:
    """Open the files of a split; their arrays are read now."""
    wanted = {"trainval": ("train",), "all": ("train", "test")}.get(split, (split,))
    files = [file for name in wanted for file in sorted(path.glob(f"ply_data_{name}*.h5"))]
    need_shapes(files, path, split, f"ply_data_{wanted[0]}*.h5")
    return read_blocks("modelnet-h5", path, split, files, _class_names(path / NAMES))


def read_blocks(layout: str, path: Path, split: str, files: list[Path], class_names: tuple[str, ...]) -> ShapeSet:
    """Read files of data (n, points, 3) and label (n,) or (n, 1) into one set of shapes that are left as they are.

    raises  FormatError for arrays of other shapes, numbers that are not finite and labels beyond the classes
    """
    points, labels, names = [], [], []
    for file in files:
        arrays = read_hdf5(file, ("data", "label"))
        data, label = arrays["data"], arrays["label"]
        if data.ndim != 3 or data.shape[2] != 3 or data.dtype.kind != "f":
            raise FormatError(f"data is {data.shape} {data.dtype}, expected shapes x points x 3 numbers", file=file)
        if label.shape not in ((len(data),), (len(data), 1)) or label.dtype.kind not in "iu":
            raise FormatError(f"label is {label.shape} {label.dtype}, expected an integer a shape", file=file)
        label = label.reshape(-1).astype(np.int64)
        wrong = (label < 0) | (label >= len(class_names))
        if wrong.any():
            raise FormatError(f"found label {label[wrong][0]}, expected 0 to {len(class_names) - 1}", file=file)
        points += list(as_float32(data))
        labels.append(label)
        names += [f"{file.stem}_{index:05d}" for index in range(len(data))]
    label = np.concatenate(labels)

    def load(index: int) -> Shape:
        return Shape(points[index], int(label[index]))

    need_shapes(names, path, split, "arrays data and label")
    return ShapeSet(layout, path, split, tuple(names), class_names, label, load, is_raw=True)


def _class_names(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        return tuple(str(index) for index in range(NUM_CLASSES))
    names = tuple(read_file(file).decode("utf-8", "replace").split())
    if len(names) != NUM_CLASSES or len(set(names)) != NUM_CLASSES:
        raise FormatError(f"found {len(names)} names, expected {NUM_CLASSES} different ones", file=file)
    return names
