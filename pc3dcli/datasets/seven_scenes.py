# SPDX-License-Identifier: Apache-2.0
"""7-Scenes sequences and what tsdf-fusion made of them: frame-000000.color|depth|pose in one folder.

Intrinsics come from camera-intrinsics.txt (3 x 3).  The official download has none; its authors give focal length 585
and principal point 320, 240 for the depth camera (Shotton et al., Scene Coordinate Regression Forests, CVPR 2013, data
set page), used for both cameras as everybody does, and noted in the scene.  Depth is in millimetres, 65535 is missing.
The world is that of the tracker, so the axis that points up is taken from the cameras.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pc3dcli.datasets.frame_files import (
    camera_grid,
    find_points,
    main_axis,
    make_frames,
    numbered_files,
    pair_files,
    read_poses,
    require_frames,
)
from pc3dcli.datasets.scene import OpenOptions, Scene
from pc3dcli.errors import InputError
from pc3dcli.formats.images import image_size
from pc3dcli.formats.poses import read_matrix

PATTERN = "frame-000000.pose.txt with frame-000000.color.jpg|png and frame-000000.depth.png"
INTRINSICS = "camera-intrinsics.txt"
DEFAULT_K = np.array([[585.0, 0, 320], [0, 585, 240], [0, 0, 1]])  # the data set's page
DEFAULT_SIZE = (480, 640)


def matches(path: Path) -> bool:
    """Say whether `path` is a folder of this layout."""
    return path.is_dir() and next(path.glob("frame-*.pose.txt"), None) is not None


def open_scene(scene: str, path: Path, options: OpenOptions) -> Scene:
    """Read poses and intrinsics of one sequence folder; see SceneRef.open."""
    pose_files = numbered_files(path, "", r"frame-(\d+)\.pose\.txt")
    poses, lost = read_poses(path, pose_files, options)
    names = {number: digits for number, (digits, _) in pose_files.items()}
    images = numbered_files(path, "", r"frame-(\d+)\.color\.(?:jpg|jpeg|png)")
    depths = numbered_files(path, "", r"frame-(\d+)\.depth\.png")
    candidates, unpictured = pair_files(path, poses, names, images, depths)
    require_frames(candidates, lost + unpictured, path)
    K, notes = _intrinsics(path, candidates[0].depth or candidates[0].image)
    grid = camera_grid(path, candidates[0].image, candidates[0].depth, K, None, path / INTRINSICS)
    mean_up = -np.mean([candidate.world_from_cam[:3, 1] for candidate in candidates], axis=0)  # the image's y is down
    return Scene(
        scene=scene,
        root=path,
        dataset="7scenes",
        frames=make_frames(candidates, grid, options.depth_scale or 0.001),
        points=find_points(path, path.resolve().name),
        up=main_axis(mean_up),
        skipped=tuple(sorted(lost + unpictured)),
        notes=notes,
    )


def _intrinsics(path: Path, picture: str) -> tuple[np.ndarray, tuple[str, ...]]:
    if (path / INTRINSICS).is_file():
        return read_matrix(path / INTRINSICS, 3, 3), ()
    if image_size(path / picture) != DEFAULT_SIZE:
        hint = f"write the 3 x 3 camera matrix to {INTRINSICS}"
        message = f"no {INTRINSICS}, and the images are not 640 x 480 as those of 7-Scenes"
        raise InputError(message, file=path, hint=hint)
    return DEFAULT_K, (f"no {INTRINSICS}: assumed 585 585 320 240, the depth camera of 7-Scenes",)
