# SPDX-License-Identifier: Apache-2.0
"""ScanObjectNN: `training_objectdataset*.h5` and `test_objectdataset*.h5` with data (n, 2048, 3) and label (n,).

`main_split/` is OBJ-BG, `main_split_nobg/` OBJ-ONLY, `*_augmentedrot_scale75` the hardest variant PB-T50-RS.  A folder
with several variants needs the name of one of the two files instead, beside which the other is found.  The published
loaders do not normalise.
"""

from __future__ import annotations

from pathlib import Path

from pc3dcli.datasets.shape import ShapeSet, need_shapes
from pc3dcli.datasets.shape_hdf5 import read_blocks
from pc3dcli.errors import InputError

PATTERN = "training_objectdataset*.h5 and test_objectdataset*.h5 (ScanObjectNN), or one of the two files"
CLASSES = (
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door"),
    *("shelf", "table", "bed", "pillow", "sink", "sofa", "toilet"),
)
_PREFIX = {"train": "training_objectdataset", "test": "test_objectdataset"}


def matches(path: Path) -> bool:
    """Tell whether `path` is a file of ScanObjectNN or a folder that has one."""
    if path.is_dir():
        return any(_variant(file) is not None for file in path.iterdir())
    return _variant(path) is not None


def open_shapes(path: Path, split: str) -> ShapeSet:
    """Open a variant; a file stands for its variant where train or test is asked for, and for itself with all.

    raises  InputError when a folder has several variants
    """
    folder = path if path.is_dir() else path.parent
    variants = [_variant(path)] if path.is_file() else sorted({_variant(file) for file in path.iterdir()} - {None})
    if len(variants) > 1:
        names = ", ".join(f"{_PREFIX['train']}{variant}.h5" for variant in variants)
        raise InputError(f"holds {len(variants)} variants of ScanObjectNN", file=path, hint=f"name one of {names}")
    wanted = {"trainval": ("train",), "all": ("train", "test")}.get(split, (split,))
    files = [folder / f"{_PREFIX[name]}{variants[0]}.h5" for name in wanted if name in _PREFIX]
    files = [path] if path.is_file() and split == "all" else [file for file in files if file.is_file()]
    need_shapes(files, path, split, f"{_PREFIX.get(split, '*_objectdataset')}{variants[0]}.h5")
    return read_blocks("scanobjectnn", path, split, files, CLASSES)


def _variant(file: Path) -> str | None:
    """Return what follows the prefix in the name of a file, "" for the plain variant; None for other files."""
    if file.suffix != ".h5":
        return None
    return next((file.stem.removeprefix(start) for start in _PREFIX.values() if file.stem.startswith(start)), None)
