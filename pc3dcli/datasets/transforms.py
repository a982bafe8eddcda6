# SPDX-License-Identifier: Apache-2.0
"""transforms.json of nerfstudio and its relatives, ScanNet++ iPhone scenes (nerfstudio/transforms.json) among them.

Cameras there are OpenGL's (x right, y up, z backward) and pixel centres lie at 0.5: both are converted.  Intrinsics
(fl_x fl_y cx cy w h) and lens (k1 k2 p1 p2 k3) are global or per frame; pictures are undistorted when read, fisheye
lenses are refused.  Depth is millimetres unless depth_unit_scale_factor says otherwise; where no depth_file_path is
given, depth/<image name>.png is taken.  Frames are the ones listed: pictures without a pose are left out.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath

import numpy as np

from pc3dcli.datasets.frame_files import (
    LOST,
    POSE_HINT,
    CameraGrid,
    camera_grid,
    check_inside,
    find_points,
    require_frames,
    usable_pose,
)
from pc3dcli.datasets.scene import Frame, OpenOptions, Scene, check_depth_scale, checked_distortion
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.images import image_size, read_bytes

PATTERN = "transforms.json, or nerfstudio/transforms.json beside rgb/ and depth/"
NAMES = ("transforms.json", "nerfstudio/transforms.json")
MAX_JSON_BYTES = 256 << 20  # ours: about 400,000 frames
PICTURE_FOLDERS = ("", "rgb/", "images/", "color/", "nerfstudio/")  # tried in this order
PICTURE_SUFFIXES = ("", ".jpg", ".png", ".jpeg")  # file_path may come without one
LENS = ("k1", "k2", "p1", "p2", "k3")
CAMERA_KEYS = ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "camera_model", *LENS)
CAMERA_MODELS = (None, "PINHOLE", "OPENCV", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
GL_FROM_CV = np.diag([1.0, -1.0, -1.0, 1.0])


def matches(path: Path) -> bool:
    """Say whether `path` is a folder of this layout."""
    return any((path / name).is_file() for name in NAMES)


def open_scene(scene: str, path: Path, options: OpenOptions) -> Scene:
    """Read the listed frames of one transforms.json; see SceneRef.open."""
    file = next(path / name for name in NAMES if (path / name).is_file())
    document = _read(file)
    scale = check_depth_scale(options.depth_scale or document.get("depth_unit_scale_factor", 0.001), file)
    names = _names(document["frames"], file)
    frames, skipped, grids, folders = [], [], {}, set()
    for index, (entry, name) in enumerate(zip(document["frames"], names, strict=True)):
        place = f"{file}: frames[{index}]"
        pose, reason = _pose(entry, options, place)
        if pose is None:
            skipped.append((name, reason))
            continue
        image, depth = _pictures(path, entry, place, folders)
        camera = {key: entry.get(key, document.get(key)) for key in CAMERA_KEYS}
        grid = _grid(path, camera, image, depth, grids, place)
        time_s = entry.get("timestamp")
        frames.append(_frame(name, image, depth, pose, grid, scale, time_s if isinstance(time_s, float) else None))
    require_frames(frames, skipped, file)
    frames.sort(key=lambda frame: (_number(frame.frame), frame.frame))
    return Scene(
        scene=scene,
        root=path,
        dataset="transforms",
        frames=tuple(frames),
        points=find_points(path, path.resolve().name),
        skipped=tuple(skipped),
        notes=("pictures are undistorted when read",) if any(frame.distortion for frame in frames) else (),
    )


def _read(file: Path) -> dict:
    try:
        document = json.loads(read_bytes(file, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise FormatError(f"not JSON: {error}"[:120], file=file, line=line) from None
    frames = document.get("frames") if isinstance(document, dict) else None
    if not isinstance(frames, list) or not all(isinstance(entry, dict) for entry in frames):
        raise FormatError('expected an object with a list "frames" of objects', file=file)
    return document


def _names(entries: list[dict], file: Path) -> list[str]:
    """Return the frame ids: the last digits of each picture's name if they tell the frames apart, else the names."""
    stems = []
    for index, entry in enumerate(entries):
        stems.append(PurePosixPath(_file_name(entry, "file_path", f"{file}: frames[{index}]")).stem)
    digits = [re.findall(r"\d+", stem)[-1:] for stem in stems]
    names = [found[0] for found in digits if found]
    if len(names) == len(stems) == len({int(name[-18:]) for name in names}):
        return names
    if len(set(stems)) != len(stems):
        raise FormatError("two frames have pictures of one name", file=file)
    return stems


def _number(name: str) -> float:
    return int(name[-18:]) if name.isdigit() else float("inf")


def _file_name(entry: dict, key: str, place: str) -> str:
    name = entry.get(key)
    is_name = isinstance(name, str) and 0 < len(name) < 1024 and name.isprintable()
    if not is_name or any(len(part) > 200 for part in name.split("/")):
        raise FormatError(f'"{key}" is {str(name)[:60]!r}, expected the name of a file', file=place)
    return str(PurePosixPath(name))


