# SPDX-License-Identifier: Apache-2.0
"""Object clouds on disk.  One file here is one layout: `matches(path)` recognises it, `open_shapes(path, split)` reads.

Opening lists names and labels; points are read shape by shape.
"""

from __future__ import annotations

from pathlib import Path

from pc3dcli.datasets import (
    cloud_folder,
    modelnet40,
    scanobjectnn,
    shape_arrays,
    shape_hdf5,
    shapenet55,
    shapenet_parts,
)
from pc3dcli.datasets.shape import SPLITS, Shape, ShapeSet
from pc3dcli.errors import InputError, UsageError

__all__ = ["LAYOUTS", "SPLITS", "Shape", "ShapeSet", "open_shapes"]

LAYOUTS = {  # in the order they are tried
    "shapenet55": shapenet55,
    "shapenetpart": shapenet_parts,
    "modelnet40": modelnet40,
    "modelnet-h5": shape_hdf5,
    "scanobjectnn": scanobjectnn,
    "arrays": shape_arrays,
    "clouds": cloud_folder,
}
PICKLES = (".dat", ".pkl", ".pickle")  # caches of training code


def open_shapes(path: Path, *, dataset: str = "auto", split: str = "train") -> ShapeSet:
    """Open the shapes of one split at `path`.

    dataset  a key of LAYOUTS, or "auto" for the first that matches
    split    train, val, test, trainval or all; shapes without splits are all of train
    raises   UsageError for an unknown dataset or split, InputError when nothing is found, FormatError for damaged lists
    """
    path = Path(path)
    if dataset != "auto" and dataset not in LAYOUTS:
        raise UsageError(f"unknown dataset {dataset!r}, expected auto, {', '.join(LAYOUTS)}")
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}, expected {', '.join(SPLITS)}")
    if not path.exists():
        raise InputError("no such file or folder", file=path)
    try:
        entries = sorted(path.iterdir()) if path.is_dir() else [path]
    except OSError as error:
        raise InputError(f"cannot list it: {error.strerror}", file=path) from None
    layouts = LAYOUTS if dataset == "auto" else {dataset: LAYOUTS[dataset]}
    for layout in layouts.values():
        if layout.matches(path):
            return layout.open_shapes(path, split)
    _refuse_pickles(entries)
    needs = "".join(f"\n    {name:<16}{layout.PATTERN}" for name, layout in layouts.items())
    raise InputError("found no shapes", file=path, hint=f"shapes are one of{needs}")


def _refuse_pickles(files: list[Path]) -> None:
    """Say why caches of other programs are not read, where there is nothing else."""
    pickles = [file for file in files if file.suffix in PICKLES]
    if pickles:
        hint = "give the folder of the points that it was made from"
        raise InputError("is a pickle, which can run code and is never loaded", file=pickles[0], hint=hint)
