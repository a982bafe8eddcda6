# SPDX-License-Identifier: Apache-2.0
"""Semantic labels of scans and meshes, one file a scene (evaluation.md section 2).

ScanNet: `<scene>.txt` with one label id a vertex, or `<scene>_vh_clean_2.labels.ply`, whose property `label` holds the
NYU40 id; ground truth may be the annotations of ScanNet as well (`scannet_aggregation`).  ScanNet++: `<scene>.txt` with
up to three class indices a vertex that commas separate, -100 for none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.integer_text import parse_labels, parse_table
from pc3dcli.formats.paths import read_file
from pc3dcli.formats.scannet_instances import TRUTH_PATTERNS, find_truth

NO_LABEL = -100
LABEL_MESH = "_vh_clean_2.labels.ply"
_PUBLIC_RESULT = "semantic_label_evaluation"  # the public script leaves its result among the predictions


def find_label_files(folder: Path) -> dict[str, Path]:
    """Return the ground-truth file of every scene, by scene id, sorted.

    folder  scans with label meshes; or what `find_truth` finds, annotations or `<scene>.txt`; or one such file
    raises  InputError naming the patterns tried when there is none
    """
    if folder.is_file() and folder.name.endswith(LABEL_MESH):
        return {_scene_of(folder): folder}
    for pattern in (f"*/*{LABEL_MESH}", f"*{LABEL_MESH}"):  # first: <scene>/<scene>.txt of a scan is no list of labels
        files = {_scene_of(path): path for path in sorted(folder.glob(pattern))}
        if files:
            return files
    files = {scene: path for scene, path in find_truth(folder).items() if scene != _PUBLIC_RESULT}
    if not files:
        raise InputError(f"no ground truth; tried {', '.join(TRUTH_PATTERNS)} and *{LABEL_MESH}", file=folder)
    return files


def find_predictions(sources: list[str]) -> dict[str, Path]:
    """Return the prediction file of every scene: the `.txt` files of folders, and files named one by one.

    raises  InputError for a path that does not exist, a folder without files, and a scene with two files
    """
    found: dict[str, Path] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise InputError("no such file or folder", file=source)
        files = [source] if source.is_file() else sorted(source.glob("*.txt"))
        files = [path for path in files if path.stem != _PUBLIC_RESULT]  # what is no file fails when it is read
        if not files:
            raise InputError("no predictions; tried *.txt", file=source)
        for path in files:
            if path.stem in found:
                raise InputError(f"scene {path.stem} again, after {found[path.stem]}", file=path)
            found[path.stem] = path
    return dict(sorted(found.items()))


def read_labels(path: Path) -> np.ndarray:
    """Read one label id per vertex, (N,) of any integer type."""
    if path.suffix == ".ply":
        from pc3dcli.formats.ply import read_ply

        labels = read_ply(path).extra.get("label")
        if labels is None or labels.dtype.kind not in "iu":
            raise FormatError("vertices have no integer property label", file=path)
        return labels
    return parse_labels(read_file(path), path)


def read_label_table(path: Path) -> np.ndarray:
    """Read up to K labels per vertex, (N, K) int64, `NO_LABEL` where a line has fewer."""
    return parse_table(read_file(path), path, NO_LABEL)


def _scene_of(path: Path) -> str:
    return path.name.removesuffix(LABEL_MESH) if path.name.endswith(LABEL_MESH) else path.stem
