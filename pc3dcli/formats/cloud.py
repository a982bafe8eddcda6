# SPDX-License-Identifier: Apache-2.0
"""Point clouds and meshes in memory, and reading them by suffix: .ply, .pcd, KITTI .bin, nuScenes .pcd.bin.

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
    """

    xyz: np.ndarray
    rgb: np.ndarray | None = None
    normal: np.ndarray | None = None
    faces: np.ndarray | None = None
    extra: dict[str, np.ndarray] = field(default_factory=dict)


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
    raise InputError(f"found a file of unknown kind, expected {', '.join(SUFFIXES)} or .pcd.bin", file=path)


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
