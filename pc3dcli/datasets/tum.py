# SPDX-License-Identifier: Apache-2.0
"""TUM RGB-D sequences: rgb.txt, depth.txt, groundtruth.txt and the pictures they list.

The three are joined by time: depth to colour, then pose to colour, closest pairs first, each used once, at most 0.02 s
apart (the data set's own rule).  Depth is 5000 units a metre and registered to colour.  Intrinsics and lens are those
published for the freiburg number in the folder's name (data set page, "Intrinsic Camera Calibration of the Kinect"),
unless calibration.txt holds "fx fy cx cy [k1 k2 p1 p2 k3]".  Frames are named by their time stamp.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pc3dcli.datasets.frame_files import (
    LOST,
    POSE_HINT,
    CameraGrid,
    Candidate,
    camera_grid,
    check_inside,
    find_points,
    make_frames,
    require_frames,
    usable_pose,
)
from pc3dcli.datasets.scene import OpenOptions, Scene, checked_distortion
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.poses import parse_numbers, text_lines

PATTERN = "rgb.txt, depth.txt and groundtruth.txt"
MAX_LIST_BYTES = 64 << 20  # ours: 600,000 lines
MAX_GAP_S = 0.02  # the data set's associate.py
CALIBRATION = "calibration.txt"
FREIBURG = {  # fx fy cx cy k1 k2 p1 p2 k3; fr3 is published undistorted
    "1": (517.3, 516.5, 318.6, 255.3, 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    "2": (520.9, 521.0, 325.1, 249.7, 0.2312, -0.7849, -0.0033, -0.0001, 0.9172),
    "3": (535.4, 539.2, 320.1, 247.6, 0.0, 0.0, 0.0, 0.0, 0.0),
}


def matches(path: Path) -> bool:
    """Say whether `path` is a folder of this layout."""
    return all((path / name).is_file() for name in ("rgb.txt", "depth.txt", "groundtruth.txt"))


def open_scene(scene: str, path: Path, options: OpenOptions) -> Scene:
    """Read the three lists of a sequence and join them; see SceneRef.open."""
    color_times, color_files = _read_list(path, "rgb.txt")
    depth_times, depth_files = _read_list(path, "depth.txt")
    pose_times, pose_rows = _read_poses(path / "groundtruth.txt", options)
    depth_of = dict(associate(color_times, depth_times, MAX_GAP_S))
    pose_of = dict(associate(color_times, pose_times, MAX_GAP_S))
    candidates, skipped = [], []
    for index, image in enumerate(color_files):
        name = Path(image).stem
        reason = _why_skipped(index, depth_of, pose_of, pose_rows)
        if reason:
            skipped.append((name, reason))
            continue
        depth = depth_files[depth_of[index]]
        time_s, pose = float(color_times[index]), pose_rows[pose_of[index]]
        candidates.append(Candidate(name, image, depth, pose, time_s))
    require_frames(candidates, skipped, path)
    candidates.sort(key=lambda candidate: candidate.time_s)
    folders: set[str] = set()
    for candidate in candidates:
        check_inside(path, candidate.image, folders)
        check_inside(path, candidate.depth, folders)
    grid, notes = _grid(path, candidates[0])
    return Scene(
        scene=scene,
        root=path,
        dataset="tum",
        frames=make_frames(candidates, grid, options.depth_scale or 1 / 5000),
        points=find_points(path, path.resolve().name),
        skipped=tuple(skipped),
        notes=notes,
    )


def associate(times: np.ndarray, other: np.ndarray, max_gap: float) -> list[tuple[int, int]]:
    """Pair indices of two lists of times, closest pairs first, each index at most once.

    times, other  (N,), (M,) float64 seconds, in any order
    returns       [(index in times, index in other)] with |difference| < max_gap, sorted
    """
    order, pairs = np.argsort(other, kind="stable"), []
    lows = np.searchsorted(other[order], times - max_gap, "left")
    highs = np.searchsorted(other[order], times + max_gap, "right")
    for index, (low, high) in enumerate(zip(lows, highs, strict=True)):
        near = order[low:high]
        gaps = np.abs(other[near] - times[index])
        best = np.argsort(gaps, kind="stable")[:32]  # more than that compete only in a crafted file
        pairs += [(gaps[k], index, int(near[k])) for k in best if gaps[k] < max_gap]
    used, used_other, chosen = set(), set(), []
    for _, index, partner in sorted(pairs):
        if index not in used and partner not in used_other:
            used.add(index)
            used_other.add(partner)
            chosen.append((index, partner))
    return sorted(chosen)


def _why_skipped(index: int, depth_of: dict, pose_of: dict, poses: list) -> str | None:
    if index not in pose_of:
        return f"no pose within {MAX_GAP_S} s"
    if index not in depth_of:
        return f"no depth image within {MAX_GAP_S} s"
    return LOST if poses[pose_of[index]] is None else None


def _read_list(path: Path, name: str) -> tuple[np.ndarray, list[str]]:
    times, files = [], []
    for number, line in text_lines(path / name, MAX_LIST_BYTES):
        words = line.split()
        if len(words) != 2:
            raise FormatError(f"expected a time and a file, found {len(words)} words", file=path / name, line=number)
        times.append(_time(words[0], path / name, number))
        files.append(words[1])
    return np.array(times, np.float64), files


def _time(word: str, file: Path, line: int) -> float:
    (time_s,) = parse_numbers(word, 1, file, line)
    if not abs(time_s) < 1e12:
        raise FormatError(f"found the time {word[:40]}, expected seconds", file=file, line=line)
    return time_s


def _read_poses(file: Path, options: OpenOptions) -> tuple[np.ndarray, list[np.ndarray | None]]:
    times, poses = [], []
    for number, line in text_lines(file, MAX_LIST_BYTES):
        try:
            values = parse_numbers(line, 8, file, number)
            time_s = _time(line.split()[0], file, number)
            pose = usable_pose(_pose(values[1:], file, number), file, number)
        except FormatError as error:
            if not options.skip_bad_poses:
                raise FormatError(error.message, file=file, line=number, hint=POSE_HINT) from None
            continue  # its colour image then finds no pose
        times.append(time_s)
        poses.append(pose)
    return np.array(times, np.float64), poses


def _pose(values: list[float], file: Path, line: int) -> np.ndarray:
    """Return the (4, 4) of tx ty tz qx qy qz qw; the quaternion is normalised, as its four decimals need it."""
    pose = np.full((4, 4), np.nan)
    if not np.isfinite(values).all():
        return pose
    x, y, z, w = values[3:]
    norm = (x * x + y * y + z * z + w * w) ** 0.5
    if not 0.9 < norm < 1.1:
        raise FormatError(f"the quaternion has length {norm:.3g}, expected 1", file=file, line=line)
    x, y, z, w = (value / norm for value in (x, y, z, w))
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3], pose[3] = values[:3], (0, 0, 0, 1)
    return pose


def _grid(path: Path, first: Candidate) -> tuple[CameraGrid, tuple[str, ...]]:
    values, source, notes = _calibration(path)
    fx, fy, cx, cy = values[:4]
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    grid = camera_grid(path, first.image, first.depth, K, None, source)
    distortion = checked_distortion(values[4:], source) if len(values) > 4 else None
    return CameraGrid(grid.size, grid.K, grid.depth_size, grid.depth_K, distortion), notes


def _calibration(path: Path) -> tuple[tuple[float, ...], Path, tuple[str, ...]]:
    file = path / CALIBRATION
    if file.is_file():
        lines = text_lines(file, 1 << 16)
        if len(lines) != 1:
            raise FormatError(f"expected one line fx fy cx cy [k1 k2 p1 p2 k3], found {len(lines)}", file=file)
        number, line = lines[0]
        count = 4 if len(line.split()) == 4 else 9
        return tuple(parse_numbers(line, count, file, number)), file, ()
    match = re.search(r"(?:freiburg|fr)([123])(?!\d)", path.resolve().name)
    if match is None:
        hint = f"write 'fx fy cx cy' to {CALIBRATION}"
        raise InputError(f"no {CALIBRATION}, and the folder's name has no freiburg number", file=path, hint=hint)
    note = f"no {CALIBRATION}: intrinsics and lens as published for freiburg{match[1]}"
    return FREIBURG[match[1]], path, (note,)
