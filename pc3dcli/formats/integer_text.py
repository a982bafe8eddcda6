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


def parse_integers(data: bytes, file: str | PathLike[str]) -> np.ndarray:
    """Parse one integer per line to (N,) int64.

    data    bytes of the file; CRLF, a missing final newline and empty trailing lines are accepted
    file    its name, for messages
    raises  FormatError naming the first line that is not an integer
    """
    digits = _single_digits(data)
    if digits is not None:
        return digits.astype(np.int64)
    data = _plain_lines(data)
    values = _vectorised(data)
    return _line_by_line(data, file) if values is None else values


def parse_flags(data: bytes, file: str | PathLike[str]) -> np.ndarray:
    """Parse one integer per line to (N,) bool, true where it is not zero; otherwise as `parse_integers`."""
    digits = _single_digits(data)  # 0.1 ms for 200 k lines, the general reader 10 ms
    return digits != 0 if digits is not None else parse_integers(data, file) != 0


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
    digits = np.frombuffer(data, "<u2") - np.uint16(0x0A30)  # "0\n" read as one little-endian number
    return digits if digits.max() <= 9 else None


def _plain_lines(data: bytes) -> bytes:
    """Return the same lines with LF ends and without the empty ones at the end; every line ends in LF."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    data = data.rstrip(b"\n")
    return data + b"\n" if data else b""


def _vectorised(data: bytes) -> np.ndarray | None:
    """Parse lines of an optional sign and digits, or return None when one is anything else or too long."""
    if not data:
        return np.zeros(0, np.int64)
    others = data.translate(None, b"0123456789\n")
    if data[0] == ord("\n") or b"\n\n" in data or (others and not _are_signs(data, others)):
        return None
    # the text is known to be well formed by now: this C parser stops silently where it is not, and saturates
    values = np.fromstring(data, np.int64, sep="\n")
    limit = 10**_MAX_DIGITS
    return values if -limit < values.min() and values.max() < limit else None


def _are_signs(data: bytes, others: bytes) -> bool:
    """Tell whether all `others` are signs that start a line and stand before a digit."""
    if others.strip(b"+-"):
        return False
    characters = np.frombuffer(data, np.uint8)
    place = np.flatnonzero((characters == ord("-")) | (characters == ord("+")))
    starts_line = (place == 0) | (characters[place - 1] == ord("\n"))
    return bool(starts_line.all() and (characters[place + 1] >= ord("0")).all())


def _line_by_line(data: bytes, file: str | PathLike[str]) -> np.ndarray:
    lines = data.split(b"\n")[:-1]
    values = np.empty(len(lines), np.int64)
    for number, line in enumerate(lines, 1):
        value = parse_integer(line.decode("latin-1"))
        if value is None:
            shown = line[:40].decode("utf-8", "replace")
            raise FormatError(f"found {shown!r}, expected one integer", file=file, line=number)
        values[number - 1] = value
    return values
