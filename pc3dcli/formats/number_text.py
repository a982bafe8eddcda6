# SPDX-License-Identifier: Apache-2.0
"""Text tables of decimal numbers, the same count on each line: points as ModelNet40 and ShapeNetPart have them.

Plain decimals (-0.0848) are read as integers without their points and divided by a power of ten, all at once, which is
exact to 15 digits and several times faster than a number at a time; whatever else Python calls a number is read slowly.
"""

from __future__ import annotations

from os import PathLike

import numpy as np

from pc3dcli.errors import FormatError
from pc3dcli.formats.integer_text import parse_integers

_ONE_A_LINE = bytes.maketrans(b", \t", b"\n\n\n")
_NEWLINE, _DOT, _MINUS = ord("\n"), ord("."), ord("-")
_EXACT = 15  # digits that float64 holds
_MAX_WIDTH = 1000  # characters of a line
_BLOCK = 1 << 14  # bytes parsed at once: one number like 1e-5 makes all of them slow
_SHOWN = 40  # characters of a message


def parse_numbers(data: bytes, columns: int, file: str | PathLike[str], num_before: int = 0) -> np.ndarray:
    """Parse lines of `columns` numbers, between commas, spaces or tabs, to (N, columns) float64.

    data    CRLF, spaces around the numbers, a missing final newline and empty lines at the end are accepted
    file    its name, for messages, and `num_before` how many lines stand before `data` in it
    raises  FormatError naming the first line that holds something else; NaN and infinity are numbers here
    """
    data = data.replace(b"\r\n", b"\n").rstrip()
    if not data:
        return np.zeros((0, columns))
    data += b"\n"
    values = _same_layout(data, columns)
    if values is not None:
        return values
    blocks, start = [], 0
    while start < len(data):
        stop = data.rfind(b"\n", start, start + _BLOCK) + 1 or data.index(b"\n", start) + 1
        block = _plain_decimals(data[start:stop], columns)
        if block is None:
            block = _line_by_line(data[start:stop], columns, file, num_before + data.count(b"\n", 0, start))
        blocks.append(block)
        start = stop
    return np.concatenate(blocks)


def _same_layout(data: bytes, columns: int) -> np.ndarray | None:
    """Parse lines that have their digits in the same places but for minus signs, as printed with fixed decimals."""
    unsigned = data.translate(None, b"-")
    width = unsigned.index(b"\n") + 1
    if len(unsigned) % width or width > _MAX_WIDTH:
        return None
    rows = np.frombuffer(unsigned, np.uint8).reshape(-1, width)
    weights, decimals = _place_values(unsigned[:width], columns)
    if weights is None:
        return None
    digits = rows - np.uint8(ord("0"))
    is_other = ~weights.any(axis=1)
    if ((rows != rows[0]) & ((digits > 9) | is_other)).any():
        return None
    values = digits.astype(np.float64) @ weights / 10.0**decimals  # integers below 2 ** 53: exact
    characters = np.frombuffer(data, np.uint8)
    minus = np.flatnonzero(characters == _MINUS)
    ends = np.flatnonzero(characters < _MINUS)  # of the characters that are left only comma, space, tab, newline
    if (characters[minus - 1] >= _MINUS).any():  # before the first character stands the last one, a line end
        return None
    values.reshape(-1)[np.searchsorted(ends, minus)] *= -1
    return values


def _place_values(line: bytes, columns: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the weight (width, columns) of each digit of a line in its number without the point, and its decimals."""
    fields = line.translate(_ONE_A_LINE)[:-1].split(b"\n")
    weights, decimals, start = np.zeros((len(line), columns)), np.zeros(columns), 0
    if len(fields) != columns:
        return None, decimals
    for column, field in enumerate(fields):
        digits = field.replace(b".", b"", 1)
        if not digits.isdigit() or len(digits) > _EXACT:
            return None, decimals
        dot = field.find(b".")
        places = [start + place for place in range(len(field)) if place != dot]
        weights[places, column] = 10.0 ** np.arange(len(digits))[::-1]
        decimals[column] = len(field) - dot - 1 if dot >= 0 else 0
        start += len(field) + 1
    return weights, decimals


def _plain_decimals(data: bytes, columns: int) -> np.ndarray | None:
    """Parse lines of plain decimals with one separator between two; None when they are not all of this kind."""
    fields = data.translate(_ONE_A_LINE)
    characters = np.frombuffer(fields, np.uint8)
    ends = np.flatnonzero(characters == _NEWLINE)
    if ends.size % columns:
        return None
    is_line_end = np.frombuffer(data, np.uint8)[ends].reshape(-1, columns) == _NEWLINE
    if not is_line_end[:, -1].all() or is_line_end[:, :-1].any():
        return None
    dots = np.flatnonzero(characters == _DOT)
    field = np.arange(ends.size)
    if dots.size != ends.size or (dots > ends).any() or (dots[1:] < ends[:-1]).any():  # not one in every number
        field = np.searchsorted(ends, dots)
        if (np.diff(field) == 0).any():
            return None
    try:
        values = parse_integers(fields.replace(b".", b""), "").astype(np.float64)
    except FormatError:  # not digits only
        return None
    if values.size != ends.size:
        return None
    decimals = ends[field] - dots - 1
    values[field] /= 10.0**decimals
    return values.reshape(-1, columns)


def _line_by_line(data: bytes, columns: int, file: str | PathLike[str], num_before: int) -> np.ndarray:
    lines = data.split(b"\n")[:-1]
    rows = []
    for number, line in enumerate(lines, num_before + 1):
        fields = line.replace(b",", b" ").split()
        if len(fields) != columns:
            raise FormatError(f"found {len(fields)} numbers, expected {columns}", file=file, line=number)
        try:
            rows.append([_number(field) for field in fields])
        except ValueError:
            shown = line[:_SHOWN].decode("utf-8", "replace")
            raise FormatError(f"found {shown!r}, expected {columns} numbers", file=file, line=number) from None
    return np.array(rows)


def _number(field: bytes) -> float:
    if b"_" in field:  # a number in Python's source only
        raise ValueError
    return float(field)
