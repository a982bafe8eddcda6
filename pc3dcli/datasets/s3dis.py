# SPDX-License-Identifier: Apache-2.0
"""S3DIS: the cloud of a room, <room>.txt with x y z r g b a line, and its instances, Annotations/<class>_<number>.txt.

The files of Annotations repeat the lines of their points, so that a point's instance is found by its coordinates.  A
point of two instances belongs to the one that is later in the order of names, ours; points of none are unlabelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pc3dcli.datasets.scene import OpenOptions, Scene
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.class_lists import label_id
from pc3dcli.formats.cloud import read_text_cloud

PATTERN = "<room>.txt and Annotations/<class>_<number>.txt"
MAX_INSTANCES = 999  # of a room, that fit below the label
MAX_FOREIGN = 0.01  # of the annotated points may be missing in the room; ours


def matches(path: Path) -> bool:
    """Say whether `path` is a folder of this layout."""
    return (path / "Annotations").is_dir() and (path / _cloud_name(path)).is_file()


def open_scene(scene: str, path: Path, options: OpenOptions) -> Scene:
    """Return the scene of one room; nothing is read."""
    return Scene(scene, path, "s3dis", (), _cloud_name(path))


def truth_files(path: Path) -> tuple[Path, ...]:
    """Return the files that say what the points are."""
    return tuple(sorted((path / "Annotations").glob("*.txt")))


def instance_ids(path: Path, label_ids: Mapping[str, int]) -> np.ndarray:
    """Read one id per point of the room, (N,) int64, label * 1000 + instance, 0 for none.

    label_ids  of the names of classes, in lower case; other names are `class_lists.UNLISTED`
    raises     FormatError for malformed files, InputError for annotations of another room
    """
    files = truth_files(path)
    if len(files) > MAX_INSTANCES:
        raise FormatError(f"holds {len(files)} instances, expected at most {MAX_INSTANCES}", file=path)
    room = read_text_cloud(path / _cloud_name(path)).xyz
    parts = [read_text_cloud(file).xyz for file in files]
    ids = [label_id(file.stem.rpartition("_")[0], label_ids) * 1000 + number for number, file in enumerate(files, 1)]
    of_point = np.repeat(np.array(ids, np.int64), [len(part) for part in parts])
    codes = _codes(np.concatenate((room, *parts)))
    known, row = np.unique(codes[: len(room)], return_inverse=True)
    annotated = codes[len(room) :]
    found = np.searchsorted(known, annotated)
    is_known = found < len(known)
    is_known[is_known] = known[found[is_known]] == annotated[is_known]
    if np.count_nonzero(~is_known) > MAX_FOREIGN * len(annotated):
        message = f"{np.count_nonzero(~is_known)} of {len(annotated)} annotated points are not in {_cloud_name(path)}"
        raise InputError(message, file=path)
    value = np.zeros(len(known), np.int64)
    value[found[is_known]] = of_point[is_known]
    return value[row.reshape(-1)]


def _codes(xyz: np.ndarray) -> np.ndarray:
    """Return a number for each point, (N,) int64, the same for points at one place."""
    code = np.zeros(len(xyz), np.int64)
    for axis in range(3):
        values, row = np.unique(xyz[:, axis], return_inverse=True)
        code = code * len(values) + row.reshape(-1)
    return code


def _cloud_name(path: Path) -> str:
    return f"{path.resolve().name}.txt"
