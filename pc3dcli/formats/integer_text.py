# SPDX-License-Identifier: Apache-2.0
"""Text files of one integer per line (evaluation.md 0.5): fast where they are plain, exact about what is wrong.

Three readers of falling speed stand behind one function: one digit per line (masks as everybody writes them), any
plain integers, and a line-by-line reader that also takes `4.0` and names the line that is not an integer.
"""

from __future__ import annotations

import re
from os import PathLike

import numpy as np

from pc3dcli.errors import FormatError

_INTEGER = re.compile(rb"[+-]?[0-9]+(\.0*)?")
_MAX_DIGITS = 18  # 10 ** 18 still fits int64
_GLANCE = 1 << 11  # lines
_BLOCK = 1 << 17  # bytes parsed at once: what is made of them stays in the cache
_LINE_END = ord("\n")


def parse_integers(data: bytes, file: str | PathLike[str]) -> np.ndarray:
    """Parse one integer per line to (N,) int64.

    data    bytes of the file; CRLF, a missing final newline and empty trailing lines are accepted
    file    its name, for messages
    raises  FormatError naming the first line that is not an integer
    """
    return parse_labels(data, file).astype(np.int64, copy=False)


def parse_labels(data: bytes, file: str | PathLike[str]) -> np.ndarray:
    """Parse one integer per line as `parse_integers` does, to (N,) of the integer type that needs the least memory."""
    digits = _single_digits(data)
    if digits is not None:
        return digits
    data = _plain_lines(data)
    values = _vectorised(data)
    return _line_by_line(data, file) if values is None else values


def parse_flags(data: bytes, file: str | PathLike[str]) -> np.ndarray:
    """Parse one integer per line to (N,) bool, true where it is not zero; otherwise as `parse_integers`."""
    digits = _single_digits(data)  # 0.1 ms for 200 k lines, the general reader 10 ms
    return digits != 0 if digits is not None else parse_integers(data, file) != 0


def parse_table(data: bytes, file: str | PathLike[str], fill: int) -> np.ndarray:
    """Parse lines of integers that commas separate to (N, K) int64; short lines are filled up on the right.

    fill    what stands for the numbers that a line lacks
    raises  FormatError naming the first line that holds anything else
    """
    data = _plain_lines(data)
    if b"," not in data:
        return parse_integers(data, file)[:, None]
    columns = data[: data.index(b"\n")].count(b",") + 1
    ends = np.frombuffer(data.translate(None, b"0123456789+-."), np.uint8)
    is_even = ends.size % columns == 0 and np.all(ends.reshape(-1, columns) == [ord(",")] * (columns - 1) + [_LINE_END])
    values = _vectorised(data.replace(b",", b"\n")) if is_even else None
    if values is not None:
        return values.reshape(-1, columns)
    rows = [_line_of_integers(line, file, number) for number, line in enumerate(data.split(b"\n")[:-1], 1)]
    table = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for row, numbers in zip(table, rows, strict=True):
        row[: len(numbers)] = numbers
    return table


def parse_integer(text: str) -> int | None:
    """Parse one field: digits, an optional sign, an optional `.0`; None when it is anything else."""
    try:
        field = text.encode("ascii")
    except UnicodeEncodeError:
        return None
    if not _INTEGER.fullmatch(field):
        return None
    digits = field.split(b".")[0]
    return int(digits) if len(digits.lstrip(b"+-").lstrip(b"0")) <= _MAX_DIGITS else None


def _single_digits(data: bytes) -> np.ndarray | None:
    """Return (N,) uint16 digits when every line is one digit and a newline, else None."""
    if len(data) % 2:
        data += b"\n"  # the final newline may be missing
    if not data:
        return None
    pairs = np.frombuffer(data, "<u2")
    for part in (pairs[:_GLANCE], pairs):  # most files of other numbers are found out by their first lines
        digits = part - np.uint16(0x0A30)  # "0\n" read as one little-endian number
        if digits.max() > 9:
            return None
    return digits


