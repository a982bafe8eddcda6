# SPDX-License-Identifier: Apache-2.0
"""Annotations as ScanNet distributes them, beside each scan: instances are groups of segments of its mesh.

`<scene>.aggregation.json` lists the groups by raw category, `<scene>_vh_clean_2.0.010000.segs.json` the segment of each
vertex, and `scannetv2-labels.combined.tsv`, one for the data set, the label ids of raw categories.  The result is that
of ScanNet's exporter: label * 1000 + objectId + 1.  Where two groups hold a segment, the later one has it.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.integer_text import parse_integer
from pc3dcli.formats.paths import read_file

SUFFIX = ".aggregation.json"
LABEL_MAP = "scannetv2-labels.combined.tsv"
MAX_INSTANCES = 999  # that fit below the label
_FINE = "_vh_clean"  # of the mesh before decimation


def scene_of(path: Path) -> str:
    """Return the scene id of an aggregation file."""
    return path.name.removesuffix(SUFFIX).removesuffix(_FINE)


def segments_file(path: Path) -> Path:
    """Return the file of segments that belongs to an aggregation file; raises InputError when there is none."""
    scene = scene_of(path)
    names = [f"{scene}_vh_clean_2.0.010000.segs.json"]
    if path.name.endswith(_FINE + SUFFIX):
        names.insert(0, f"{scene}_vh_clean.segs.json")
    for name in names:
        if path.with_name(name).is_file():
            return path.with_name(name)
    raise InputError(f"its segments are missing; tried {', '.join(names)}", file=path)


def find_label_map(folder: Path) -> Path:
    """Return the label map of ScanNet, in `folder` or in one of the two above it.

    raises  InputError when it is in none
    """
    places = [folder, *folder.resolve().parents[:2]]
    found = next((place / LABEL_MAP for place in places if (place / LABEL_MAP).is_file()), None)
    if found is None:
        hint = f"copy {LABEL_MAP} of ScanNet there: aggregation files name raw categories, not label ids"
        raise InputError(f"no {LABEL_MAP} in it or in the two folders above", file=folder, hint=hint)
    return found


def read_label_map(path: Path, column: str) -> dict[str, int]:
    """Return the label id of every raw category.

    column  "nyu40id" for the labels of ScanNet, "id" for those of ScanNet200
    raises  FormatError when the table lacks a column
    """
    try:
        rows = csv.DictReader(io.StringIO(read_file(path).decode("utf-8-sig"), newline=""), delimiter="\t")
        columns = rows.fieldnames or []
        if "raw_category" not in columns or column not in columns:
            raise FormatError(f"columns are {', '.join(columns)}; expected raw_category and {column}", file=path)
        found = {row["raw_category"]: parse_integer(row[column] or "") for row in rows}
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"not a table of tab-separated text: {error}", file=path) from None
    return {name: label for name, label in found.items() if label is not None}


def read_instance_ids(path: Path, label_ids: dict[str, int]) -> np.ndarray:
    """Read an aggregation file and its segments to one id per vertex: (N,) int64, label * 1000 + k, 0 for none.

    label_ids  of raw categories
    raises     FormatError for malformed groups, an unknown category or an unknown segment, InputError without segments
    """
    groups = read_groups(path)
    for position, group in enumerate(groups):
        if group.label not in label_ids:
            message = f"segGroups[{position}] is of label {group.label!r}, which {LABEL_MAP} does not have"
            raise FormatError(message, file=path)
    ids = [label_ids[group.label] * 1000 + group.number for group in groups]
    return vertex_ids(groups, ids, read_segments(segments_file(path)), path)


@dataclass(frozen=True)
class Group:
    """An instance: its raw category, its number within the scene, from 1 to 999, and its segments (S,) int64."""

    label: str
    number: int
    segments: np.ndarray


def read_groups(path: Path) -> list[Group]:
    """Read the groups of an aggregation file, in its order; raises FormatError for malformed ones."""
    found: list[Group] = []
    used: set[int] = set()
    for position, group in enumerate(_field(_load(path), "segGroups", path)):
        place = f"segGroups[{position}]"
        number = _instance_number(group, position, place, path)
        if number in used:
            raise FormatError(f"{place} has the objectId of an earlier group", file=path)
        used.add(number)
        if not isinstance(group.get("label"), str):
            raise FormatError(f"{place} has the label {group.get('label')!r}, expected text", file=path)
        found.append(Group(group["label"], number, _integers(group.get("segments"), f"{place} segments", path)))
    return found


def read_segments(path: Path) -> np.ndarray:
    """Read the segment of each vertex, (N,) int64; raises FormatError for another kind of file."""
    return _integers(_field(_load(path), "segIndices", path), "segIndices", path)


def vertex_ids(groups: list[Group], ids: list[int], of_vertex: np.ndarray, path: Path) -> np.ndarray:
    """Return for each vertex (N,) int64 the id of its group, 0 for none; where two hold a segment, the later one.

    of_vertex  (N,) int64 its segment
    path       of the groups, for messages
    raises     FormatError for a segment without vertices
    """
    segments, vertex_row = np.unique(of_vertex, return_inverse=True)
    value = np.zeros(segments.size, np.int64)
    for group, number in zip(groups, ids, strict=True):
        row = np.searchsorted(segments, group.segments)
        is_known = row < segments.size
        is_known[is_known] = segments[row[is_known]] == group.segments[is_known]
        if not is_known.all():
            found = f"objectId {group.number - 1} holds segment {group.segments[~is_known][0]}"
            raise FormatError(f"{found}, which its file of segments does not have", file=path)
        value[row] = number
    return value[vertex_row.reshape(-1)]


class Annotations:
    """The annotations of a data set; its label map is read once, with the first scene."""

    def __init__(self, folder: Path, column: str) -> None:
        """folder  where the scans lie; column  of the label map, see `read_label_map`"""
        self.folder, self.column = folder, column

    @cached_property
    def label_map(self) -> Path:
        """The table of labels; raises InputError when there is none."""
        return find_label_map(self.folder)

    @cached_property
    def label_ids(self) -> dict[str, int]:
        """The label id of every raw category."""
        return read_label_map(self.label_map, self.column)

    def instance_ids(self, path: Path) -> np.ndarray:
        """Return `read_instance_ids` of one scene."""
        return read_instance_ids(path, self.label_ids)

    def files(self, path: Path) -> dict[str, Path]:
        """Return, by the names that digests know them by, the files that say what the vertices of a scene are."""
        inside = {file.relative_to(self.folder).as_posix(): file for file in (path, segments_file(path))}
        return inside | {self.label_map.name: self.label_map}


def _load(path: Path) -> Any:
    try:
        return json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", file=path) from None


def _field(data: Any, name: str, path: Path) -> list:
    values = data.get(name) if isinstance(data, dict) else None
    if not isinstance(values, list):
        raise FormatError(f"holds no list {name}", file=path)
    return values


def _instance_number(group: Any, position: int, place: str, path: Path) -> int:
    """Return the objectId of a group, counted from 1; its place where it has none."""
    object_id = group.get("objectId", position) if isinstance(group, dict) else None
    if type(object_id) is not int or not 0 <= object_id < MAX_INSTANCES:
        raise FormatError(f"{place} has objectId {object_id!r}, expected 0 to {MAX_INSTANCES - 1}", file=path)
    return object_id + 1


def _integers(values: Any, what: str, path: Path) -> np.ndarray:
    """Return a list of integers as (N,) int64."""
    is_list = isinstance(values, list) and set(map(type, values)) <= {int}
    if not is_list or (values and not -(1 << 62) < min(values) <= max(values) < 1 << 62):
        raise FormatError(f"{what} is no list of integers", file=path)
    return np.array(values, np.int64)
