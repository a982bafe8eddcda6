# SPDX-License-Identifier: Apache-2.0
"""Scans on disk.  One file here is one layout: `matches(path)` recognises it, `open_scene(...)` reads it.

`open_scenes` finds the scenes below a path without reading them, so that a broken one fails alone when it is opened.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from pc3dcli.datasets import (
    cloud_file,
    frames_file,
    replica,
    s3dis,
    scannet,
    scannetpp,
    sens_file,
    seven_scenes,
    transforms,
    tum,
)
from pc3dcli.datasets.scene import SceneRef
from pc3dcli.errors import FormatError, InputError, UsageError

LAYOUTS = {  # in the order they are tried
    "frames": frames_file,
    "sens": sens_file,
    "scannet": scannet,
    "7scenes": seven_scenes,
    "tum": tum,
    "replica": replica,
    "scannetpp": scannetpp,
    "s3dis": s3dis,
    "transforms": transforms,
    "cloud": cloud_file,
}
MAX_LEVELS = 4  # folders between the path given and a scene; ours


def open_scenes(path: Path, dataset: str = "auto") -> list[SceneRef]:
    """Return the scenes at `path` in the order of their names.

    path     a scene folder, a folder of scene folders, a .sens, .ndjson or cloud file
    dataset  a key of LAYOUTS, or "auto" to take the first that matches each folder
    raises   UsageError for an unknown dataset, InputError when nothing is found, FormatError for an id that comes twice
    """
    if dataset != "auto" and dataset not in LAYOUTS:
        raise UsageError(f"unknown dataset {dataset!r}, expected auto, {', '.join(LAYOUTS)}")
    path = Path(path)
    if not path.exists():
        raise InputError("no such file or folder", file=path)
    layouts = LAYOUTS if dataset == "auto" else {dataset: LAYOUTS[dataset]}
    found = _find(path, path.resolve().name if path.is_dir() else _stem(path), layouts)
    if not found and path.is_dir():
        # clouds beside scans are parts of them more often than scenes of their own
        scans = {name: layout for name, layout in layouts.items() if name != "cloud"}
        clouds = {name: layout for name, layout in layouts.items() if name == "cloud"}
        found = _find_below(path, "", scans, MAX_LEVELS) or _find_below(path, "", clouds, MAX_LEVELS)
    if not found:
        needs = "".join(f"\n    {name:<12}{layout.PATTERN}" for name, layout in layouts.items())
        raise InputError("found no scene", file=path, hint=f"a scene is a folder or file with one of{needs}")
    for first, second in itertools.pairwise(sorted(found, key=lambda ref: ref.scene)):
        if first.scene == second.scene:
            raise FormatError(f"{second.path} would be scene {first.scene!r} too", file=first.path, hint="rename one")
    return found


def _find(path: Path, scene: str, layouts: dict) -> list[SceneRef]:
    for dataset, layout in layouts.items():
        if layout.matches(path):
            return [SceneRef(scene, path, dataset)]
    return []


def _find_below(folder: Path, prefix: str, layouts: dict, levels: int) -> list[SceneRef]:
    try:
        entries = sorted(folder.iterdir(), key=_natural)
    except OSError as error:
        raise InputError(f"cannot list it: {error.strerror}", file=folder) from None
    found = []
    for entry in entries:
        if entry.name.startswith(".") or _leads_up(entry):
            continue
        if entry.is_dir():
            scene = f"{prefix}{entry.name}"
            here = _find(entry, scene, layouts)
            if not here and levels > 1:
                here = _find_below(entry, f"{scene}/", layouts, levels - 1)
            found += here
        elif entry.suffix != ".ndjson":  # those in a folder are outputs
            found += _find(entry, prefix + _stem(entry), layouts)
    return found


def _leads_up(entry: Path) -> bool:
    """Say whether an entry links to a folder that it lies in, below which everything would be found again."""
    return entry.is_symlink() and entry.resolve() in entry.parent.resolve().joinpath("_").parents


def _natural(path: Path) -> list:
    """Sort key that puts scan2 before scan10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), part) if index % 2 else (0, part) for index, part in enumerate(parts)]


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".pcd.bin", path.suffix):
        if suffix and name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
