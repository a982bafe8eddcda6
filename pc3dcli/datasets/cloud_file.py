# SPDX-License-Identifier: Apache-2.0
"""A cloud or mesh file as a scene without frames.  Its content is read by whoever needs the points.

The points of a PLY may be labelled: `instance_id`, as pc3d-labels(5) has it, negative for none, or `instance`, where 0
is none too; a positive `label` beside it is the id of its class.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pc3dcli.datasets.scene import OpenOptions, Scene
from pc3dcli.errors import FormatError
from pc3dcli.formats.class_lists import UNLISTED
from pc3dcli.formats.cloud import SUFFIXES, read_cloud

MAX_INSTANCES, MAX_LABEL = 999, 1_000_000  # of a cloud, and of its label ids
PATTERN = "a .ply, .pcd or .bin file, or a folder of them"


def matches(path: Path) -> bool:
    """Say whether `path` is a file with the suffix of a cloud."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


def open_scene(scene: str, path: Path, options: OpenOptions) -> Scene:
    """Return the scene of one cloud file; nothing is read.  A link stands for the file that it leads to."""
    file = path.resolve() if path.is_symlink() else path
    return Scene(scene, file.parent, "cloud", (), file.name)


def truth_files(path: Path) -> tuple[Path, ...]:
    """Return the file that says what the points are; none of formats that cannot say it."""
    return (path,) if path.suffix.lower() == ".ply" else ()


def instance_ids(path: Path, label_ids: Mapping[str, int]) -> np.ndarray:
    """Read one id per point (N,) int64, label * 1000 + instance, 0 for none.

    label_ids  not used: the file has ids of its own
    raises     FormatError for a file without instances
    """
    extra = read_cloud(path).extra
    name = next((name for name in ("instance_id", "instance") if name in extra), None)
    if name is None or extra[name].dtype.kind not in "iu":
        raise FormatError("its points have no integer property instance_id or instance", file=path)
    instance = extra[name].astype(np.int64)
    is_instance = instance >= (0 if name == "instance_id" else 1)
    numbers, row = np.unique(instance[is_instance], return_inverse=True)
    if len(numbers) > MAX_INSTANCES:
        raise FormatError(f"holds {len(numbers)} instances, expected at most {MAX_INSTANCES}", file=path)
    label = extra.get("label", np.zeros(len(instance), np.int8))
    if label.dtype.kind not in "iu" or len(label) and label.max() > MAX_LABEL:
        raise FormatError(f"its property label holds no integers up to {MAX_LABEL}", file=path)
    label = np.where(label > 0, label.astype(np.int64), UNLISTED)
    ids = np.zeros(len(instance), np.int64)
    ids[is_instance] = label[is_instance] * 1000 + row.reshape(-1) + 1
    return ids
