# SPDX-License-Identifier: Apache-2.0
"""Own PCD (version 0.7 and before) reader and writer: ascii, binary and LZF-compressed binary.

Sizes are compared with the file before anything is allocated, and the LZF decoder stops at the size it was promised.
Colours packed into one float or integer (`rgb`, `rgba`) are unpacked; all other fields stay in `Cloud.extra` as stored.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pc3dcli.errors import FormatError
from pc3dcli.formats.cloud import MAX_CLOUD_BYTES, Cloud
from pc3dcli.formats.images import read_bytes

MAX_HEADER = 1 << 16  # bytes; ours
LZF_RATIO = 100  # a three-byte LZF reference stands for at most 264 bytes
_KINDS = {"I": "i", "U": "u", "F": "f"}
_REQUIRED = ("FIELDS", "SIZE", "TYPE", "POINTS", "DATA")

File = str | PathLike[str]
Field = tuple[str, str, int]  # name, numpy code, how many values


def read_pcd(path: File) -> Cloud:
    """Read a PCD file.

    returns  Cloud; coordinates float32 or float64 as stored, points in file order, NaN included
    raises   FormatError naming what was found and expected, InputError when the file cannot be read
    """
    data = read_bytes(path, MAX_CLOUD_BYTES)
    header, start = _parse_header(data, path)
    fields, count = _fields(header, path), _count(header, path)
    kind = header["DATA"][0]
    if kind == "ascii":
        columns = _read_ascii(data, start, fields, count, path)
    elif kind == "binary":
        columns = _read_binary(data, start, fields, count, path)
    elif kind == "binary_compressed":
        columns = _read_compressed(data, start, fields, count, path)
    else:
        raise FormatError(f"found DATA {kind[:40]}, expected ascii, binary or binary_compressed", file=path)
    return _to_cloud(columns, path)


def write_pcd(path_or_file: File | BinaryIO, cloud: Cloud, comments: tuple[str, ...] = ()) -> None:
    """Write a cloud as binary PCD 0.7; faces are dropped, colour is packed as PCL does.

    raises  ValueError for a comment with a line break or an extra of another length or type
    """
    columns = {name: cloud.xyz[:, axis] for axis, name in enumerate("xyz")}
    if cloud.normal is not None:
        columns |= {name: cloud.normal[:, axis] for axis, name in enumerate(("normal_x", "normal_y", "normal_z"))}
    if cloud.rgb is not None:
        red, green, blue = cloud.rgb.astype(np.uint32).T
        columns["rgb"] = (red << 16 | green << 8 | blue).view(np.float32)
    columns |= cloud.extra
    for name, values in columns.items():
        if values.shape != (len(cloud.xyz),) or values.dtype.kind not in "iuf" or not name.isidentifier():
            raise ValueError(f"cannot write point field {name!r} {values.dtype} {values.shape} as PCD")
    if any("\n" in comment or not comment.isascii() for comment in comments):
        raise ValueError("a PCD comment is one line of ascii text")
    table = np.empty(len(cloud.xyz), [(name, values.dtype.newbyteorder("<")) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    kinds = [table.dtype[name] for name in columns]
    lines = [*(f"# {comment}" for comment in comments), "VERSION 0.7", f"FIELDS {' '.join(columns)}"]
    lines.append(f"SIZE {' '.join(str(kind.itemsize) for kind in kinds)}")
    lines.append(f"TYPE {' '.join(kind.kind.upper() for kind in kinds)}")
    lines += [f"COUNT {' '.join('1' for _ in kinds)}", f"WIDTH {len(table)}", "HEIGHT 1", "VIEWPOINT 0 0 0 1 0 0 0"]
    lines += [f"POINTS {len(table)}", "DATA binary"]
    data = ("\n".join(lines) + "\n").encode("ascii") + table.tobytes()
    if hasattr(path_or_file, "write"):
        path_or_file.write(data)
    else:
        Path(path_or_file).write_bytes(data)


def decode_lzf(data: bytes, size: int, file: File) -> bytes:
    """Decode LZF (Marc Lehmann's format) to exactly `size` bytes; FormatError when the data says otherwise."""
    out, position, end = bytearray(), 0, len(data)
    try:
        while position < end and len(out) <= size:
            control = data[position]
            position += 1
            if control < 32:  # a run of literal bytes
                out += data[position : position + control + 1]
                position += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[position]
                position += 1
            start = len(out) - ((control & 31) << 8 | data[position]) - 1
            position, length = position + 1, length + 2
            if start < 0:
                raise FormatError("a compressed block refers to what lies before it; it is damaged", file=file)
            piece = out[start : start + length]
            out += piece if len(piece) == length else (piece * (length // len(piece) + 1))[:length]  # overlapping
    except IndexError:
        raise FormatError("the compressed data ends in the middle of a block; it is truncated", file=file) from None
    if len(out) != size or position != end:
        raise FormatError(f"the compressed data gives {len(out)} bytes or more, expected {size}", file=file)
    return bytes(out)


def _parse_header(data: bytes, file: File) -> tuple[dict[str, list[str]], int]:
    """Return {keyword: words} and the offset of the data."""
    header: dict[str, list[str]] = {}
    position, line = 0, 0
    while position < min(len(data), MAX_HEADER):
        end = data.find(b"\n", position)
        end = len(data) if end < 0 else end
        words = data[position:end].decode("ascii", "replace").split()
        position, line = end + 1, line + 1
        if not words or words[0].startswith("#"):
            continue
        if not words[0].isalpha() or words[0] in header:
            raise FormatError(f"found {words[0][:40]!r}, expected a PCD header line", file=file, line=line)
        header[words[0]] = words[1:]
        if words[0] == "DATA":
            break
    missing = [name for name in _REQUIRED if not header.get(name)]
    if missing:
        raise FormatError(f"found no {missing[0]} line in the PCD header", file=file)
    return header, position


def _fields(header: dict[str, list[str]], file: File) -> list[Field]:
    names, sizes, types = header["FIELDS"], header["SIZE"], header["TYPE"]
    counts = header.get("COUNT", ["1"] * len(names))
    if not len(names) == len(sizes) == len(types) == len(counts):
        raise FormatError("FIELDS, SIZE, TYPE and COUNT of the PCD header have different lengths", file=file)
    fields = []
    for name, size, kind, count in zip(names, sizes, types, counts, strict=True):
        code = _KINDS.get(kind, "") + size
        if code not in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"):
            raise FormatError(f"found field {name[:40]!r} of type {kind[:9]} and size {size[:9]}", file=file)
        if not (count.isascii() and count.isdigit() and len(count) < 6):
            raise FormatError(f"found COUNT {count[:40]!r}, expected a small number", file=file)
        fields.append((name, code, int(count)))
    return fields


def _count(header: dict[str, list[str]], file: File) -> int:
    """Return the number of points; WIDTH x HEIGHT must agree where they are given."""
    numbers = {}
    for name in ("POINTS", "WIDTH", "HEIGHT"):
        word = " ".join(header[name]) if name in header else None
        if word is not None and not (word.isascii() and word.isdigit() and len(word) < 13):
            raise FormatError(f"found {name} {word[:40]!r}, expected a count", file=file)
        numbers[name] = int(word) if word is not None else None
    points, width, height = numbers.values()
    if width is not None and height is not None and width * height != points:
        raise FormatError(f"found POINTS {points} with WIDTH {width} and HEIGHT {height}", file=file)
    return points


def _read_ascii(data: bytes, start: int, fields: list[Field], count: int, file: File) -> dict[str, np.ndarray]:
    width, left = sum(number for _, _, number in fields), len(data) - start + 1
    if count * 2 * width > left:
        found = f"{left} bytes for {count} points of {width} numbers"
        raise FormatError(f"found {found}; the file is truncated or its header wrong", file=file)
    table = np.empty((count, width))
    row, line, position = 0, data.count(b"\n", 0, start), start
    while position < len(data):
        end = data.find(b"\n", position)
        end = len(data) if end < 0 else end
        words = data[position:end].split()
        position, line = end + 1, line + 1
        if not words:
            continue
        if row == count or len(words) != width:
            found = "another point" if row == count else f"{len(words)} numbers"
            raise FormatError(f"expected {count} points of {width} numbers, found {found}", file=file, line=line)
        try:
            table[row] = list(map(float, words))
        except ValueError as error:
            raise FormatError(f"expected numbers: {error}"[:120], file=file, line=line) from None
        row += 1
    if row != count:
        raise FormatError(f"expected {count} points, found {row}; the file is truncated", file=file)
    columns, at = {}, 0
    for name, code, number in fields:
        if number == 1:
            columns[name] = _typed(table[:, at], name, code, file)
        at += number
    return columns


def _typed(values: np.ndarray, name: str, code: str, file: File) -> np.ndarray:
    if code[0] == "f":
        with np.errstate(over="ignore"):
            return values.astype(code)
    limits = np.iinfo(code)
    if not ((values >= limits.min) & (values < float(limits.max) + 1) & (values == np.floor(values))).all():
        raise FormatError(f"a value of field {name[:40]!r} does not fit its type", file=file)
    return values.astype(code)


def _read_binary(data: bytes, start: int, fields: list[Field], count: int, file: File) -> dict[str, np.ndarray]:
    # Fields of one name, PCL's padding "_", are told apart by their position.
    dtype = np.dtype([(f"{index} {name}", "<" + code, (number,)) for index, (name, code, number) in enumerate(fields)])
    left = len(data) - start
    if count * dtype.itemsize > left or data[start + count * dtype.itemsize :].strip(b"\0\r\n "):
        found = f"{left} bytes for {count} points of {dtype.itemsize} bytes"
        raise FormatError(f"found {found}; the file is truncated or its header wrong", file=file)
    if not dtype.itemsize:
        raise FormatError("found fields without values", file=file)
    rows = np.frombuffer(data, dtype, count, start)
    return {
        name: rows[f"{index} {name}"][:, 0].astype(code)
        for index, (name, code, number) in enumerate(fields)
        if number == 1
    }


def _read_compressed(data: bytes, start: int, fields: list[Field], count: int, file: File) -> dict[str, np.ndarray]:
    if len(data) - start < 8:
        raise FormatError("found no sizes of the compressed data; the file is truncated", file=file)
    packed, size = (int.from_bytes(data[at : at + 4], "little") for at in (start, start + 4))
    expected = count * sum(np.dtype(code).itemsize * number for _, code, number in fields)
    left = len(data) - start - 8
    if packed > left or data[start + 8 + packed :].strip(b"\0\r\n "):
        raise FormatError(f"found {left} compressed bytes, expected {packed}", file=file)
    if size != expected or size > packed * LZF_RATIO:
        raise FormatError(f"found {packed} bytes compressed from {size}, expected from {expected}", file=file)
    plain = decode_lzf(data[start + 8 : start + 8 + packed], size, file)
    columns, at = {}, 0
    for name, code, number in fields:  # one field after the other, all points of it
        if number == 1:
            columns[name] = np.frombuffer(plain, "<" + code, count, at).astype(code)
        at += np.dtype(code).itemsize * number * count
    return columns


def _to_cloud(columns: dict[str, np.ndarray], file: File) -> Cloud:
    columns = {name: values for name, values in columns.items() if name != "_"}
    missing = [axis for axis in "xyz" if axis not in columns]
    if missing:
        raise FormatError(f"found no field {missing[0]!r}, expected x y z", file=file)
    xyz = np.stack([columns.pop(axis) for axis in "xyz"], axis=1)
    if xyz.dtype.kind != "f":
        xyz = xyz.astype(np.float64)
    normal = rgb = None
    if all(name in columns for name in ("normal_x", "normal_y", "normal_z")):
        axes = [columns.pop(name) for name in ("normal_x", "normal_y", "normal_z")]
        normal = np.stack(axes, axis=1).astype(np.float32)
    packed = next((name for name in ("rgb", "rgba") if name in columns and columns[name].dtype.itemsize == 4), None)
    if packed:
        bits = columns.pop(packed).view(np.uint32)
        rgb = np.stack([bits >> 16 & 255, bits >> 8 & 255, bits & 255], axis=1).astype(np.uint8)
    return Cloud(xyz, rgb, normal, None, columns)
