# SPDX-License-Identifier: Apache-2.0
"""Posed RGB-D frames of a scene, whatever layout they came in, and their `frame` records.

Metres; cameras x right, y down, z forward; pixels (x, y) with integer coordinates at pixel centres.  The grid of the
colour image is the working grid: masks have its size, K belongs to it, and a depth image of another grid is sampled
through the two intrinsics (nearest neighbour), never stretched.  Images are read when asked for, one frame at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.formats.images import MAX_SIDE, read_color, read_depth_raw
from pc3dcli.formats.paths import resolve_inside
from pc3dcli.formats.poses import check_intrinsics, check_rigid
from pc3dcli.geometry.voxels import voxel_reach

MAX_RAY = 11.0  # longest ray in units of its depth: wider images do not pass check_intrinsics
MAX_DEPTH = 10.0  # metres; ours (spec section 2), public code cuts at 20


@dataclass(frozen=True)
class Frame:
    """What a `frame` record says.

    frame           id: the digits of the file name as on disk, or its whole stem where it is a time
    image           colour file relative to the scene's root; "x.sens#color/120" inside a .sens file; None without one
    size            (H, W) of the image, the working grid
    K               (3, 3) float64, of that grid
    world_from_cam  (4, 4) float64
    depth           depth file like `image`, None without one
    depth_scale     metres per stored unit
    depth_size      (H, W) of the depth image where it is not `size`, else None
    depth_K         (3, 3) float64 of the depth grid where it is not K, else None
    distortion      (k1, k2, p1, p2[, k3]) of the stored pictures (OpenCV's model); they are undistorted when read
    time_s          seconds, None when unknown
    """

    frame: str
    image: str | None
    size: tuple[int, int]
    K: np.ndarray
    world_from_cam: np.ndarray
    depth: str | None = None
    depth_scale: float = 0.001
    depth_size: tuple[int, int] | None = None
    depth_K: np.ndarray | None = None
    time_s: float | None = None
    distortion: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Scene:
    """A scene folder or file as it was found.

    scene    id; `root` the folder that file names are relative to; `dataset` the layout's name
    frames   in numeric order; empty for a cloud without pictures
    points   cloud or mesh file relative to `root`, None when points are to be fused from depth
    up       signed axis that points up: "z", "-y", ...
    skipped  (frame, reason) of frames that cannot be used
    notes    what was assumed because no file says it, one sentence each
    """

    scene: str
    root: Path
    dataset: str
    frames: tuple[Frame, ...]
    points: str | None = None
    up: str = "z"
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenOptions:
    """What a user may override when a scene is opened."""

    depth_scale: float | None = None  # metres per stored unit of every depth image; None: what the layout says
    skip_bad_poses: bool = False  # a malformed pose skips its frame instead of failing the scene


@dataclass(frozen=True)
class SceneRef:
    """A scene that was found but not yet read, so that a broken one fails alone."""

    scene: str
    path: Path
    dataset: str

    def open(self, *, depth_scale: float | None = None, skip_bad_poses: bool = False) -> Scene:
        """Read poses, intrinsics and the list of files; no picture is decoded.

        depth_scale     metres per stored depth unit instead of what the layout says
        skip_bad_poses  list frames with a malformed pose in `Scene.skipped` instead of raising
        raises          FormatError, InputError, UsageError for an impossible depth_scale
        """
        from pc3dcli.datasets import LAYOUTS

        if depth_scale is not None and not _is_depth_scale(depth_scale):
            raise UsageError(f"a depth scale of {depth_scale} metres a unit, expected between 1e-7 and 1e3")
        layout = LAYOUTS[self.dataset]
        return layout.open_scene(self.scene, self.path, OpenOptions(depth_scale, skip_bad_poses))


class RgbdFrame:
    """The pictures of one frame, read on first use and kept until the object is dropped."""

    def __init__(self, root: Path, frame: Frame, *, max_depth: float = MAX_DEPTH):
        """root is the scene's; max_depth in metres, measurements beyond it count as missing."""
        self.root, self.frame, self.max_depth = Path(root), frame, max_depth
        self.size, self.K, self.world_from_cam = frame.size, frame.K, frame.world_from_cam

    @cached_property
    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB.  FormatError when the file is damaged or not of `size`."""
        frame = self.frame
        if frame.image is None:
            raise FormatError(f"frame {frame.frame} has no colour image")
        rgb = _load(self.root, frame.image, "color")
        _check_size(rgb, frame.size, self.root / frame.image)
        if frame.distortion:
            import cv2

            x, y = _undistort_map(*_lens(frame), _key(frame.K))
            rgb = cv2.remap(rgb, x, y, cv2.INTER_LINEAR)
        return rgb

    @cached_property
    def depth(self) -> np.ndarray | None:
        """(H, W) float32, metres along the optical axis on the image grid, 0 where missing; None without depth."""
        import cv2

        frame = self.frame
        if frame.depth is None:
            return None
        raw = _load(self.root, frame.depth, "depth")
        _check_size(raw, frame.depth_size or frame.size, self.root / frame.depth)
        limit = min(int(self.max_depth / frame.depth_scale), 65534)  # 65535 is "missing" in 7-Scenes and others
        raw = cv2.threshold(raw, limit, 0, cv2.THRESH_TOZERO_INV)[1]  # ten times as fast as numpy's where
        if frame.distortion or frame.depth_K is not None or frame.depth_size is not None:
            raw = _resample(raw, frame)
        return raw * np.float32(frame.depth_scale)


def check_reach(frame: Frame, max_depth: float, voxel: float) -> None:
    """Refuse a camera so far from the origin that what it sees leaves a grid of `voxel` metres; raises InputError.

    max_depth  metres
    """
    distance = np.abs(frame.world_from_cam[:3, 3]).max()
    if distance + MAX_RAY * max_depth > voxel_reach(voxel):
        found = f"the camera of frame {frame.frame} is {distance:.0f} m from the origin"
        raise InputError(
            f"{found}, too far for voxels of {voxel:g} m", hint="subtract one offset from all positions of the scan"
        )


def frame_to_record(scene_id: str, frame: Frame) -> dict:
    """Return the `frame` record of the stream; poses and intrinsics carry nine significant digits."""
    record = {"type": "frame", "scene": scene_id, "frame": frame.frame}
    if frame.image is not None:
        record["image"] = frame.image
    if frame.depth is not None:
        record["depth"] = frame.depth
        record["depth_scale"] = float(f"{frame.depth_scale:.9g}")
        if frame.depth_size is not None:
            record["depth_size"] = list(frame.depth_size)
        if frame.depth_K is not None:
            record["depth_K"] = _rounded(frame.depth_K)
    record |= {"size": list(frame.size), "K": _rounded(frame.K), "world_from_cam": _rounded(frame.world_from_cam)}
    if frame.distortion:
        record["distortion"] = [float(f"{value:.9g}") for value in frame.distortion]
    if frame.time_s is not None:
        record["time_s"] = frame.time_s
    return record


def frame_from_record(record: dict) -> Frame:
    """Return the Frame of a `frame` record.

    raises  FormatError that names the field when one is missing or is not what pc3d-stream(5) says
    """
    size = _size_field(record, "size", required=True)
    depth = _text_field(record, "depth")
    image = _text_field(record, "image")
    if image is None and depth is None:
        raise FormatError('frame lacks "image"')
    depth_size = _size_field(record, "depth_size")
    K = check_intrinsics(_matrix_field(record, "K", 3), size, 'field "K"')
    depth_K = record.get("depth_K")
    if depth_K is not None:
        depth_K = check_intrinsics(_matrix_field(record, "depth_K", 3), depth_size or size, 'field "depth_K"')
    elif depth_size not in (None, size):
        raise FormatError('frame has a "depth_size" of its own but lacks "depth_K"')
    pose = check_rigid(_matrix_field(record, "world_from_cam", 4), 'field "world_from_cam"')
    scale = record.get("depth_scale", 0.001)
    time_s = record.get("time_s")
    distortion = record.get("distortion")
    if not _is_depth_scale(scale):
        raise FormatError(f'"depth_scale" is {scale!r}, expected metres per stored unit')
    if time_s is not None and not _is_number(time_s):
        raise FormatError(f'"time_s" is {time_s!r}, expected seconds')
    if distortion is not None:
        distortion = checked_distortion(distortion, 'field "distortion"')
    name = _text_field(record, "frame", required=True)
    return Frame(name, image, size, K, pose, depth, float(scale), depth_size, depth_K, time_s, distortion)


def checked_distortion(values: object, file: Path | str) -> tuple[float, ...] | None:
    """Return lens coefficients (k1, k2, p1, p2[, k3]) as floats, None when all are 0; FormatError for anything else."""
    is_list = isinstance(values, list | tuple) and len(values) in (4, 5)
    if not is_list or not all(_is_number(value) and abs(value) < 100 for value in values):
        raise FormatError("expected 4 or 5 lens coefficients k1 k2 p1 p2 [k3]", file=file)
    return tuple(float(value) for value in values) if any(values) else None


def check_depth_scale(scale: object, file: Path | str) -> float:
    """Return metres per stored unit if it can be that, else raise FormatError."""
    if not _is_depth_scale(scale):
        raise FormatError(f"found a depth scale of {scale!r} metres per unit, expected between 1e-7 and 1e3", file=file)
    return float(scale)


def _load(root: Path, name: str, kind: str) -> np.ndarray:
    if ".sens#" in name:
        from pc3dcli.formats.sens import open_sens

        file, _, entry = name.rpartition("#")
        words = entry.split("/")
        if len(words) != 2 or words[0] != kind or not (words[1].isascii() and words[1].isdigit()):
            raise FormatError(f"found {name!r}, expected a name like {file}#{kind}/0", file=root / file)
        sens = open_sens(resolve_inside(root, file))
        return sens.read_color(int(words[1])) if kind == "color" else sens.read_depth_raw(int(words[1]))
    path = resolve_inside(root, name)
    return read_color(path) if kind == "color" else read_depth_raw(path)


def _check_size(image: np.ndarray, size: tuple[int, int], file: Path) -> None:
    if image.shape[:2] != tuple(size):
        found, expected = (f"{width} x {height}" for height, width in (image.shape[:2], size))
        raise FormatError(f"found {found} pixels, expected {expected} as in the scene's first frame", file=file)


def _resample(raw: np.ndarray, frame: Frame) -> np.ndarray:
    """Return the depth measurement nearest to the ray of each image pixel, (H, W) uint16, 0 outside the depth image."""
    import cv2

    depth_K = frame.K if frame.depth_K is None else frame.depth_K
    lookup = _depth_lookup(*_lens(frame), _key(frame.K), _key(depth_K))
    return cv2.remap(raw, lookup, None, cv2.INTER_NEAREST)  # integer map: exact, a sixth of numpy's indexing


def _key(K: np.ndarray) -> bytes:
    return np.ascontiguousarray(K, np.float64).tobytes()  # arrays cannot be keys of a cache


def _lens(frame: Frame) -> tuple[tuple[int, int], tuple[float, ...]]:
    return tuple(frame.size), frame.distortion or ()


@lru_cache(maxsize=2)  # all frames of a scene share a camera, or nearly so
def _depth_lookup(size, distortion, K_bytes: bytes, depth_K_bytes: bytes) -> np.ndarray:
    """Return for each pixel of the image grid its (column, row) in the depth grid, (H, W, 2) int16."""
    K, depth_K = (np.frombuffer(data).reshape(3, 3) for data in (K_bytes, depth_K_bytes))
    if not distortion and K[0, 1] == 0 and depth_K[0, 1] == 0:  # rows and columns are independent
        x = (np.arange(size[1])[None, :] - K[0, 2]) / K[0, 0] * depth_K[0, 0] + depth_K[0, 2]
        y = (np.arange(size[0])[:, None] - K[1, 2]) / K[1, 1] * depth_K[1, 1] + depth_K[1, 2]
    else:
        x, y, _ = (depth_K @ _distorted_rays(size, distortion, K)).reshape(3, *size)
    lookup = np.empty((*size, 2), np.int16)
    for axis, value in enumerate((x, y)):  # clipped first: a camera far off would overflow the integers
        lookup[..., axis] = np.floor(np.clip(value, -9, MAX_SIDE) + 0.5)
    return lookup


@lru_cache(maxsize=2)
def _undistort_map(size, distortion, K_bytes: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return for each pixel of the undistorted image its (x, y) in the stored one, two (H, W) float32."""
    K = np.frombuffer(K_bytes).reshape(3, 3)
    x, y, _ = (K @ _distorted_rays(size, distortion, K)).reshape(3, *size)
    return x.astype(np.float32), y.astype(np.float32)


def _distorted_rays(size, distortion, K: np.ndarray) -> np.ndarray:
    """Return where the lens moves the ray of each pixel, (3, H W) float64 with z = 1 (OpenCV's Brown-Conrady model)."""
    rows, columns = np.indices(size).reshape(2, -1)
    x, y, one = np.linalg.inv(K) @ np.stack([columns, rows, np.ones_like(rows)]).astype(np.float64)
    k1, k2, p1, p2, k3 = (*distortion, 0.0)[:5] if distortion else (0.0,) * 5
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    moved_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    moved_y = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
    return np.stack([moved_x, moved_y, one])


def _rounded(matrix: np.ndarray) -> list:
    return [[float(f"{value:.9g}") for value in row] for row in matrix.tolist()]


def _is_depth_scale(value) -> bool:
    return _is_number(value) and 1e-7 < value < 1e3


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # NaN is not


def _text_field(record: dict, name: str, required: bool = False) -> str | None:
    value = record.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, str) or not value or not value.isprintable():  # as lone surrogates are not
        raise FormatError(f'frame lacks "{name}"' if value is None else f'"{name}" is {value!r}, expected text')
    return value


def _size_field(record: dict, name: str, required: bool = False) -> tuple[int, int] | None:
    value = record.get(name)
    if value is None and not required:
        return None
    if value is None:
        raise FormatError(f'frame lacks "{name}"')
    is_pair = isinstance(value, list | tuple) and len(value) == 2 and all(type(side) is int for side in value)
    if not is_pair or not all(0 < side <= MAX_SIDE for side in value):
        raise FormatError(f'"{name}" is {value!r}, expected [height, width] up to {MAX_SIDE}')
    return tuple(value)


def _matrix_field(record: dict, name: str, side: int) -> np.ndarray:
    value = record.get(name)
    if value is None:
        raise FormatError(f'frame lacks "{name}"')
    rows = value if isinstance(value, list | tuple) and len(value) == side else ()
    good = all(isinstance(row, list | tuple) and len(row) == side and all(map(_is_number, row)) for row in rows)
    if not rows or not good:
        raise FormatError(f'"{name}" is not a list of {side} rows of {side} finite numbers')
    return np.array(value, dtype=np.float64)