def _plain_lines(data: bytes) -> bytes:
    """Return the same lines with LF ends and without the empty ones at the end; every line ends in LF."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if data.endswith(b"\n") and data[-2:-1] not in (b"", b"\n"):
        return data  # without a copy
    data = data.rstrip(b"\n")
    return data + b"\n" if data else b""


def _vectorised(data: bytes) -> np.ndarray | None:
    """Parse lines of an optional sign and digits, or return None when one is anything else or too long."""
    characters = np.frombuffer(data, np.uint8)
    blocks, start = [np.zeros(0, np.uint8)], 0
    while start < len(data):
        stop = data.rfind(b"\n", start, start + _BLOCK) + 1
        block = _block_values(characters[start:stop]) if stop > start else None
        if block is None:
            return None
        blocks.append(block)
        start = stop
    return np.concatenate(blocks)


def _block_values(characters: np.ndarray) -> np.ndarray | None:
    """Parse (B,) uint8 characters of whole lines, four digits at a time; 8 ns a line of two."""
    digits = characters - np.uint8(ord("0"))
    is_digit = digits < 10
    ends = np.flatnonzero(~is_digit)
    signs = None
    if np.count_nonzero(characters == _LINE_END) != ends.size:
        signs = _signs(characters[ends], ends)
        if signs is None:
            return None
        ends = ends[characters[ends] == _LINE_END]
    length = ends.copy()
    length[1:] -= ends[:-1] + 1
    if signs is not None:
        length[signs[0]] -= 1
    shortest, longest = length.min(), length.max()
    if shortest < 1 or longest > _MAX_DIGITS:
        return None
    ends -= 1  # now the last digits
    groups = _digit_groups(digits, is_digit, longest)
    values = groups.take(ends)
    if longest > 4:
        values = values.astype(np.int32 if longest <= 9 else np.int64)
    for power in range(4, longest, 4):
        higher = groups.take(ends - power, mode="clip") * (length > power)  # a shorter number has its predecessor there
        values += higher * values.dtype.type(10**power)
    if signs is not None:
        values = values.astype(np.int64)
        values[signs[0]] *= signs[1]
    return values


def _digit_groups(digits: np.ndarray, is_digit: np.ndarray, longest: int) -> np.ndarray:
    """Return (B,) uint8 or uint16: at each digit the number that it ends, of at most four digits.

    digits    (B,) uint8, anything where `is_digit` is false
    longest   digits of a number; up to two are enough for 2
    """
    digits = digits * is_digit
    pairs = digits.copy()
    pairs[1:] += digits[:-1] * np.uint8(10)
    if longest <= 2:
        return pairs
    fours = pairs.astype(np.uint16)
    fours[2:] += pairs[:-2] * (is_digit[1:-1] & is_digit[:-2]) * np.uint16(100)
    return fours


def _signs(others: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the lines that begin with a sign and the signs, 1 or -1; None when another character is no digit.

    others  (M,) characters that are no digits, place (M,) where they stand
    """
    is_end = others == _LINE_END
    index = np.flatnonzero(~is_end)
    sign = ord(",") - others[index].astype(np.int64)  # "+" and "-" stand on both sides of ","
    starts_line = (place[index] == 0) | (is_end[index - 1] & (place[index - 1] == place[index] - 1))
    if np.any(np.abs(sign) != 1) or not starts_line.all():
        return None
    return np.cumsum(is_end)[index], sign


def _line_by_line(data: bytes, file: str | PathLike[str]) -> np.ndarray:
    lines = data.split(b"\n")[:-1]
    values = np.empty(len(lines), np.int64)
    for number, line in enumerate(lines, 1):
        values[number - 1] = _field_value(line, file, number)
    return values


def _line_of_integers(line: bytes, file: str | PathLike[str], number: int) -> list[int]:
    return [_field_value(field, file, number) for field in line.split(b",")]


def _field_value(field: bytes, file: str | PathLike[str], number: int) -> int:
    value = parse_integer(field.decode("latin-1"))
    if value is None:
        shown = field[:40].decode("utf-8", "replace")
        raise FormatError(f"found {shown!r}, expected one integer", file=file, line=number)
    return value
