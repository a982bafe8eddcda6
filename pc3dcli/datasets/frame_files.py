# SPDX-License-Identifier: Apache-2.0
"""What the RGB-D layouts share: finding numbered files, reading their poses, and the two pixel grids of a frame.

Folders are listed once; a symbolic link among their files is followed only when it stays inside the scene's root.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pc3dcli.datasets.scene import Frame, OpenOptions
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.images import image_size
from pc3dcli.formats.paths import resolve_inside
from pc3dcli.formats.poses import check_intrinsics, check_rigid, read_matrix
from pc3dcli.geometry.cameras import scale_intrinsics

POSE_HINT = "delete the frame or pass --skip-bad-poses"
LOST = "invalid pose, tracking was lost"  # why a frame is skipped


@dataclass(frozen=True)
class CameraGrid:
    """The image grid and, where it differs, the depth grid that all frames of a scene share (fields as in Frame)."""

    size: tuple[int, int]
    K: np.ndarray
    depth_size: tuple[int, int] | None = None
    depth_K: np.ndarray | None = None
    distortion: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Candidate:
    """A pose that may become a frame: its image and depth file relative to the root, None where there is none."""

    frame: str
    image: str | None
    depth: str | None
    world_from_cam: np.ndarray
    time_s: float | None = None


def numbered_files(root: Path, folder: str, pattern: str) -> dict[int, tuple[str, str]]:
    """Return {number: (digits, path relative to root)} of the files in root/folder whose whole name matches.

    pattern  regular expression with one group, the digits
    raises   FormatError when two files claim a number or a link leaves root; a missing folder is an empty one
    """
    matcher, found = re.compile(pattern), {}
    base = root / folder
    if folder and base.is_symlink() and root.resolve() not in base.resolve().parents:
        raise FormatError(f"the folder {folder!r} is a link that leaves {root}", file=base)
    try:
        entries = sorted(os.scandir(base), key=lambda entry: entry.name)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"cannot list it: {error.strerror}", file=base) from None
    for entry in entries:
        match = matcher.fullmatch(entry.name)
        if match is None:
            continue
        relative = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_symlink():
            resolve_inside(root, relative)
        number = int(match[1])
        if number in found:
            message = f"found two files for frame {number}, the other is {found[number][1]}"
            raise FormatError(message, file=root / relative)
        found[number] = (match[1], relative)
    return dict(sorted(found.items()))


def read_poses(
    root: Path, files: Mapping[int, tuple[str, str]], options: OpenOptions
) -> tuple[dict[int, np.ndarray], list[tuple[str, str]]]:
    """Read one 4 x 4 camera-to-world text file a frame.

    returns  ({number: (4, 4) float64}, [(frame, why it is skipped)])
    raises   FormatError for a malformed pose unless `options.skip_bad_poses`
    """
    poses, skipped = {}, []
    for number, (digits, relative) in files.items():
        try:
            pose = usable_pose(read_matrix(root / relative), root / relative)
        except FormatError as error:
            if not options.skip_bad_poses:
                raise FormatError(error.message, file=error.file, line=error.line, hint=POSE_HINT) from None
            skipped.append((digits, str(error)))
            continue
        if pose is None:
            skipped.append((digits, LOST))
        else:
            poses[number] = pose
    return poses, skipped


def usable_pose(world_from_cam: np.ndarray, file: Path, line: int | None = None) -> np.ndarray | None:
    """Return a (4, 4) pose, None when any entry is not finite, FormatError when it is no rigid motion."""
    return check_rigid(world_from_cam, file, line) if np.isfinite(world_from_cam).all() else None


def camera_grid(
    root: Path, image: str, depth: str | None, K: np.ndarray, depth_K: np.ndarray | None, file: Path
) -> CameraGrid:
    """Return the grids of a scene from the headers of one image and one depth image.

    K, depth_K  (3, 3) of the two; without depth_K a smaller depth image of the same shape has K scaled to it
    file        where K comes from, for error messages
    raises      FormatError when K cannot belong to the image or the shapes differ without intrinsics for both
    """
    size = image_size(root / image)
    check_intrinsics(K, size, file)
    if depth is None:
        return CameraGrid(size, K)
    depth_size = image_size(root / depth)
    if depth_K is not None:
        check_intrinsics(depth_K, depth_size, file)
        if depth_size == size and np.array_equal(K, depth_K):
            return CameraGrid(size, K)
        return CameraGrid(size, K, None if depth_size == size else depth_size, depth_K)
    if depth_size == size:
        return CameraGrid(size, K)
    if abs(size[1] * depth_size[0] - size[0] * depth_size[1]) > 0.01 * size[1] * depth_size[0]:
        found = f"{depth_size[1]} x {depth_size[0]} pixels beside a {size[1]} x {size[0]} image of another shape"
        raise FormatError(f"found {found}", file=root / depth, hint="give the depth camera's own intrinsics as well")
    return CameraGrid(size, K, depth_size, scale_intrinsics(K, size, depth_size))


def pair_files(
    root: Path,
    poses: Mapping[int, np.ndarray],
    names: Mapping[int, str],
    images: Mapping[int, tuple[str, str]],
    depths: Mapping[int, tuple[str, str]],
) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Join poses with their image and depth files by number; images without a pose are left out.

    returns  (candidates in numeric order, [(frame, reason)] of poses without any picture)
    raises   InputError when only one of a frame's two pictures exists
    """
    candidates, skipped = [], []
    for number, pose in poses.items():
        image, depth = images.get(number, (None, None))[1], depths.get(number, (None, None))[1]
        if image is None and depth is None:
            skipped.append((names[number], "it has a pose but neither a colour nor a depth image"))
            continue
        if image is None or (depth is None and depths):
            there, missing = (depth, "colour") if image is None else (image, "depth")
            message = f"frame {names[number]} has a pose and this file but no {missing} image"
            raise InputError(message, file=root / there, hint=f"add the {missing} image or delete the frame's pose")
        candidates.append(Candidate(names[number], image, depth, pose))
    return candidates, skipped


