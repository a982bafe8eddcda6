# SPDX-License-Identifier: Apache-2.0
"""KITTI object labels (15 columns) and results (the same and a score), one text file a frame (evaluation.md 4.1).

Columns: type truncated occluded alpha x1 y1 x2 y2 h w l x y z rotation_y [score]; pixels, metres, radians; camera frame
(x right, y down, z forward), x y z the middle of the bottom face.  Plain files are read at once; a file with a fault
is read again line by line to say where.
"""

from __future__ import annotations

import re
from itertools import chain
from os import PathLike
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.paths import read_file

COLUMNS = (
    "type", "truncated", "occluded", "alpha", "x1", "y1", "x2", "y2",
    "h", "w", "l", "x", "y", "z", "rotation_y", "score",
)  # fmt: skip
TYPES = (
    "car", "van", "truck", "pedestrian", "person_sitting", "cyclist", "tram", "misc", "dontcare",
)  # fmt: skip
_OCCLUDED = 2  # column
_FRAME = re.compile(r"[0-9]{6}")
_LABEL_FOLDERS = ("", "label_2", "training/label_2")
_RESULT_FOLDERS = ("data", "")  # the official program reads <results>/data


def read_labels(path: Path) -> tuple[list[str], np.ndarray]:
    """Read a label file.

    returns  types in lower case, in file order, and (N, 14) float64, the columns after `type`
    raises   FormatError naming the line of a wrong number of columns, a number that is none or not finite, or an
             occlusion that is no integer
    """
    return parse_rows(read_file(path), path, len(COLUMNS) - 1)


def read_results(path: Path) -> tuple[list[str], np.ndarray]:
    """Read a result file, which may be empty; (N, 15) float64, the score last; otherwise as `read_labels`."""
    return parse_rows(read_file(path), path, len(COLUMNS))


def parse_rows(data: bytes, file: str | PathLike[str], num_columns: int) -> tuple[list[str], np.ndarray]:
    """Parse the bytes of a file of `num_columns` columns, of which 15 are a label and 16 a result."""
    text = data.rstrip()
    rows = [line.split() for line in text.split(b"\n")] if text else []
    is_label = num_columns < len(COLUMNS)
    try:
        values = np.array(list(map(float, chain.from_iterable(row[1:] for row in rows))))
        values = values.reshape(len(rows), num_columns - 1)
        types = [row[0].decode("ascii").lower() for row in rows]
    except (ValueError, IndexError):
        raise _fault(rows, file, num_columns) from None
    is_plain = (
        {len(row) for row in rows} <= {num_columns}
        and np.isfinite(values).all()
        and data.count(b"_") == sum(name.count("_") for name in types)  # Python reads 1_0 as 10
        and not (is_label and (values[:, _OCCLUDED - 1] % 1).any())
    )
    if not is_plain:
        raise _fault(rows, file, num_columns)
    return types, values


def find_labels(folder: Path) -> dict[str, Path]:
    """Return frame id -> label file of a folder, or of `label_2` or `training/label_2` inside, sorted.

    raises  InputError when there is none
    """
    return _frame_files(folder, _LABEL_FOLDERS, "KITTI labels")


def find_results(folder: Path) -> dict[str, Path]:
    """Return frame id -> result file of a folder, or of `data` inside, sorted.

    raises  InputError when there is none
    """
    return _frame_files(folder, _RESULT_FOLDERS, "KITTI results")


def read_split(path: Path) -> list[str]:
    """Read a list of frame ids, one a line, e.g. ImageSets/val.txt; sorted.

    raises  FormatError naming the line of an id that has not six digits or comes twice; InputError for an empty list
    """
    frames: dict[str, int] = {}
    for number, line in enumerate(read_file(path).rstrip().split(b"\n"), 1):
        name = line.strip().decode("ascii", "replace")
        if not _FRAME.fullmatch(name):
            raise FormatError(f"found {name!r}, expected a frame id of six digits", file=path, line=number)
        if name in frames:
            raise FormatError(f"frame {name} again, first in line {frames[name]}", file=path, line=number)
        frames[name] = number
    return sorted(frames)


def _frame_files(folder: Path, places: tuple[str, ...], what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"no such folder, expected one of {what}", file=folder)
    for place in places:
        inside = folder / place
        files = {}
        if inside.is_dir():
            files = {path.stem: path for path in inside.glob("*.txt") if _FRAME.fullmatch(path.stem)}
        if files:
            return dict(sorted(files.items()))
    tried = ", ".join(f"{place}/NNNNNN.txt" if place else "NNNNNN.txt" for place in places)
    raise InputError(f"no {what}; tried {tried}", file=folder)


def _fault(rows: list[list[bytes]], file: str | PathLike[str], num_columns: int) -> FormatError:
    """Return the error of the first line that is wrong."""
    for number, row in enumerate(rows, 1):
        message = _line_fault(row, num_columns)
        if message is not None:
            return FormatError(message, file=file, line=number)
    return FormatError("not a KITTI file", file=file)


def _line_fault(row: list[bytes], num_columns: int) -> str | None:
    is_label = num_columns < len(COLUMNS)
    if len(row) != num_columns:
        kind = "a label" if is_label else "a result"
        return f"found {len(row)} columns, expected the {num_columns} of {kind}"
    if not row[0].isascii():
        return "the type has letters that are not ASCII"
    for column, field in enumerate(row[1:], 1):
        text = field.decode("ascii", "replace")
        try:
            value = float(text) if field.isascii() and "_" not in text else None
        except ValueError:
            value = None
        if value is None or not np.isfinite(value):
            return f"found {text!r} for {COLUMNS[column]}, expected a finite number"
        if is_label and column == _OCCLUDED and value % 1:
            return f"found {text!r} for occluded, expected an integer"
    return None