def _pose(entry: dict, options: OpenOptions, place: str) -> tuple[np.ndarray | None, str]:
    """Return world_from_cam, (4, 4), of a usable frame, else None and the reason."""
    if entry.get("is_bad") is True:  # ScanNet++
        return None, "it is marked is_bad"
    rows = entry.get("transform_matrix")
    try:
        good = isinstance(rows, list) and len(rows) in (3, 4)
        good = good and all(isinstance(row, list) and len(row) == 4 and all(map(_is_real, row)) for row in rows)
        if not good:
            raise FormatError('"transform_matrix" is not a list of 4 rows of 4 numbers', file=place)
        world_from_gl = np.array([*rows, [0, 0, 0, 1]][:4], np.float64)
        pose = usable_pose(world_from_gl @ GL_FROM_CV, place) if np.isfinite(world_from_gl).all() else None
    except FormatError as error:
        if not options.skip_bad_poses:
            raise FormatError(error.message, file=place, hint=POSE_HINT) from None
        return None, error.message
    return pose, LOST


def _is_real(value) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 60)


def _pictures(path: Path, entry: dict, place: str, folders: set[str]) -> tuple[str, str | None]:
    name = _file_name(entry, "file_path", place)
    image = next((found for folder in PICTURE_FOLDERS if (found := _existing(path, folder + name, folders))), None)
    if image is None:
        raise InputError("no such image", file=path / name, hint="delete the frame or add its image")
    if entry.get("depth_file_path") is None:
        depth = f"depth/{PurePosixPath(name).stem}.png"
        return image, depth if _existing(path, depth, folders) == depth else None
    name = _file_name(entry, "depth_file_path", place)
    depth = next((found for folder in ("", "nerfstudio/") if (found := _existing(path, folder + name, folders))), None)
    if depth is None:
        raise InputError("no such depth image", file=path / name, hint="delete the frame or add its depth image")
    return image, depth


def _existing(path: Path, name: str, folders: set[str]) -> str | None:
    for suffix in PICTURE_SUFFIXES:
        if os.path.isfile(f"{path}/{name}{suffix}"):  # noqa: PTH113 - asked ten times a frame
            check_inside(path, name + suffix, folders)
            return name + suffix
    return None


def _grid(path: Path, camera: dict, image: str, depth: str | None, grids: dict, place: str) -> CameraGrid:
    """Return the grids of one frame; frames with one camera share them, so one header is read per camera."""
    if camera["camera_model"] not in CAMERA_MODELS:
        hint = "undistort the images to a PINHOLE camera first"
        raise FormatError(f"found camera model {str(camera['camera_model'])[:40]}", file=place, hint=hint)
    numbers = [camera[key] for key in CAMERA_KEYS if key != "camera_model"]
    if not all(value is None or (_is_real(value) and abs(value) < 1e9) for value in numbers):
        raise FormatError("found intrinsics that are not numbers", file=place)
    key = (tuple(numbers), depth is None) if camera["w"] and camera["h"] else (image, depth)
    if key not in grids:
        size = image_size(path / image)
        if camera["w"] and camera["h"] and size != (camera["h"], camera["w"]):
            found = f"found {size[1]} x {size[0]} pixels, expected {camera['w']:g} x {camera['h']:g}"
            raise FormatError(f"{found} as {place} says", file=path / image)
        grid = camera_grid(path, image, depth, _intrinsics(camera, size, place), None, Path(place))
        lens = checked_distortion([camera[name] or 0.0 for name in LENS], place)
        grids[key] = CameraGrid(grid.size, grid.K, grid.depth_size, grid.depth_K, lens)
    return grids[key]


def _intrinsics(camera: dict, size: tuple[int, int], place: str) -> np.ndarray:
    H, W = size
    fx, fy = camera["fl_x"], camera["fl_y"]
    if fx is None and camera["camera_angle_x"] and 0 < camera["camera_angle_x"] < np.pi:
        fx = 0.5 * W / np.tan(0.5 * camera["camera_angle_x"])
    if fx is None:
        raise FormatError('found neither "fl_x" nor "camera_angle_x"', file=place)
    cx, cy = (W / 2 if camera["cx"] is None else camera["cx"]), (H / 2 if camera["cy"] is None else camera["cy"])
    # nerfstudio and COLMAP put the centre of the first pixel at 0.5, this project at 0
    return np.array([[fx, 0, cx - 0.5], [0, fx if fy is None else fy, cy - 0.5], [0, 0, 1]], np.float64)


def _frame(name, image, depth, pose, grid: CameraGrid, scale: float, time_s: float | None) -> Frame:
    return Frame(
        frame=name,
        image=image,
        size=grid.size,
        K=grid.K,
        world_from_cam=pose,
        depth=depth,
        depth_scale=scale,
        depth_size=grid.depth_size if depth else None,
        depth_K=grid.depth_K if depth else None,
        time_s=time_s if time_s is not None and abs(time_s) < 1e300 else None,
        distortion=grid.distortion,
    )
