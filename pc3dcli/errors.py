# SPDX-License-Identifier: Apache-2.0
"""The four errors a user can cause.  `main.py` alone turns them into exit codes and messages (cli.md section 6)."""

from __future__ import annotations

from os import PathLike


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
        self.message, self.file, self.line, self.column, self.hint = message, file, line, column, hint
        super().__init__(message)

    def __str__(self) -> str:
        place = [str(part) for part in (self.file, self.line, self.column) if part is not None]
        return f"{':'.join(place)}: {self.message}" if place else self.message

    def with_hint(self) -> str:
        """Return the whole message: place, what is wrong, and the remedy on a line of its own."""
        return f"{self}\n  hint: {self.hint}" if self.hint else str(self)

    def __reduce__(self):  # keyword-only arguments do not survive the default pickling between processes
        return _rebuild, (type(self), self.message, self.file, self.line, self.column, self.hint)


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
