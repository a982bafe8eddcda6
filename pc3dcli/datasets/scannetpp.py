# SPDX-License-Identifier: Apache-2.0
"""ScanNet++: the evaluation mesh of a scene, scans/mesh_aligned_0.05.ply, its annotations, and its iPhone frames.

scans/segments.json has the segment of each vertex, scans/segments_anno.json the instances as groups of segments with
the names of their classes.  Frames are those of iphone/nerfstudio/transforms.json, where it is there (`transforms`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pc3dcli.datasets import transforms
from pc3dcli.datasets.scene import OpenOptions, Scene
from pc3dcli.formats.class_lists import label_id
from pc3dcli.formats.scannet_aggregation import Group, read_groups, read_segments, vertex_ids

PATTERN = "scans/mesh_aligned_0.05.ply, and iphone/nerfstudio/transforms.json"
MESH, GROUPS, SEGMENTS = "scans/mesh_aligned_0.05.ply", "scans/segments_anno.json", "scans/segments.json"


def matches(path: Path) -> bool:
    """Say whether `path` is a folder of this layout."""
    return (path / MESH).is_file()


def open_scene(scene: str, path: Path, options: OpenOptions) -> Scene:
    """Return the mesh, and the frames of the iPhone; see SceneRef.open."""
    if not transforms.matches(path / "iphone"):
        return Scene(scene, path, "scannetpp", (), MESH)
    iphone = transforms.open_scene(scene, path / "iphone", options)
    frames = tuple(replace(frame, image=_inside(frame.image), depth=_inside(frame.depth)) for frame in iphone.frames)
    return replace(iphone, root=path, dataset="scannetpp", points=MESH, frames=frames)


def _inside(name: str | None) -> str | None:
    return None if name is None else f"iphone/{name}"


def truth_files(path: Path) -> tuple[Path, ...]:
    """Return the files that say what the vertices are; none where the scene has no annotations."""
    files = path / GROUPS, path / SEGMENTS
    return files if files[0].is_file() else ()


def instance_ids(path: Path, label_ids: Mapping[str, int]) -> np.ndarray:
    """Read one id per vertex (N,) int64, label * 1000 + instance; where two instances overlap, the smaller one's, ours.

    label_ids  of the names of classes, in lower case; other names are `class_lists.UNLISTED`
    raises     FormatError for malformed annotations
    """
    of_vertex = read_segments(path / SEGMENTS)
    sizes = dict(zip(*(part.tolist() for part in np.unique(of_vertex, return_counts=True)), strict=True))

    def num_vertices(group: Group) -> int:
        return sum(sizes.get(segment, 0) for segment in group.segments.tolist())

    groups = sorted(read_groups(path / GROUPS), key=num_vertices, reverse=True)
    ids = [label_id(group.label, label_ids) * 1000 + group.number for group in groups]
    return vertex_ids(groups, ids, of_vertex, path / GROUPS)
