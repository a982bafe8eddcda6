# SPDX-License-Identifier: Apache-2.0
"""The four errors a user can cause, and the checks of settings whose ValueError becomes one of them.

`main.py` alone turns errors into exit codes and messages (cli.md section 6).
"""

from __future__ import annotations

import typing
from os import PathLike
from typing import Any, Literal

MAX_TEXT = 600  # characters of a message that may hold pieces of a broken input; ours


class Pc3dError(Exception):
    """A problem with an input or a request, told as: place, what was found and expected, what to do.

    message  what was found and what was expected, one line
    file     the file or stream at fault, None when there is none
    line     1-based line in that file, column its 1-based column
    hint     a remedy that can be pasted
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        file: str | PathLike[str] | None = None,
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
    ) -> None:
        self.message, self.file, self.line, self.column, self.hint = _shortened(message), file, line, column, hint
        super().__init__(self.message)

    def __str__(self) -> str:
        place = [_printable(str(part)) for part in (self.file, self.line, self.column) if part is not None]
        return f"{':'.join(place)}: {self.message}" if place else self.message

    def with_hint(self) -> str:
        """Return the whole message: place, what is wrong, and the remedy on a line of its own."""
        return f"{self}\n  hint: {self.hint}" if self.hint else str(self)

    def __reduce__(self):  # keyword-only arguments do not survive the default pickling between processes
        return _rebuild, (type(self), self.message, self.file, self.line, self.column, self.hint)


def check_ranges(config: object, **ranges: tuple[float, float]) -> None:
    """Check fields of a config against the least and the greatest value that they may have.

    raises  ValueError that names the first field outside; NaN always is, None never
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} = {value}: expected a number from {low:g} to {high:g}")


def check_choices(config: Any) -> None:
    """Check the fields of a dataclass that are typed `Literal`; raises ValueError that names the first other value."""
    for name, kind in typing.get_type_hints(type(config)).items():
        choices = typing.get_args(kind)
        if typing.get_origin(kind) is Literal and getattr(config, name) not in choices:
            raise ValueError(f"{name} = {getattr(config, name)}: expected {' or '.join(map(str, choices))}")


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT // 2]} ... {text[-MAX_TEXT // 2 :]}"


def _printable(name: str) -> str:
    """Return a file name without what would break a line or command a terminal."""
    return _shortened("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name))


def _rebuild(kind, message, file, line, column, hint) -> Pc3dError:
    return kind(message, file=file, line=line, column=column, hint=hint)


class UsageError(Pc3dError):
    """The command line is wrong, or an output exists that was made with other settings."""

    exit_code = 2


class InputError(Pc3dError):
    """An input is missing, or two inputs do not belong together."""

    exit_code = 4


class FormatError(Pc3dError):
    """A file or stream is malformed or truncated."""

    exit_code = 4


class WeightsError(Pc3dError):
    """A checkpoint does not fit the model that is to use it."""

    exit_code = 4
