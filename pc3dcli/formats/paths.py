# SPDX-License-Identifier: Apache-2.0
"""Paths out of files stay inside the folder they are relative to (cli.md section 3, evaluation.md 0.6)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

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
