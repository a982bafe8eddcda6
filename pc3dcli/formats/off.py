# SPDX-License-Identifier: Apache-2.0
"""OFF meshes as text: Princeton's ModelNet and what other programs write.

The counts may follow the magic word on its line or without a space (`OFF490 518 0`), as in parts of ModelNet.  Vertices
may carry more columns (COFF, NOFF, STOFF): the first three are the position.  Polygons become fans of triangles.
"""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError
from pc3dcli.formats.cloud import Cloud
from pc3dcli.formats.integer_text import parse_integers
from pc3dcli.formats.number_text import parse_numbers
from pc3dcli.formats.paths import read_file

_HEADER = re.compile(rb"\s*(?:ST)?C?N?OFF\s*(\d+)[ \t]+(\d+)(?:[ \t]+\d+)?[ \t]*(?:\n|$)")
_COMMENT = re.compile(rb"[ \t]*#[^\n]*")
_BLANK_LINES = re.compile(rb"\n\s*\n")
_ONE_A_LINE = bytes.maketrans(b" \t", b"\n\n")
_MAX_CORNERS = 10_000  # of a polygon; ours


def read_off(path: str | PathLike[str]) -> Cloud:
    """Read a mesh: vertices (N, 3) float64 and triangles (F, 3) int32, without faces a cloud.

    raises  InputError when it cannot be read, FormatError when it is damaged, truncated or binary
    """
    data = read_file(Path(path)).replace(b"\r\n", b"\n")
    if b"#" in data:
        data = _COMMENT.sub(b"", data)
    header = _HEADER.match(data)
    if header is None:
        shown = data[:40].decode("utf-8", "replace")
        raise FormatError(f"found {shown!r}, expected OFF and its counts of vertices and faces", file=path)
    num_vertices, num_faces = (int(count[:18]) for count in header.groups())
    rest = data[header.end() :]
    body = rest.strip()
    if b"\n\n" in body or b"\n " in body:
        body = _BLANK_LINES.sub(b"\n", body)
    ends = np.flatnonzero(np.frombuffer(body + b"\n" if body else b"", np.uint8) == ord("\n"))
    if len(ends) < num_vertices + num_faces:
        raise FormatError(f"found {len(ends)} lines, expected {num_vertices} vertices and {num_faces} faces", file=path)
    cut, stop = (int(ends[count - 1]) + 1 if count else 0 for count in (num_vertices, num_vertices + num_faces))
    num_before = data.count(b"\n", 0, len(data) - len(rest.lstrip()))
    xyz = _vertices(body[:cut], path, num_before)
    return Cloud(xyz, faces=_triangles(body[cut:stop], num_vertices, path) if num_faces else None)


def _vertices(data: bytes, path: str | PathLike[str], num_before: int) -> np.ndarray:
    columns = max(len(data[: data.find(b"\n")].split()), 3)
    return parse_numbers(data, columns, path, num_before)[:, :3]


def _triangles(data: bytes, num_vertices: int, path: str | PathLike[str]) -> np.ndarray:
    """Return (F, 3) int32 of lines `corners i j k ... [colour]`."""
    lines = data.rstrip(b"\n").split(b"\n")
    counts = {line[:1] for line in lines}
    if counts == {b"3"} and all(line.count(b" ") == 3 for line in lines):  # the usual file, parsed at once
        try:
            table = parse_integers(data.translate(_ONE_A_LINE), path).reshape(-1, 4)
        except (FormatError, ValueError):
            table = np.zeros((1, 4), np.int64)
        if len(table) == len(lines) and (table[:, 0] == 3).all():
            return _checked(table[:, 1:], num_vertices, path)
    corners = [_corners(line, path) for line in lines]
    fans = [(face[0], *face[at : at + 2]) for face in corners for at in range(1, len(face) - 1)]
    return _checked(np.array(fans, np.int64).reshape(-1, 3), num_vertices, path)


def _corners(line: bytes, path: str | PathLike[str]) -> list[int]:
    """Return the corners of one face."""
    fields = line.split()
    count = int(fields[0]) if fields and fields[0].isdigit() and len(fields[0]) < 6 else -1
    corners = fields[1 : count + 1] if 0 <= count <= _MAX_CORNERS else []
    if count != len(corners) or not all(field.isdigit() and len(field) < 19 for field in corners):
        shown = line[:40].decode("utf-8", "replace")
        raise FormatError(f"found face {shown!r}, expected a count and as many vertices", file=path)
    return [int(field) for field in corners]


def _checked(triangles: np.ndarray, num_vertices: int, path: str | PathLike[str]) -> np.ndarray:
    wrong = (triangles < 0) | (triangles >= num_vertices)
    if wrong.any():
        raise FormatError(f"a face has vertex {triangles[wrong][0]}, expected 0 to {num_vertices - 1}", file=path)
    return triangles.astype(np.int32)
