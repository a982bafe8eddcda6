# SPDX-License-Identifier: Apache-2.0
"""`result.json` of `pc3d eval --report` (evaluation.md 0.2): same inputs, same bytes; null where undefined."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from pc3dcli.errors import FormatError, InputError

SCHEMA = "pc3d.eval/1"


def result_text(result: dict) -> str:
    """Return the text of `result.json`: keys sorted, shortest floats that read back the same.

    raises  ValueError for NaN or infinity; what is undefined is None
    """
    return json.dumps(result, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_result(path: Path) -> dict:
    """Return a `result.json` whose parts have the types that this file names; a folder stands for the one in it.

    raises  InputError when it cannot be read, FormatError with the place when it is not a result
    """
    path = path / "result.json" if path.is_dir() else path
    try:
        text = path.read_bytes().decode("utf-8")
        result = json.loads(text, parse_constant=_refuse_constant)
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", file=path) from None
    except UnicodeDecodeError as error:
        raise FormatError(f"not UTF-8 at byte {error.start}", file=path) from None
    except json.JSONDecodeError as error:
        raise FormatError(f"not JSON: {error.msg}", file=path, line=error.lineno, column=error.colno) from None
    except RecursionError:
        raise FormatError("not a result: brackets without end", file=path) from None
    except ValueError as error:  # NaN, or more digits than Python converts
        raise FormatError(f"not JSON: {error}", file=path) from None
    _check_result(result, path)
    return result


_PARTS = {
    **{name: str for name in ("task", "preset", "tool_version")},
    **{name: dict for name in ("options", "inputs", "metrics", "per_class", "counts")},
    "warnings": list,
}


def _check_result(result: object, path: Path) -> None:
    found = result.get("schema") if isinstance(result, dict) else None
    if found != SCHEMA:
        hint = "result.json is written by `pc3d eval --report DIR`"
        raise FormatError(f"found schema {found!r}, expected {SCHEMA!r}", file=path, hint=hint)
    for name, kind in _PARTS.items():
        if not isinstance(result.get(name), kind):
            problem = f"{name!r} is {type(result.get(name)).__name__}, expected {kind.__name__}"
            raise FormatError(problem, file=path)
    scenes = result["inputs"].get("scenes")
    if not isinstance(scenes, int) or isinstance(scenes, bool):
        raise FormatError(f"'inputs' has scenes {scenes!r}, expected a count", file=path)
    _check_numbers(result["metrics"], "metrics", path)
    for part in ("per_class", "per_scene"):
        rows = result.get(part, {})
        if not isinstance(rows, dict):
            raise FormatError(f"{part!r} is {type(rows).__name__}, expected dict", file=path)
        for name, row in rows.items():
            _check_numbers(row, f"{part} of {name}", path)


def _check_numbers(row: object, where: str, path: Path) -> None:
    if not isinstance(row, dict):
        raise FormatError(f"{where}: found {type(row).__name__}, expected dict", file=path)
    for name, value in row.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not is_number:
            raise FormatError(f"{where}: {name} is {value!r}, expected a number or null", file=path)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def digest(entries: Iterable[tuple[str, str]]) -> str:
    """Return "sha256:..." over the sorted list of (relative path, SHA-256 of the bytes in hexadecimal)."""
    lines = "".join(f"{path}\0{sha256}\n" for path, sha256 in sorted(entries))
    return "sha256:" + hashlib.sha256(lines.encode(errors="surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal, for `digest`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
