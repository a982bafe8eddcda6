# SPDX-License-Identifier: Apache-2.0
"""Read large JSON files value by value: only a window of the text is in memory.

The nuScenes tables and submissions are single JSON values of up to a gigabyte; as Python objects they take ten times
that.  Records are read in batches and turned into arrays, with file and line in every complaint.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.paths import open_file

CHUNK = 1 << 18  # bytes read at a time; ours, larger ones were slower
MAX_VALUE = 1 << 26  # characters of one record or list of boxes; ours
_SPACE = re.compile(r"[ \t\r\n]*")
_SEPARATOR = re.compile(r"[ \t\r\n]*([,\]])[ \t\r\n]*")
_TAIL = 16  # an error that near the end of the window may be a value cut in two
_DECODER = json.JSONDecoder()
_SHOWN = 60  # characters of a wrong value in a message


class JsonWindow:
    """A JSON text that is read from its start to its end; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text, self._position = "", 0
        self._lines, self._counted = 1, 0  # lines up to a position of the window
        self._is_done = False
        self._file = open_file(path)

    def __enter__(self) -> JsonWindow:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def line(self) -> int:
        """The 1-based line of what is read next."""
        self._lines += self._text.count("\n", self._counted, self._position)
        self._counted = self._position
        return self._lines

    def fault(self, message: str) -> FormatError:
        """Return the error of what is read next."""
        return FormatError(message, file=self.path, line=self.line)

    def next_character(self) -> str:
        """Return the next character that is no space without reading it; "" at the end of the text."""
        while True:
            self._position = _SPACE.match(self._text, self._position).end()
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._fill():
                return ""

    def expect(self, characters: str) -> str:
        """Read one of `characters` and return it; raises FormatError for another."""
        found = self.next_character()
        if not found or found not in characters:
            shown = repr(found) if found else "the end of the file"
            raise self.fault(f"not JSON: found {shown}, expected {' or '.join(map(repr, characters))}")
        self._position += 1
        return found

    def value(self) -> Any:
        """Read one value; raises FormatError when there is none or it is malformed."""
        self.next_character()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _TAIL
                if not (is_cut and self._fill()):
                    self._position = min(error.pos, len(self._text))
                    raise self.fault(f"not JSON: {error.msg}") from None
            except (RecursionError, ValueError) as error:
                raise self.fault(f"not JSON that can be read: {error}") from None
            else:
                if end < len(self._text) or not self._fill():  # a number at the end of the window may go on
                    self._position = end
                    return value
            if len(self._text) - self._position > MAX_VALUE:
                raise self.fault(f"a value of more than {MAX_VALUE >> 20} MiB of text")

    def members(self) -> Iterator[str]:
        """Yield the keys of an object; the caller reads the value of each before the next."""
        self.expect("{")
        seen: set[str] = set()
        if self.next_character() == "}":
            self.expect("}")
            return
        while True:
            key = self.value() if self.next_character() == '"' else self.expect('"')
            if key in seen:
                raise self.fault(f"duplicate key {key!r}")
            seen.add(key)
            self.expect(":")
            yield key
            if self.expect(",}") == "}":
                return

    def finish(self) -> None:
        """Check that nothing follows."""
        if self.next_character():
            raise self.fault("not JSON: text after the end of the value")

    def batches(self) -> Iterator[Batch]:
        """Yield the objects of an array, as many at a time as the window holds."""
        self.expect("[")
        if self.next_character() == "]":
            self.expect("]")
            return
        is_done = False
        while not is_done:
            records, places, is_done = self._records()
            if not records:  # the next one is cut by the end of the window, or the last of the text, or malformed
                line = self.line
                records, is_done = [self.value()], self.expect(",]") == "]"
                self.next_character()
                batch = Batch(self.path, [line].__getitem__)
            else:
                batch = Batch(self.path, _LinesOfPlaces(self._text, places, self.line).__getitem__)
                self._position = places[-1]
            batch.records = records
            batch.check_objects()
            yield batch

    def _records(self) -> tuple[list, list[int], bool]:
        """Return the values that stand whole in the window, the places around them, and whether they are the last."""
        text, place, decode, separator = self._text, self._position, _DECODER.raw_decode, _SEPARATOR.match
        records, places, after = [], [place], None
        try:
            while place < len(text):
                value, end = decode(text, place)
                after = separator(text, end)
                if after is None:
                    break
                records.append(value)
                place = after.end()
                places.append(place)
                if after[1] == "]":
                    return records, places, True
        except (ValueError, RecursionError):
            pass  # `value` finds out whether it is cut or malformed
        return records, places, False

    def _fill(self) -> bool:
        """Read more text; False at the end of the file."""
        if self._is_done:
            return False
        line = self.line
        try:
            data = self._file.read(max(CHUNK, len(self._text) - self._position))
            more = self._decode(data, final=not data)
        except UnicodeDecodeError:
            raise FormatError("not UTF-8 text, expected JSON", file=self.path, line=line) from None
        except OSError as error:
            raise InputError(f"cannot read it: {error.strerror}", file=self.path) from None
        self._is_done = not data
        if data:  # else places in the window stay what they are
            self._text = self._text[self._position :] + more
            self._position, self._counted = 0, 0
        return bool(data)


