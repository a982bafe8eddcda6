# SPDX-License-Identifier: Apache-2.0
"""Small text files of numbers: camera poses and intrinsics, read with file and line in every complaint.

A pose that is not finite is data (ScanNet writes -inf where tracking was lost); one that is no matrix is an error.
"""

from __future__ import annotations

from os import PathLike

import numpy as np

from pc3dcli.errors import FormatError
from pc3dcli.formats.images import read_bytes

MAX_TEXT_BYTES = 1 << 16  # ours: a 4 x 4 matrix takes about 400
RIGID_TOLERANCE = 0.02  # largest entry of |R'R - I|; ours, text poses with three decimals stay below 0.005

File = str | PathLike[str]


def read_matrix(path: File, rows: int = 4, columns: int = 4) -> np.ndarray:
    """Read a text file of `rows` lines with `columns` numbers each as (rows, columns) float64, not necessarily finite.

    Blank lines and lines that start with # are skipped; commas count as spaces.
    raises  FormatError with the line that is wrong, InputError when the file cannot be read
    """
    values: list[list[float]] = []
    for number, line in text_lines(path, MAX_TEXT_BYTES):
        if len(values) == rows:
            raise FormatError(f"expected {rows} lines of numbers, found another one", file=path, line=number)
        values.append(parse_numbers(line, columns, path, number))
    if len(values) != rows:
        raise FormatError(f"expected {rows} lines of numbers, found {len(values)}", file=path)
    return np.array(values, dtype=np.float64)


def text_lines(path: File, limit: int) -> list[tuple[int, str]]:
    """Return (1-based number, stripped text) of each line that is neither blank nor a # comment."""
    try:
        text = read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"expected text, found byte 0x{error.object[error.start]:02x}", file=path) from None
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def parse_numbers(line: str, count: int, file: File, number: int) -> list[float]:
    """Return the `count` numbers of one line; FormatError naming file and line when it holds anything else."""
    words = line.replace(",", " ").split()
    if len(words) != count:
        raise FormatError(f"expected {count} numbers, found {len(words)}", file=file, line=number)
    try:
        return [float(word) for word in words]
    except ValueError:
        wrong = next(word for word in words if not _is_number(word))
        raise FormatError(f"expected a number, found {wrong[:40]!r}", file=file, line=number) from None


def check_rigid(world_from_cam: np.ndarray, file: File, line: int | None = None) -> np.ndarray:
    """Return a finite (4, 4) pose unchanged if it is a rotation and a translation in metres, else raise FormatError."""
    rotation = world_from_cam[:3, :3]
    if np.abs(world_from_cam[3] - (0, 0, 0, 1)).max() > 1e-4:
        found = " ".join(f"{value:g}" for value in world_from_cam[3])
        raise FormatError(f"the last row of the pose is {found}, expected 0 0 0 1", file=file, line=line)
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if not error <= RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
        raise FormatError("the upper left 3 x 3 of the pose is not a rotation", file=file, line=line)
    if np.abs(world_from_cam[:3, 3]).max() > 1e6:
        raise FormatError("the camera is more than 1000 km from the origin; expected metres", file=file, line=line)
    return world_from_cam


def check_intrinsics(K: np.ndarray, size: tuple[int, int], file: File, line: int | None = None) -> np.ndarray:
    """Return the (3, 3) camera matrix K unchanged if it can be that of an image of `size` (H, W); FormatError if not.

    Its principal point must lie in the middle half of the image: the intrinsics of another resolution do not.
    """
    H, W = size
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    if not np.isfinite(K).all() or min(fx, fy) <= 0 or np.abs(K[2] - (0, 0, 1)).max() > 1e-6 or K[1, 0] != 0:
        expected = "a camera matrix [[fx 0 cx] [0 fy cy] [0 0 1]] with positive fx, fy"
        raise FormatError(f"found numbers that are not {expected}", file=file, line=line)
    if not (W / 4 < cx < 3 * W / 4 and H / 4 < cy < 3 * H / 4 and 0.1 < fx / W < 100 and 0.1 < fy / H < 100):
        message = f"fx {fx:g} fy {fy:g} cx {cx:g} cy {cy:g} cannot be those of an image of {W} x {H} pixels"
        hint = "give the intrinsics of the images as they are stored"
        raise FormatError(message, file=file, line=line, hint=hint)
    return K


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
