# SPDX-License-Identifier: Apache-2.0
"""`result.json` of `pc3d eval --report` (evaluation.md 0.2): same inputs, same bytes; null where undefined."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

SCHEMA = "pc3d.eval/1"


def result_text(result: dict) -> str:
    """Return the text of `result.json`: keys sorted, shortest floats that read back the same.

    raises  ValueError for NaN or infinity; what is undefined is None
    """
    return json.dumps(result, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def digest(entries: Iterable[tuple[str, str]]) -> str:
    """Return "sha256:..." over the sorted list of (relative path, SHA-256 of the bytes in hexadecimal)."""
    lines = "".join(f"{path}\0{sha256}\n" for path, sha256 in sorted(entries))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal, for `digest`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