class _LinesOfPlaces:
    """Line numbers of places in a text, counted when they are asked for."""

    def __init__(self, text: str, places: list[int], first_line: int) -> None:
        self.text, self.places, self.first_line = text, places, first_line

    def __getitem__(self, index: int) -> int:
        return self.first_line + self.text.count("\n", self.places[0], self.places[index])


class Batch:
    """Some JSON objects that should have the same fields.

    line_of  line_of(index) is the line of a record
    """

    def __init__(
        self,
        path: Path,
        line_of: Callable[[int], int],
        what: str = "record",
        records: list | None = None,
    ) -> None:
        self.path, self.line_of, self.what = path, line_of, what
        self.records: list[Any] = records or []

    def __len__(self) -> int:
        return len(self.records)

    def fault(self, index: int, message: str) -> FormatError:
        """Return the error of one of the records."""
        return FormatError(message, file=self.path, line=self.line_of(index))

    def take(self, index: Sequence[int] | np.ndarray) -> Batch:
        """Return some of the records."""
        index = [int(i) for i in index]
        return Batch(self.path, lambda i: self.line_of(index[i]), self.what, [self.records[i] for i in index])

    def check_objects(self) -> None:
        """Check that every record is an object."""
        for index in _wrong_types(self.records, {dict}):
            raise self.fault(index, f"found {_shown(self.records[index])}, expected a {self.what}")

    def values(self, key: str, kinds: set[type], expected: str) -> list:
        """Return the values of a field; raises FormatError when one lacks or is of another type."""
        try:
            values = [record[key] for record in self.records]
        except KeyError:
            index = next(i for i, record in enumerate(self.records) if key not in record)
            raise self.fault(index, f"{self.what} lacks {key!r}") from None
        for index in _wrong_types(values, kinds):
            raise self.fault(index, f"{key} is {_shown(values[index])}, expected {expected}")
        return values

    def strings(self, key: str) -> list[str]:
        """Return a field of texts."""
        return self.values(key, {str}, "a text")

    def integers(self, key: str) -> np.ndarray:
        """Return (N,) int64 of a field of integers."""
        values = self.values(key, {int}, "an integer")
        try:
            return np.array(values, np.int64)
        except OverflowError:
            index = next(i for i, value in enumerate(values) if not -(1 << 63) <= value < 1 << 63)
            raise self.fault(index, f"{key} is {_shown(values[index])}, expected an integer of 64 bits") from None

    def codes(self, key: str, known: dict[str, int], what: str) -> np.ndarray:
        """Return (N,) int64, what `known` says of a field of texts; raises FormatError for an unknown one."""
        values = self.strings(key)
        try:
            return np.array([known[value] for value in values], np.int64)
        except KeyError:
            index = next(i for i, value in enumerate(values) if value not in known)
            raise self.fault(index, f"{key} {_shown(values[index])} is no {what}") from None

    def scalars(self, key: str) -> np.ndarray:
        """Return (N,) float64 of a field of finite numbers."""
        values = self.values(key, {int, float}, "a number")
        return self._finite(self._floats(key, values, 1), key)[:, 0]

    def vectors(self, key: str, width: int, *, allow_nan: bool = False) -> np.ndarray:
        """Return (N, width) float64 of a field of lists of finite numbers, or of NaN with `allow_nan`."""
        lists = self.values(key, {list}, f"a list of {width} numbers")
        if set(map(len, lists)) - {width}:
            index = next(i for i, value in enumerate(lists) if len(value) != width)
            raise self.fault(index, f"{key} has {len(lists[index])} numbers, expected {width}")
        flat = list(chain.from_iterable(lists))
        for index in _wrong_types(flat, {int, float}):
            raise self.fault(index // width, f"{key} holds {_shown(flat[index])}, expected a number")
        return self._finite(self._floats(key, flat, width), key, allow_nan=allow_nan)

    def _floats(self, key: str, flat: list, width: int) -> np.ndarray:
        try:
            return np.array(flat, np.float64).reshape(-1, width)
        except OverflowError:  # an integer of hundreds of digits
            raise self.fault(0, f"{key} is out of range in one of {len(self)} {self.what}s from here") from None

    def _finite(self, values: np.ndarray, key: str, *, allow_nan: bool = False) -> np.ndarray:
        is_fine = np.isfinite(values) | (allow_nan & np.isnan(values))
        if not is_fine.all():
            index, column = np.argwhere(~is_fine)[0]
            wrong = values[index, column]
            raise self.fault(
                int(index), f"{key} holds {wrong}, expected {'no infinity' if allow_nan else 'a finite number'}"
            )
        return values


def _wrong_types(values: list, kinds: set[type]) -> Iterator[int]:
    """Yield the indices of values of other types; bool is no number."""
    if set(map(type, values)) - kinds:
        yield from (index for index, value in enumerate(values) if type(value) not in kinds)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
