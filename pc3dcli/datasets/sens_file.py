# SPDX-License-Identifier: Apache-2.0
"""ScanNet's .sens files, read without exporting them: the file itself, or a scene folder that holds just one.

Frames are named by their position in the file; "x.sens#color/120" is the colour image of the 121st.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pc3dcli.datasets.frame_files import (
    LOST,
    POSE_HINT,
    CameraGrid,
    Candidate,
    find_points,
    make_frames,
    require_frames,
    usable_pose,
)
from pc3dcli.datasets.scene import OpenOptions, Scene
from pc3dcli.errors import FormatError
from pc3dcli.formats.poses import check_intrinsics
from pc3dcli.formats.sens import SensFile, open_sens

PATTERN = "<scene>.sens"


def matches(path: Path) -> bool:
    """Say whether `path` is a .sens file or a folder with exactly one."""
    return _sens_file(path) is not None


def open_scene(scene: str, path: Path, options: OpenOptions) -> Scene:
    """Read header and index of a .sens file; see SceneRef.open."""
    file = _sens_file(path)
    sens = open_sens(file)
    candidates, skipped = [], []
    for index, pose in enumerate(sens.world_from_cam):
        reason = _why_skipped(pose, file, index, options)
        if reason:
            skipped.append((str(index), reason))
            continue
        time_s = int(sens.time_us[index]) / 1e6 or None
        image, depth = (f"{file.name}#{kind}/{index}" for kind in ("color", "depth"))
        candidates.append(Candidate(str(index), image, depth, pose, time_s))
    require_frames(candidates, skipped, file)
    notes = ()
    if sens.extrinsic_shift > 0.05:
        notes = (f"colour and depth camera are {sens.extrinsic_shift:.3f} m apart by the header: treated as one place",)
    return Scene(
        scene=scene,
        root=file.parent,
        dataset="sens",
        frames=make_frames(candidates, _grid(sens, file), options.depth_scale or 1.0 / sens.units_per_metre),
        points=find_points(file.parent, file.stem),
        skipped=tuple(skipped),
        notes=notes,
    )


def _sens_file(path: Path) -> Path | None:
    if path.suffix == ".sens" and path.is_file():
        return path
    files = sorted(path.glob("*.sens")) if path.is_dir() else []
    return files[0] if len(files) == 1 else None


def _why_skipped(pose: np.ndarray, file: Path, index: int, options: OpenOptions) -> str | None:
    try:
        return None if usable_pose(pose, file) is not None else LOST
    except FormatError as error:
        message = f"frame {index}: {error.message}"
        if not options.skip_bad_poses:
            raise FormatError(message, file=file, hint=POSE_HINT) from None
        return message


def _grid(sens: SensFile, file: Path) -> CameraGrid:
    check_intrinsics(sens.K_color, sens.color_size, file)
    check_intrinsics(sens.K_depth, sens.depth_size, file)
    if sens.depth_size == sens.color_size:
        same = np.array_equal(sens.K_color, sens.K_depth)
        return CameraGrid(sens.color_size, sens.K_color, None, None if same else sens.K_depth)
    return CameraGrid(sens.color_size, sens.K_color, sens.depth_size, sens.K_depth)
