# SPDX-License-Identifier: Apache-2.0
"""What `pc3d view` shows of an object cloud: its points, scores of `mask-score` on them, parts of `segment`.

Streams do not name the points of a shape as a file; they are read again from its data set.  A PLY that either command
wrote has them itself, and says in a comment which command it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pc3dcli.commands.patch_score_file import ScoredPatches, parse_patch_score
from pc3dcli.commands.view_scene import SceneContent, ShownCloud, ShownInstance
from pc3dcli.errors import FormatError, InputError, Pc3dError
from pc3dcli.formats.cloud import Cloud, xyz_sha256
from pc3dcli.formats.paths import resolve_inside
from pc3dcli.formats.tensors import read_tensor
from pc3dcli.geometry.heat import interpolate_heat

if TYPE_CHECKING:
    from pc3dcli.datasets.shape import ShapeSet

MARKED = 10  # patches of highest score whose centers bear their rank; ours
PLY_HEADER = 1 << 10, 1 << 20  # lines and bytes looked at; ours
NO_POINTS = np.zeros((0, 3), np.float32)


@dataclass(frozen=True)
class PointHeat:
    """Scores of a cloud.

    values      (N,) float32, score of each point shown
    centers     (n, 3) float32, centers of the patches of highest score, highest first, at most MARKED
    patches     what is known of the patches, None where only the points have scores
    patch       (N,) int64, the patch whose center is nearest to each point; None without patches
    difficulty  (N,) float32 measured, None where it was not
    """

    values: np.ndarray
    centers: np.ndarray = dataclasses.field(default_factory=lambda: NO_POINTS)
    patches: ScoredPatches | None = None
    patch: np.ndarray | None = None
    difficulty: np.ndarray | None = None


def shown_shape(content: SceneContent, cloud: Cloud, chosen: np.ndarray) -> ShownCloud:
    """Return the points `chosen` of an object cloud with what is known of them.

    raises  FormatError for scores or parts that do not fit the cloud
    """
    xyz = cloud.xyz[chosen]
    heat, parts, category = None, (), shape_class(content.record)
    if content.patches is not None:
        heat = point_heat(content.patches, xyz)
    elif "heat" in cloud.extra:
        heat = PointHeat(np.nan_to_num(cloud.extra["heat"][chosen].astype(np.float32)))
    if content.parts is not None:
        parts = part_instances(content.parts, content.side_folders, len(cloud.xyz), chosen)
        category = content.parts.get("category") or category
    elif "label" in cloud.extra:
        labels = np.nan_to_num(cloud.extra["label"].astype(np.float64), nan=-1).clip(-1, 1 << 30).astype(np.int64)
        parts = _parts(labels, chosen, None)
    category = category if isinstance(category, str) else None
    return ShownCloud(xyz, None, None, len(cloud.xyz), tuple(parts), heat, is_object=True, category=category)


def read_shape_points(record: dict) -> Cloud:
    """Return the points of a shape that a `scene` record of mask-score or segment names.

    raises  InputError, FormatError when they are not there or not those that the records were made for
    """
    shapes, index = _find(record)
    xyz = shapes.read(index).xyz
    expected = record.get("xyz_sha256")
    if expected is not None and xyz_sha256(xyz) != expected:
        message = f"the points of {record['scene']} are not those of the records (xyz_sha256 differs)"
        raise FormatError(message, file=record["root"])
    return Cloud(xyz)


def shape_class(record: dict) -> str | None:
    """Return the class that the data set of a shape says it has, None where the points are a file of their own."""
    if record.get("points") is not None:
        return None
    shapes, index = _find(record)
    return None if shapes.label is None else shapes.class_names[shapes.label[index]]


def up_axis(content: SceneContent) -> str:
    """Return the axis that the record of a scene says points up, else that of the data set of a shape."""
    up = content.record.get("up")
    if up is None and content.is_object and content.record.get("points") is None:
        up = _find(content.record)[0].up
    return "z" if up is None else str(up)


def _find(record: dict) -> tuple[ShapeSet, int]:
    dataset, split = str(record.get("dataset", "auto")), str(record.get("split", "all"))
    try:
        shapes = _open(record["root"], dataset, split)
        return shapes, int(shapes.find([record["scene"]])[0])
    except Pc3dError:
        file = _single_file(record) if dataset == "clouds" else None
        if file is None:
            raise
    return _open(str(file), dataset, "all"), 0


def _single_file(record: dict) -> Path | None:
    """Return the cloud of a scene that was given as a file of its own, in a folder that is no data set."""
    from pc3dcli.datasets.cloud_folder import SUFFIXES

    names = [record["scene"] + suffix for suffix in SUFFIXES]
    for name in names:
        with contextlib.suppress(InputError, FormatError):
            return resolve_inside(Path(record["root"]), name)
    return None


@lru_cache(maxsize=4)
def _open(root: str, dataset: str, split: str) -> ShapeSet:
    from pc3dcli.datasets.shape_set import open_shapes

    return open_shapes(Path(root), dataset=dataset, split=split)


def point_heat(record: dict, xyz: np.ndarray) -> PointHeat:
    """Return the scores of a `patch_score` record at points xyz (N, 3); raises FormatError for a damaged record."""
    from scipy.spatial import cKDTree

    patches = parse_patch_score(record, f"scene {record['scene']}")
    patches = dataclasses.replace(patches, difficulty=_difficulty(record, len(patches.score)))
    if isinstance(record.get("spearman"), int | float):
        patches = dataclasses.replace(patches, spearman=float(record["spearman"]))
    known = None if patches.difficulty is None else np.isfinite(patches.difficulty)
    return PointHeat(
        interpolate_heat(xyz, patches.center, patches.score),
        patches.center[np.argsort(-patches.score, kind="stable")[:MARKED]],
        patches,
        cKDTree(patches.center).query(xyz)[1],
        None if known is None else interpolate_heat(xyz, patches.center[known], patches.difficulty[known]),
    )


def _difficulty(record: dict, count: int) -> np.ndarray | None:
    """Return the measured difficulty (G,) float32, NaN where a patch has none; None where no patch has."""
    found = record.get("difficulty")
    if found is None:
        return None
    kinds = {type(one) for one in found} if isinstance(found, list) else {dict}
    if not kinds <= {int, float, type(None)} or len(found) != count:
        raise FormatError(f'"difficulty" of {record["scene"]} is not one number or null for each of {count} patches')
    values = np.array([np.nan if one is None else one for one in found], np.float64).astype(np.float32)
    return values if np.isfinite(values).any() else None


def part_instances(record: dict, folders: tuple[Path, ...], num_points: int, chosen: np.ndarray) -> list[ShownInstance]:
    """Return the parts of a `labels3d` record, those of the points `chosen` of an object of `num_points`.

    folders  where the file of its tensor may lie
    raises   FormatError for labels that do not fit the points or the names, InputError when the file is missing
    """
    labels, names = read_tensor(record["tensor"], folders), record.get("classes")
    if labels.dtype.kind not in "iu" or labels.shape != (num_points,):
        raise FormatError(
            f"labels3d of {record['scene']} is {labels.shape} {labels.dtype}, expected a part for each of"
            f" {num_points} points"
        )
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise FormatError(f'"classes" of {record["scene"]} is no list of names')
    labels = labels.astype(np.int64)
    if names is not None and labels.max() >= len(names):
        raise FormatError(f"labels3d of {record['scene']} has part {labels.max()} of {len(names)} names")
    return _parts(labels, chosen, names)


def _parts(labels: np.ndarray, chosen: np.ndarray, names: list[str] | None) -> list[ShownInstance]:
    """Return an instance for each part that occurs in labels (N,), negative for none; names may be unknown."""
    parts, counts = np.unique(labels[labels >= 0], return_counts=True)
    shown = labels[chosen]
    return [
        ShownInstance(part, np.flatnonzero(shown == part), count, names[part] if names else f"part {part}")
        for part, count in zip(parts.tolist(), counts.tolist(), strict=True)
    ]


def ply_maker(path: Path) -> str | None:
    """Return the command that wrote a PLY, from the chain in its comments; None where it says nothing."""
    lines, size = PLY_HEADER
    try:
        with path.open("rb") as file:
            for line in islice(iter(lambda: file.readline(size), b""), lines):
                if line.startswith(b"comment pc3d ["):
                    return str(json.loads(line.removeprefix(b"comment pc3d "))[-1]["program"])
                if line.startswith(b"end_header"):
                    break
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", file=path) from None
    except (ValueError, LookupError, TypeError):
        pass  # a comment of another program
    return None
