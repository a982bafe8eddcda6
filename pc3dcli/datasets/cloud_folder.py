# SPDX-License-Identifier: Apache-2.0
"""Any folder of object clouds and meshes, one a file: .ply, .pcd, .off, .npy (n, 3 or more) or .npz with points (n, 3).

Folders named train, val and test are splits, wherever they stand; the first other folder on the way to a file is its
class.  So chair/train/chair_0001.off (ModelNet40 as distributed), train/chair/1.ply, chair/1.npy and 1.npy all work.
Meshes are sampled uniformly by area with a seed from their names; the number of points is ours.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from pc3dcli.datasets.shape import SPLITS, Shape, ShapeSet, as_float32, need_shapes, shape_names
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.arrays import read_arrays, read_npy
from pc3dcli.formats.cloud import Cloud, read_cloud
from pc3dcli.formats.off import read_off
from pc3dcli.geometry.mesh_sampling import sample_surface

SUFFIXES = (".ply", ".pcd", ".off", ".npy", ".npz")
PATTERN = ".ply, .pcd, .off, .npy or .npz clouds as 1.ply, <class>/1.ply, <class>/train/1.ply or train/<class>/1.ply"
NUM_SAMPLED = 8192  # points of a mesh; as many as ShapeNet55 has


def matches(path: Path) -> bool:
    """Tell whether `path` is a cloud or a folder that leads to one."""
    if path.is_file():
        return path.suffix.lower() in SUFFIXES
    return bool(_files(path))


def open_shapes(path: Path, split: str) -> ShapeSet:
    """List the files of a split; folders without splits are all of train."""
    root, files = (path.parent, [path]) if path.is_file() else (path, _files(path))
    places = [(file, *_split_and_class(file.relative_to(root))) for file in files]
    class_names = _class_names([place[2] for place in places], path)
    places = _of_split(places, path, split)
    names = shape_names([file.relative_to(root).with_suffix("").as_posix() for file, _, _ in places], path)
    label = np.array([class_names.index(place[2]) for place in places], np.int64) if class_names else None

    def load(index: int) -> Shape:
        return Shape(read_points(places[index][0], names[index]), None if label is None else int(label[index]))

    return ShapeSet("clouds", path, split, names, class_names, label, load)


def read_points(file: Path, name: str) -> np.ndarray:
    """Read the points (n, 3) float32 of one file; a mesh is sampled with a seed from `name`.

    raises  InputError when it cannot be read, FormatError when it is damaged or a mesh without area
    """
    suffix = file.suffix.lower()
    if suffix in (".npy", ".npz"):
        return _array(file, suffix)
    cloud = read_off(file) if suffix == ".off" else read_cloud(file)
    if cloud.faces is None or not len(cloud.faces):
        return as_float32(cloud.xyz)
    return _sampled(cloud, file, name)


def _sampled(cloud: Cloud, file: Path, name: str) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    try:
        return as_float32(sample_surface(cloud.xyz, cloud.faces, NUM_SAMPLED, rng))
    except ValueError as error:
        raise FormatError(str(error), file=file) from None


def _array(file: Path, suffix: str) -> np.ndarray:
    if suffix == ".npy":
        points = read_npy(file)
    else:
        arrays = read_arrays(file, ("points", "xyz", "pos"))
        if len(arrays) != 1:
            found = f"arrays {', '.join(sorted(arrays))}" if arrays else "no array"
            raise FormatError(f"found {found} of points, xyz and pos, expected one", file=file)
        points = next(iter(arrays.values()))
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind != "f":
        message = f"found {points.shape} {points.dtype}, expected floats (n, 3), or more columns"
        raise FormatError(message, file=file)
    return as_float32(points[:, :3])


def _files(folder: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """Return the clouds below a folder in the order of their paths; hidden files and folders are left out.

    above  the real folders that lead here: a link back to one of them is not followed
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot list it: {error.strerror}", file=folder) from None
    above, found = (*above, folder.resolve()), []
    for entry in entries:
        if entry.is_dir():
            found += [] if entry.resolve() in above else _files(entry, above)
        elif entry.suffix.lower() in SUFFIXES:
            found.append(entry)
    return found


def _split_and_class(relative: Path) -> tuple[str | None, str | None]:
    folders = relative.parts[:-1]
    split = next((folder for folder in folders if folder in SPLITS[:3]), None)
    return split, next((folder for folder in folders if folder not in SPLITS[:3]), None)


def _class_names(found: list[str | None], path: Path) -> tuple[str, ...]:
    """Return the names of all class folders, sorted; () when no file is in one."""
    names = sorted({name for name in found if name is not None})
    if names and None in found:
        hint = "one folder a class, or none at all"
        raise FormatError(f"{found.count(None)} clouds lie beside folders of classes", file=path, hint=hint)
    return tuple(names)


def _of_split(places: list[tuple], path: Path, split: str) -> list[tuple]:
    splits = {place[1] for place in places}
    if split != "all" and splits != {None}:
        if None in splits:
            raise FormatError("some clouds lie in folders train, val or test and some do not", file=path)
        wanted = ("train", "val") if split == "trainval" else (split,)
        places = [place for place in places if place[1] in wanted]
    elif split not in ("all", "train", "trainval"):
        places = []
    need_shapes(places, path, split, f"folders {split}/ or <class>/{split}/; --split all takes every file")
    return places
