# SPDX-License-Identifier: Apache-2.0
"""Write files that appear under their final name only when complete (cli.md section 7)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

SPOOL_PREFIX, SPOOL_PATTERN = ".pc3d-", ".pc3d-*.tmp"  # folders of unfinished scenes, <prefix><random>.<pid>.tmp
_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing under a temporary name in its folder; it takes its final name on success.

    Whatever goes wrong inside, the temporary file is removed and an earlier file of that name stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # a full disk has no name, and the temporary one is not what the user knows
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # gone, or what went wrong forbids this too
            temporary.unlink()


def remove_stale_temporaries(folder: Path, pattern: str = "**/.*.tmp") -> None:
    """Remove what killed processes left in `folder` under names that fit `pattern`; files of living ones stay.

    To be called before this process has temporaries of its own: a container gives the same number to each run.
    """
    for path in sorted(folder.glob(pattern)):
        match = _TEMPORARY.fullmatch(path.name)
        if not match or (int(match[1]) != os.getpid() and _is_alive(int(match[1]))):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
