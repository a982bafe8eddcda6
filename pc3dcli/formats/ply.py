# SPDX-License-Identifier: Apache-2.0
"""Own PLY reader and writer: binary of both byte orders and ascii, any number type, lists, strict about sizes.

Every count is compared with the bytes that are left before anything is allocated, so a truncated or lying file is an
error and not a cloud of zeros.  Elements other than vertex and face are stepped over; vertex properties that are not
coordinates, colour or normal are kept in `Cloud.extra`, those of a face in `Cloud.of_face`, lists of a vertex are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pc3dcli.errors import FormatError
from pc3dcli.formats.cloud import MAX_CLOUD_BYTES, Cloud
from pc3dcli.formats.images import read_bytes

MAX_HEADER = 1 << 20  # bytes; ours, a header with 100 properties and comments takes about 5 k
TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
NAMES = {kind: name for name, kind in TYPES.items() if not name[-1].isdigit()}
COLORS = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
FACE_LISTS = ("vertex_indices", "vertex_index")
_BLOCK = 1 << 16  # rows parsed at once, bounds what an ascii file takes beside its result

File = str | PathLike[str]


@dataclass(frozen=True)
class Property:
    name: str
    kind: str  # numpy code without byte order, "f4"
    count_kind: str | None = None  # of the length in front of a list, None for a single number


@dataclass(frozen=True)
class Element:
    name: str
    count: int
    properties: tuple[Property, ...]

    @property
    def smallest(self) -> int:
        """Bytes that one row takes at least in a binary file (lists may be empty)."""
        return sum(np.dtype(prop.count_kind or prop.kind).itemsize for prop in self.properties)


Columns = dict[str, np.ndarray | list]  # a list property: (rows, k) where all have length k, else a list of arrays


def read_ply(path: File) -> Cloud:
    """Read a PLY file.

    returns  Cloud; coordinates keep float32 or float64, integer coordinates become float64
    raises   FormatError naming what was found and expected, InputError when the file cannot be read
    """
    data = read_bytes(path, MAX_CLOUD_BYTES)
    order, elements, start = _parse_header(data, path)
    reader = _AsciiReader(data, start, path) if order == "ascii" else _BinaryReader(data, start, path, order)
    tables: dict[str, Columns] = {}
    for element in elements:
        columns = reader.read(element)
        if element.name in ("vertex", "face"):
            tables[element.name] = columns
    reader.finish()
    return _to_cloud(tables, path)


def write_ply(path_or_file: File | BinaryIO, cloud: Cloud, comments: Sequence[str] = ()) -> None:
    """Write a cloud as binary little-endian PLY.

    comments  text lines of the header, at most 100,000 characters each, ascii
    raises    ValueError for a comment with a line break or an extra of another length or type
    """
    vertex = _vertex_table(cloud)
    lines = ["ply", "format binary_little_endian 1.0"]
    for comment in comments:
        if "\n" in comment or "\r" in comment or not comment.isascii():
            raise ValueError(f"a PLY comment is one line of ascii text, got {comment[:60]!r}")
        lines.append(f"comment {comment}")
    lines.append(f"element vertex {len(vertex)}")
    lines += [f"property {NAMES[vertex.dtype[name].str[1:]]} {name}" for name in vertex.dtype.names]
    parts = [vertex.tobytes()]
    if cloud.faces is not None:
        lines += [f"element face {len(cloud.faces)}", "property list uchar int vertex_indices"]
        face = np.empty(len(cloud.faces), [("count", "u1"), ("index", "<i4", (3,))])
        face["count"], face["index"] = 3, cloud.faces
        parts.append(face.tobytes())
    data = ("\n".join([*lines, "end_header"]) + "\n").encode("ascii")
    if hasattr(path_or_file, "write"):
        path_or_file.write(data + b"".join(parts))
    else:
        Path(path_or_file).write_bytes(data + b"".join(parts))


def _vertex_table(cloud: Cloud) -> np.ndarray:
    columns = {name: cloud.xyz[:, axis] for axis, name in enumerate("xyz")}
    if cloud.normal is not None:
        columns |= {name: cloud.normal[:, axis] for axis, name in enumerate(("nx", "ny", "nz"))}
    if cloud.rgb is not None:
        columns |= {name: cloud.rgb[:, axis] for axis, name in enumerate(COLORS[0])}
    columns |= cloud.extra
    for name, values in columns.items():
        if values.shape != (len(cloud.xyz),) or values.dtype.str[1:] not in NAMES or not name.isidentifier():
            raise ValueError(f"cannot write point property {name!r} {values.dtype} {values.shape} as PLY")
    table = np.empty(len(cloud.xyz), [(name, "<" + values.dtype.str[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    return table


def _parse_header(data: bytes, file: File) -> tuple[str, list[Element], int]:
    """Return ("ascii", "<" or ">", the elements, the offset of the data)."""
    if not data.startswith((b"ply\n", b"ply\r")):
        raise FormatError(f"found a file that starts with {data[:8]!r}, expected a PLY", file=file)
    end = data.find(b"end_header", 0, MAX_HEADER)
    stop = data.find(b"\n", end) if end >= 0 else -1
    if stop < 0:
        raise FormatError("found no end_header line; the file is truncated or no PLY", file=file)
    order, elements = None, []
    for number, line in enumerate(data[:stop].decode("ascii", "replace").splitlines(), 1):
        words = line.split()
        if number == 1 or not words or words[0] in ("comment", "obj_info", "end_header"):
            continue
        if words[0] == "format" and len(words) == 3 and words[2] == "1.0":
            order = {"ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"}.get(words[1])
        elif words[0] == "element" and len(words) == 3 and _is_count(words[2]):
            elements.append(Element(words[1], int(words[2]), ()))
        elif words[0] == "property" and elements:
            elements[-1] = _with_property(elements[-1], words, file, number)
        else:
            raise FormatError(f"found {line[:60]!r}, expected a PLY header line", file=file, line=number)
    if order is None:
        raise FormatError("found no 'format ascii|binary_little_endian|binary_big_endian 1.0' line", file=file)
    if len({element.name for element in elements}) != len(elements):
        raise FormatError("two elements of the header have one name", file=file)
    return order, elements, stop + 1


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 16


def _with_property(element: Element, words: list[str], file: File, line: int) -> Element:
    if len(words) == 3 and words[1] in TYPES:
        new = Property(words[2], TYPES[words[1]])
    elif len(words) == 5 and words[1] == "list" and TYPES.get(words[2], "f4")[0] in "iu" and words[3] in TYPES:
        new = Property(words[4], TYPES[words[3]], TYPES[words[2]])
    else:
        raise FormatError(f"found {' '.join(words)[:60]!r}, expected a property and its type", file=file, line=line)
    if any(prop.name == new.name for prop in element.properties) or len(element.properties) >= 1000:
        raise FormatError(f"property {new.name!r} appears twice or is one too many", file=file, line=line)
    return Element(element.name, element.count, (*element.properties, new))


class _BinaryReader:
    """Reads one element after the other; a position and the byte order are all its state."""

    def __init__(self, data: bytes, start: int, file: File, order: str):
        self.data, self.position, self.file, self.order = data, start, file, order

    def read(self, element: Element) -> Columns:
        left = len(self.data) - self.position
        if element.count * element.smallest > left or (element.count and not element.properties):
            found = f"{left} bytes for {element.count} {element.name} rows of at least {element.smallest} bytes"
            raise FormatError(f"found {found}; the file is truncated or its header wrong", file=self.file)
        lists = [prop for prop in element.properties if prop.count_kind]
        if not lists or not element.count:
            return self._read_table(element, {})
        lengths = self._lengths_of_row(element, self.position)
        return self._read_table(element, lengths) or self._read_ragged(element)

    def finish(self) -> None:
        """Raise FormatError when anything but a line end follows the last element."""
        rest = self.data[self.position :]
        if rest.strip(b"\r\n\t \0"):
            raise FormatError(f"found {len(rest)} bytes after the last element, expected none", file=self.file)

    def _read_table(self, element: Element, lengths: dict[str, int]) -> Columns | None:
        """Read rows whose lists all have the lengths of the first; None when they do not."""
        fields: list[tuple] = []
        for prop in element.properties:
            if prop.count_kind:
                fields.append((f"count {prop.name}", self.order + prop.count_kind))
                fields.append((prop.name, self.order + prop.kind, (lengths.get(prop.name, 0),)))
            else:
                fields.append((prop.name, self.order + prop.kind))
        dtype = np.dtype(fields)
        if element.count * dtype.itemsize > len(self.data) - self.position:
            return None
        rows = np.frombuffer(self.data, dtype, element.count, self.position)
        if any((rows[f"count {name}"] != length).any() for name, length in lengths.items()):
            return None
        self.position += rows.nbytes
        return {prop.name: _native(rows[prop.name]) for prop in element.properties}

    def _read_ragged(self, element: Element) -> Columns:
        columns: Columns = {prop.name: [] for prop in element.properties}
        for _ in range(element.count):
            for prop in element.properties:
                count = int(self._take(prop.count_kind, 1)[0]) if prop.count_kind else 1
                values = self._take(prop.kind, count)
                columns[prop.name].append(values if prop.count_kind else values[0])
        for prop in element.properties:
            if not prop.count_kind:
                columns[prop.name] = np.array(columns[prop.name], prop.kind)
        return columns

    def _lengths_of_row(self, element: Element, start: int) -> dict[str, int]:
        self.position, lengths = start, {}
        for prop in element.properties:
            count = int(self._take(prop.count_kind, 1)[0]) if prop.count_kind else 1
            self._take(prop.kind, count)
            if prop.count_kind:
                lengths[prop.name] = count
        self.position = start
        return lengths

    def _take(self, kind: str, count: int) -> np.ndarray:
        size = np.dtype(kind).itemsize * count
        if count < 0 or size > len(self.data) - self.position:
            left = len(self.data) - self.position
            raise FormatError(f"found a list of {count} numbers with {left} bytes left; it is damaged", file=self.file)
        values = np.frombuffer(self.data, self.order + kind, count, self.position)
        self.position += size
        return values


class _AsciiReader:
    """Reads one element after the other, one row a line."""

    def __init__(self, data: bytes, start: int, file: File):
        self.data, self.position, self.file = data, start, file
        self.line = data.count(b"\n", 0, start)

    def read(self, element: Element) -> Columns:
        left = len(self.data) - self.position + 1
        if element.count * 2 * len(element.properties) > left or (element.count and not element.properties):
            found = f"{left} bytes for {element.count} {element.name} rows of {len(element.properties)} numbers"
            raise FormatError(f"found {found}; the file is truncated or its header wrong", file=self.file)
        if any(prop.count_kind for prop in element.properties):
            return self._read_lists(element)
        width = len(element.properties)
        table = np.empty((element.count, width))
        for start in range(0, element.count, _BLOCK):
            rows = list(self._rows(element, min(_BLOCK, element.count - start)))
            for offset, (line, words) in enumerate(rows):
                table[start + offset] = self._numbers(words, width, line)
        return {prop.name: self._typed(table[:, index], prop) for index, prop in enumerate(element.properties)}

    def finish(self) -> None:
        """Raise FormatError when anything but blank lines follows the last element."""
        rest = self.data[self.position :]
        if rest.strip():
            raise FormatError("found more lines than the header says", file=self.file, line=self.line + 1)

    def _rows(self, element: Element, count: int) -> Iterator[tuple[int, list[bytes]]]:
        while count:
            if self.position >= len(self.data):
                message = f"the file ends {count} {element.name} rows too early; it is truncated"
                raise FormatError(message, file=self.file, line=self.line)
            end = self.data.find(b"\n", self.position)
            end = len(self.data) if end < 0 else end
            words = self.data[self.position : end].split()
            self.position, self.line = end + 1, self.line + 1
            if words:
                count -= 1
                yield self.line, words

    def _read_lists(self, element: Element) -> Columns:
        columns: Columns = {prop.name: [] for prop in element.properties}
        for line, words in self._rows(element, element.count):
            values, position = self._numbers(words, None, line), 0
            for prop in element.properties:
                take = 1
                if prop.count_kind:
                    take = values[position] if position < len(values) else -1
                    position += 1
                if not 0 <= take <= len(values) - position or take != int(take):  # NaN fails the first
                    raise FormatError(f"found {len(values)} numbers, expected more", file=self.file, line=line)
                part = values[position : position + int(take)]
                columns[prop.name].append(self._typed(np.array(part), prop, line) if prop.count_kind else part[0])
                position += int(take)
            if position != len(values):
                raise FormatError(f"expected {position} numbers, found {len(values)}", file=self.file, line=line)
        for prop in element.properties:
            if not prop.count_kind:
                columns[prop.name] = self._typed(np.array(columns[prop.name], np.float64), prop)
        return columns

    def _numbers(self, words: list[bytes], width: int | None, line: int) -> list[float]:
        if width is not None and len(words) != width:
            raise FormatError(f"expected {width} numbers, found {len(words)}", file=self.file, line=line)
        try:
            return list(map(float, words))
        except ValueError as error:
            raise FormatError(f"expected numbers: {error}"[:120], file=self.file, line=line) from None

    def _typed(self, values: np.ndarray, prop: Property, line: int | None = None) -> np.ndarray:
        if prop.kind[0] == "f":
            with np.errstate(over="ignore"):
                return values.astype(prop.kind)
        limits = np.iinfo(prop.kind)
        if len(values) and not ((values >= limits.min) & (values <= limits.max) & (values == np.floor(values))).all():
            raise FormatError(f"a value of {prop.name!r} does not fit its type", file=self.file, line=line)
        return values.astype(prop.kind)


def _native(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="))  # also copies, so that the file's bytes can go


def _to_cloud(tables: dict[str, Columns], file: File) -> Cloud:
    columns = {name: values for name, values in tables.get("vertex", {}).items() if isinstance(values, np.ndarray)}
    columns = {name: values for name, values in columns.items() if values.ndim == 1}
    missing = [axis for axis in "xyz" if axis not in columns]
    if missing:
        raise FormatError(f"found no vertex property {missing[0]!r}, expected x y z", file=file)
    xyz = np.stack([columns.pop(axis) for axis in "xyz"], axis=1)
    if xyz.dtype.kind != "f":
        xyz = xyz.astype(np.float64)
    normal = rgb = None
    if all(name in columns for name in ("nx", "ny", "nz")):
        normal = np.stack([columns.pop(name) for name in ("nx", "ny", "nz")], axis=1).astype(np.float32)
    for names in COLORS:
        if rgb is None and all(name in columns for name in names):
            rgb = _to_uint8(np.stack([columns.pop(name) for name in names], axis=1), file)
    faces, of_face = _faces(tables.get("face", {}), len(xyz), file)
    return Cloud(xyz, rgb, normal, faces, columns, of_face)


def _faces(table: Columns, num_points: int, file: File) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """Return the triangles (F, 3) of a table of faces, and the numbers (F,) that each face has."""
    lists = next((table[name] for name in FACE_LISTS if name in table), None)
    if lists is None:
        return None, {}
    faces = _triangles(lists, num_points, file)
    numbers = {name: values for name, values in table.items() if isinstance(values, np.ndarray) and values.ndim == 1}
    if numbers and len(faces) != len(lists):
        times = lists.shape[1] - 2 if isinstance(lists, np.ndarray) else np.array([len(face) - 2 for face in lists])
        numbers = {name: np.repeat(values, times) for name, values in numbers.items()}
    return faces, numbers


def _to_uint8(colors: np.ndarray, file: File) -> np.ndarray:
    if colors.dtype == np.uint8:
        return colors
    scale = 255.0 if colors.dtype.kind == "f" else 1.0  # floating colours are in [0, 1]
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.round(colors.astype(np.float64) * scale)
    if not ((scaled >= 0) & (scaled <= 255)).all():
        raise FormatError("found a colour outside 0..255 (integers) or 0..1 (floats)", file=file)
    return scaled.astype(np.uint8)


def _triangles(lists: np.ndarray | list, num_points: int, file: File) -> np.ndarray:
    """Return (F, 3) int32; a polygon a b c d becomes the fan (a b c), (a c d), polygons in file order."""
    if not len(lists):
        return np.zeros((0, 3), np.int32)
    corners = np.full(len(lists), lists.shape[1]) if isinstance(lists, np.ndarray) else np.array([*map(len, lists)])
    if corners.min() < 3:
        raise FormatError(f"found a face with {corners.min()} corners, expected at least 3", file=file)
    first = np.concatenate([[0], np.cumsum(corners - 2)])  # row of each polygon's first triangle
    faces = np.empty((first[-1], 3), lists.dtype if isinstance(lists, np.ndarray) else lists[0].dtype)
    for number in np.unique(corners):
        which = np.flatnonzero(corners == number)
        rows = lists if len(which) == len(lists) else [lists[index] for index in which]
        rows = np.asarray(rows)
        for second in range(1, number - 1):
            faces[first[which] + second - 1] = rows[:, [0, second, second + 1]]
    if faces.dtype.kind not in "iu":
        raise FormatError("found face corners that are not integers", file=file)
    if len(faces) and not 0 <= int(faces.min()) <= int(faces.max()) < num_points:
        found = f"{int(faces.min())} to {int(faces.max())}"
        raise FormatError(f"found face corners {found}, expected 0 to {num_points - 1}", file=file)
    return faces.astype(np.int32)