def make_frames(candidates: Iterable[Candidate], grid: CameraGrid, depth_scale: float) -> tuple[Frame, ...]:
    """Return a Frame for each candidate; all share `grid` and `depth_scale` (metres per stored unit)."""
    return tuple(
        Frame(
            frame=candidate.frame,
            image=candidate.image,
            size=grid.size,
            K=grid.K,
            world_from_cam=candidate.world_from_cam,
            depth=candidate.depth,
            depth_scale=depth_scale,
            depth_size=grid.depth_size if candidate.depth else None,
            depth_K=grid.depth_K if candidate.depth else None,
            time_s=candidate.time_s,
            distortion=grid.distortion,
        )
        for candidate in candidates
    )


def require_frames(candidates: list[Candidate], skipped: list[tuple[str, str]], path: Path) -> None:
    """Raise InputError, with the first reason, when no frame of a scene can be used."""
    if not candidates:
        why = f"; frame {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise InputError(f"found no usable frame among {len(skipped)}{why}", file=path)


def check_inside(root: Path, relative: str, known_folders: set[str]) -> None:
    """Do what resolve_inside does, but resolve each folder once; `known_folders` is updated.

    raises  FormatError for a path that leaves `root`, InputError when there is no such regular file
    """
    folder = relative.rpartition("/")[0]
    try:
        mode = os.lstat(f"{root}/{relative}").st_mode
    except (OSError, ValueError):
        mode = 0
    if folder not in known_folders or not stat.S_ISREG(mode):  # a link, among others
        resolve_inside(root, relative)
        known_folders.add(folder)


def find_points(root: Path, name: str) -> str | None:
    """Return the scan's cloud or mesh below `root`: the cleaned ScanNet mesh first, then <name>.ply and its like."""
    for candidate in (f"{name}_vh_clean_2.ply", f"{name}.ply", f"{name}_mesh.ply", "mesh.ply", f"{name}.pcd"):
        if (root / candidate).is_file():
            resolve_inside(root, candidate)
            return candidate
    return None


def main_axis(direction: np.ndarray) -> str:
    """Return the signed axis nearest to a (3,) direction: "x", "-y", ..."""
    axis = int(np.argmax(np.abs(direction)))
    return ("-" if direction[axis] < 0 else "") + "xyz"[axis]
