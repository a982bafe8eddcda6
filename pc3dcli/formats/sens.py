# SPDX-License-Identifier: Apache-2.0
"""ScanNet's .sens container, version 4, read in place: an index of offsets, then any frame without the others.

Layout (ScanNet repository, SensReader): version, sensor name, four 4 x 4 matrices (colour intrinsic and extrinsic,
depth intrinsic and extrinsic), compression types, the two image sizes, depth shift, number of frames; a frame is a
camera-to-world matrix, two time stamps in microseconds, two sizes and the compressed colour and depth.
Colour is raw, PNG or JPEG; depth raw or zlib.  Depth compressed with Occipital's proprietary codec is refused.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from os import PathLike
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.images import MAX_SIDE, decode_color

VERSION = 4
MAX_NAME = 4096  # bytes of the sensor's name; ours
COLOR_KINDS = {0: "raw", 1: "png", 2: "jpeg"}
DEPTH_KINDS = {0: "raw_ushort", 1: "zlib_ushort", 2: "occi_ushort"}
_FRAME = struct.Struct("<16fQQQQ")  # camera_to_world, colour and depth time, colour and depth bytes
_SIZES = struct.Struct("<iiIIIIfQ")  # compressions, colour W H, depth W H, depth shift, frames

File = str | PathLike[str]


@dataclass(frozen=True)
class SensFile:
    """The header and the index of one .sens file.

    K_color, K_depth     (3, 3) float64
    color_size           (H, W), like depth_size
    units_per_metre      stored depth units in a metre (the header's depth shift)
    world_from_cam       (V, 4, 4) float64, not necessarily finite
    time_us              (V,) uint64, microseconds, of the colour images
    extrinsic_shift      metres between the two cameras as the header says; everybody treats it as 0
    """

    path: Path
    K_color: np.ndarray
    K_depth: np.ndarray
    color_size: tuple[int, int]
    depth_size: tuple[int, int]
    color_kind: str
    depth_kind: str
    units_per_metre: float
    world_from_cam: np.ndarray
    time_us: np.ndarray
    extrinsic_shift: float
    spans: np.ndarray = field(repr=False)  # (V, 3) int64: offset of colour, bytes of colour, bytes of depth

    def read_color(self, index: int) -> np.ndarray:
        """Return colour image `index` (from 0) as (H, W, 3) uint8 RGB; FormatError when it is damaged."""
        start, length, _ = self._span(index)
        data, place = self._bytes(start, length), f"{self.path}#color/{index}"
        if self.color_kind != "raw":
            return decode_color(data, place)
        H, W = self.color_size
        if length != H * W * 3:
            raise FormatError(f"found {length} bytes, expected {H * W * 3} of raw colour", file=place)
        return np.frombuffer(data, np.uint8).reshape(H, W, 3).copy()

    def read_depth_raw(self, index: int) -> np.ndarray:
        """Return depth image `index` (from 0) as (H, W) uint16 in stored units; FormatError when it is damaged."""
        start, color_length, length = self._span(index)
        data, place = self._bytes(start + color_length, length), f"{self.path}#depth/{index}"
        H, W = self.depth_size
        if self.depth_kind == "zlib_ushort":
            data = _inflate(data, H * W * 2, place)
        if len(data) != H * W * 2:
            raise FormatError(f"found {len(data)} bytes, expected {H * W * 2} of depth", file=place)
        return np.frombuffer(data, "<u2").reshape(H, W).astype(np.uint16)

    def _span(self, index: int) -> tuple[int, int, int]:
        if not 0 <= index < len(self.spans):
            raise FormatError(f"found frame number {index}, expected 0 to {len(self.spans) - 1}", file=self.path)
        start, color_length, depth_length = self.spans[index].tolist()
        return start, color_length, depth_length

    def _bytes(self, start: int, length: int) -> bytes:
        try:
            with self.path.open("rb") as stream:
                stream.seek(start)
                return stream.read(length)
        except OSError as error:
            raise InputError(f"cannot read it: {error.strerror}", file=self.path) from None


def open_sens(path: File) -> SensFile:
    """Read the header and the index of a .sens file; pictures stay on disk.

    The last few indexes are kept, because frames are asked for one by one.
    raises  FormatError for another version, an unknown or proprietary compression or a truncated file, InputError
    """
    path = Path(path)
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", file=path) from None
    return _open_sens(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _open_sens(path: Path, size: int, _modified: int) -> SensFile:
    with path.open("rb") as stream:
        (version,) = struct.unpack("<I", _take(stream, 4, path))
        if version != VERSION:
            raise FormatError(f"found version {version}, expected {VERSION} of a .sens file", file=path)
        (name_length,) = struct.unpack("<Q", _take(stream, 8, path))
        if name_length > MAX_NAME:
            raise FormatError(f"found a sensor name of {name_length} bytes, expected a .sens header", file=path)
        _take(stream, name_length, path)
        matrices = _as_float64(np.frombuffer(_take(stream, 256, path), "<f4").reshape(4, 4, 4))
        numbers = _SIZES.unpack(_take(stream, _SIZES.size, path))
        kinds, sizes, units = _check_header(numbers, path)
        poses, times, spans = _index(stream, numbers[7], size, path)
    shift = float(np.abs(matrices[3, :3, 3] - matrices[1, :3, 3]).max())
    return SensFile(
        path=path,
        K_color=matrices[0, :3, :3],
        K_depth=matrices[2, :3, :3],
        color_size=sizes[0],
        depth_size=sizes[1],
        color_kind=kinds[0],
        depth_kind=kinds[1],
        units_per_metre=units,
        world_from_cam=poses,
        time_us=times,
        extrinsic_shift=shift,
        spans=spans,
    )


def _take(stream, count: int, path: Path) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise FormatError("the file ends inside its header; it is truncated", file=path)
    return data


def _check_header(numbers: tuple, path: Path):
    color, depth, color_w, color_h, depth_w, depth_h, units, _ = numbers
    if color not in COLOR_KINDS or depth not in DEPTH_KINDS:
        raise FormatError(f"found colour compression {color} and depth compression {depth}", file=path)
    if DEPTH_KINDS[depth] == "occi_ushort":
        hint = "export it with ScanNet's own C++ reader"
        raise FormatError("depth is compressed as occi_ushort, a proprietary codec", file=path, hint=hint)
    if not all(0 < side <= MAX_SIDE for side in (color_w, color_h, depth_w, depth_h)):
        found = f"{color_w} x {color_h} colour and {depth_w} x {depth_h} depth pixels"
        raise FormatError(f"found {found}, expected 1 to {MAX_SIDE} on each side", file=path)
    if not 1e-3 < units < 1e6:
        raise FormatError(f"found a depth shift of {units:g} units a metre, expected 1000 or near", file=path)
    # the header stores float32 of a decimal number, so 1000.0 exactly in every known scan
    return (COLOR_KINDS[color], DEPTH_KINDS[depth]), ((color_h, color_w), (depth_h, depth_w)), float(units)


def _index(stream, count: int, size: int, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walk over the frame headers; O(count) small reads, 5,000 frames take about 0.05 s."""
    position = stream.tell()
    if count * _FRAME.size > size - position:
        left = size - position
        raise FormatError(f"found {left} bytes for {count} frames; the file is truncated or damaged", file=path)
    headers, spans = [], np.empty((count, 3), np.int64)
    for index in range(count):
        data = os.pread(stream.fileno(), _FRAME.size, position)
        if len(data) != _FRAME.size:
            raise FormatError(f"the file ends in frame {index} of {count}; it is truncated", file=path)
        color_bytes, depth_bytes = struct.unpack_from("<QQ", data, 80)
        position += _FRAME.size
        if color_bytes + depth_bytes > size - position:
            found = f"{size - position} bytes for the pictures of frame {index} of {count}"
            raise FormatError(f"found {found}, expected {color_bytes + depth_bytes}; it is truncated", file=path)
        headers.append(data)
        spans[index] = position, color_bytes, depth_bytes
        position += color_bytes + depth_bytes
    table = np.frombuffer(b"".join(headers), [("pose", "<f4", (4, 4)), ("rest", "<u8", (4,))])
    return _as_float64(table["pose"]), table["rest"][:, 0].copy(), spans


def _as_float64(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return values.astype(np.float64)


def _inflate(data: bytes, size: int, place: str) -> bytes:
    """Return at most `size` + 1 bytes of zlib data, so that a bomb stays small."""
    decoder = zlib.decompressobj()
    try:
        plain = decoder.decompress(data, size + 1)
        if len(plain) == size and not decoder.eof:
            plain += decoder.flush(1)  # runs the checksum at the end
    except zlib.error as error:
        raise FormatError(f"damaged zlib data: {error}", file=place) from None
    if not decoder.eof:
        raise FormatError(f"the zlib data ends after {len(plain)} bytes, expected {size}", file=place)
    return plain
