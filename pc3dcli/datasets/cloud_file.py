# SPDX-License-Identifier: Apache-2.0
"""A cloud or mesh file as a scene without frames.  Its content is read by whoever needs the points."""

from __future__ import annotations

from pathlib import Path

from pc3dcli.datasets.scene import OpenOptions, Scene
from pc3dcli.formats.cloud import SUFFIXES

PATTERN = "a .ply, .pcd or .bin file, or a folder of them"


def matches(path: Path) -> bool:
    """Say whether `path` is a file with the suffix of a cloud."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


def open_scene(scene: str, path: Path, options: OpenOptions) -> Scene:
    """Return the scene of one cloud file; nothing is read."""
    return Scene(scene, path.parent, "cloud", (), path.name)
