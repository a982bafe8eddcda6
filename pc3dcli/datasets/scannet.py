# SPDX-License-Identifier: Apache-2.0
"""ScanNet as SensReader exports it: color/ depth/ pose/ and intrinsic/; also the zero-padded frames_25k subset.

Files are matched by number, so 120.jpg, 000120.jpg and frame_000120.jpg are all frame 120.  Intrinsics are 4 x 4 (or
3 x 3) text files, or the fx_color ... lines of <scene>.txt, which also holds depthShift where a scan departs from
millimetres.  The extrinsics between the two cameras are treated as identity, as all public code does (spec section 2).
A scene folder with only a mesh is a scene without frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pc3dcli.datasets.frame_files import (
    camera_grid,
    find_points,
    make_frames,
    numbered_files,
    pair_files,
    read_poses,
    require_frames,
)
from pc3dcli.datasets.scene import OpenOptions, Scene, check_depth_scale
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.poses import read_matrix, text_lines

PATTERN = "pose/0.txt with color/0.jpg, depth/0.png and intrinsic/intrinsic_color.txt; or <scene>_vh_clean_2.ply"
COLOR_FILES = ("intrinsic/intrinsic_color.txt", "intrinsic_color.txt", "intrinsics_color.txt")
DEPTH_FILES = ("intrinsic/intrinsic_depth.txt", "intrinsic_depth.txt", "intrinsics_depth.txt")
SHARED_FILES = ("intrinsic.txt", "intrinsics.txt", "camera-intrinsics.txt")  # one matrix for both, of the colour image


def matches(path: Path) -> bool:
    """Say whether `path` is a folder of this layout."""
    if not path.is_dir():
        return False
    if (path / "pose").is_dir() and ((path / "color").is_dir() or (path / "depth").is_dir()):
        return True
    has_mesh = (path / f"{path.resolve().name}_vh_clean_2.ply").is_file()
    return has_mesh and next(path.glob("*.sens"), None) is None


def open_scene(scene: str, path: Path, options: OpenOptions) -> Scene:
    """Read poses and intrinsics of one exported scan; see SceneRef.open."""
    name = path.resolve().name
    points = find_points(path, name)
    pose_files = numbered_files(path, "pose", r"(?:frame[_-]?)?(\d+)\.txt")
    if not pose_files and points and not (path / "color").is_dir():
        return Scene(scene, path, "scannet", (), points)
    poses, lost = read_poses(path, pose_files, options)
    names = {number: digits for number, (digits, _) in pose_files.items()}
    images = numbered_files(path, "color", r"(?:frame[_-]?)?(\d+)\.(?:jpg|jpeg|png)")
    depths = numbered_files(path, "depth", r"(?:frame[_-]?)?(\d+)\.png")
    candidates, unpictured = pair_files(path, poses, names, images, depths)
    require_frames(candidates, lost + unpictured, path)
    meta = read_meta(path / f"{name}.txt")
    K, depth_K, source = _intrinsics(path, meta)
    grid = camera_grid(path, candidates[0].image, candidates[0].depth, K, depth_K, source)
    scale = options.depth_scale or 1.0 / meta.get("depthShift", 1000.0)
    return Scene(
        scene=scene,
        root=path,
        dataset="scannet",
        frames=make_frames(candidates, grid, check_depth_scale(scale, path / f"{name}.txt")),
        points=points,
        skipped=tuple(sorted(lost + unpictured, key=lambda item: int(item[0]))),
    )


def read_meta(path: Path) -> dict[str, float]:
    """Return the single positive numbers of a ScanNet <scene>.txt, {} when there is none or it is another kind of file.

    A ground-truth file of the instance benchmark has the same name; it holds no "name = value" lines.
    """
    if not path.is_file() or path.stat().st_size > 1 << 16:
        return {}
    meta = {}
    for number, line in text_lines(path, 1 << 16):
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key.startswith(("fx_", "fy_", "mx_", "my_", "depthShift")):
            continue
        try:
            meta[key] = float(value)
        except ValueError:
            raise FormatError(f"expected a number for {key}, found {value[:40]!r}", file=path, line=number) from None
        if not meta[key] > 0 or not np.isfinite(meta[key]):
            raise FormatError(f"expected a positive number for {key}, found {value[:40]}", file=path, line=number)
    return meta


def _intrinsics(path: Path, meta: dict[str, float]) -> tuple[np.ndarray, np.ndarray | None, Path]:
    """Return K of colour, K of depth or None, and the file they come from."""
    color, depth, shared = (_first(path, names) for names in (COLOR_FILES, DEPTH_FILES, SHARED_FILES))
    if color:
        return _read_camera(color), _read_camera(depth) if depth else None, color
    source = path / f"{path.resolve().name}.txt"
    K = _meta_camera(meta, "color")
    if K is not None:
        return K, _meta_camera(meta, "depth"), source
    single = shared or depth  # an export with colour resized to depth keeps only the depth intrinsics
    if single is None:
        raise InputError(f"found no {COLOR_FILES[0]}, {COLOR_FILES[2]} or {SHARED_FILES[1]}", file=path)
    return _read_camera(single), None, single


def _first(path: Path, names: tuple[str, ...]) -> Path | None:
    return next((path / name for name in names if (path / name).is_file()), None)


def _read_camera(path: Path) -> np.ndarray:
    lines = text_lines(path, 1 << 16)
    side = 3 if len(lines) == 3 else 4
    return read_matrix(path, side, side)[:3, :3]


def _meta_camera(meta: dict[str, float], kind: str) -> np.ndarray | None:
    fx, fy, cx, cy = (meta.get(f"{part}_{kind}") for part in ("fx", "fy", "mx", "my"))
    if None in (fx, fy, cx, cy):
        return None
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
