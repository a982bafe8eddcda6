# SPDX-License-Identifier: Apache-2.0
"""Paths out of files stay inside the folder they are relative to, and lead to files (cli.md 3, evaluation.md 0.6)."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pc3dcli.errors import FormatError, InputError


def resolve_inside(root: Path, relative: str) -> Path:
    """Return the regular file `relative` below `root`.

    root      folder that may not be left, neither by "..", nor by an absolute path, nor through a symbolic link
    relative  path as written in a record or a text file, "/" between its parts
    raises    FormatError for a path that leaves `root`, InputError when there is no such regular file
    """
    if not isinstance(relative, str):
        raise FormatError(f"path is {type(relative).__name__}, expected text")
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or ".." in parts or "\0" in relative:
        raise FormatError(f"path {relative!r} is absolute, empty or contains '..'; expected one below {root}")
    base = root.resolve()
    path = base.joinpath(*parts)
    try:
        real = path.resolve()
        is_file = real.is_file()
    except (OSError, RuntimeError, UnicodeEncodeError) as error:  # RuntimeError: a loop of symbolic links
        raise InputError(f"cannot read it: {error}", file=path) from None
    if real != base and base not in real.parents:  # whole components, never a string prefix
        raise FormatError(f"path {relative!r} leaves {root} through a symbolic link")
    if not is_file:
        raise InputError("no such file", file=path)
    return path


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; a pipe or a device, which may never end, is refused.

    raises  InputError when it cannot be opened
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError("cannot read it: not a regular file", file=path)
        return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise InputError(f"cannot read it: {getattr(error, 'strerror', error)}", file=path) from None


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file; raises InputError when it cannot be read."""
    with open_file(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise InputError(f"cannot read it: {error.strerror}", file=path) from None
