# SPDX-License-Identifier: Apache-2.0
"""Point clouds and meshes in memory, and reading them by suffix: .ply, .pcd, KITTI .bin, nuScenes .pcd.bin, S3DIS .txt.

Points keep the order of the file, including those that are not finite: labels refer to them by position.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.images import read_bytes
from pc3dcli.formats.number_text import parse_numbers

SUFFIXES = (".ply", ".pcd", ".bin")
MAX_CLOUD_BYTES = 16 << 30  # ours

File = str | PathLike[str]


@dataclass(frozen=True)
class Cloud:
    """Points in file order.

    xyz     (N, 3) float32 or float64 as stored, metres
    rgb     (N, 3) uint8, None without colour
    normal  (N, 3) float32, None without normals
    faces   (F, 3) int32 into the points, None for a cloud; polygons come as fans of triangles
    extra   {name: (N,)} of every other number a point has, in its stored type
    of_face {name: (F,)} of every number that a face has beside its corners, a polygon's on each of its triangles
    """

    xyz: np.ndarray
    rgb: np.ndarray | None = None
    normal: np.ndarray | None = None
    faces: np.ndarray | None = None
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    of_face: dict[str, np.ndarray] = field(default_factory=dict)


def read_cloud(path: File) -> Cloud:
    """Read a cloud or mesh by its suffix.

    raises  InputError when it cannot be read or the suffix is unknown, FormatError when it is damaged
    """
    from pc3dcli.formats.pcd import read_pcd
    from pc3dcli.formats.ply import read_ply

    name = Path(path).name.lower()
    if name.endswith(".ply"):
        return read_ply(path)
    if name.endswith(".pcd"):
        return read_pcd(path)
    if name.endswith(".pcd.bin"):
        return _read_floats(path, ("intensity", "ring"))
    if name.endswith(".bin"):
        return _read_floats(path, ("remission",))
    if name.endswith(".txt"):
        return read_text_cloud(path)
    raise InputError(f"found a file of unknown kind, expected {', '.join(SUFFIXES)} or .pcd.bin", file=path)


def read_text_cloud(path: File) -> Cloud:
    """Read lines of x y z r g b, colours 0 to 255, as the rooms of S3DIS are; raises as `read_cloud`."""
    values = parse_numbers(read_bytes(path, MAX_CLOUD_BYTES), 6, path)
    colors = values[:, 3:]
    if not ((colors >= 0) & (colors <= 255)).all():
        raise FormatError("found a colour outside 0 to 255", file=path)
    return Cloud(values[:, :3], colors.astype(np.uint8))


def xyz_sha256(xyz: np.ndarray) -> str:
    """Return the SHA-256, as hexadecimal text, of (N, 3) points taken as little-endian float32 in file order."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
        return hashlib.sha256(np.ascontiguousarray(xyz, dtype="<f4")).hexdigest()


def _read_floats(path: File, names: tuple[str, ...]) -> Cloud:
    data = read_bytes(path, MAX_CLOUD_BYTES)
    columns = 3 + len(names)
    if len(data) % (4 * columns):
        message = f"found {len(data)} bytes, expected a multiple of {4 * columns} ({columns} float32 a point)"
        raise FormatError(message, file=path)
    values = np.frombuffer(data, "<f4").reshape(-1, columns)
    extra = {name: values[:, 3 + index].copy() for index, name in enumerate(names)}
    return Cloud(values[:, :3].astype(np.float32), extra=extra)
