# SPDX-License-Identifier: Apache-2.0
"""What the user sees on stderr while scenes are done (cli.md section 2).

Bars only where stderr is a terminal and stdout is no pipe, so that in a pipeline the last stage alone draws; otherwise
a plain line every 30 s and one at the end.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from types import TracebackType

from pc3dcli.stream.pipeline import Summary

PLAIN_INTERVAL_S = 30.0


class ProgressReporter:
    """Reporter of the scene runner; a context manager around it."""

    def __init__(self, command: str, *, quiet: bool, verbose: bool, progress: bool | None) -> None:
        self.command, self.quiet, self.verbose = command, quiet, verbose
        draws = sys.stderr.isatty() and not _stdout_is_pipe() if progress is None else progress
        self._bars = None
        if draws and not quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar = None
        self._is_silent = quiet or progress is False
        self._start = self._last = time.monotonic()

    def __enter__(self) -> ProgressReporter:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bars:
            self._bars.stop()

    def scene_progress(self, scene: str, done: int, total: int | None) -> None:
        if self._bars:
            if self._bar is None:
                self._bar = self._bars.add_task(scene, total=total)
            self._bars.update(self._bar, description=scene, completed=done, total=total)
        elif not self._is_silent and time.monotonic() - self._last > PLAIN_INTERVAL_S:
            self._last = time.monotonic()
            self._line(f"{scene}: {done}" + (f" of {total}" if total else ""))

    def scene_finished(self, scene: str, status: str, message: str | None) -> None:
        if self._bars and self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None
        if status == "failed":
            self._line(message or "failed")
        elif self.verbose:
            self._line(f"{scene}: {status}")

    def warn(self, message: str) -> None:
        if not self.quiet:
            self._line(message)

    def summary(self, summary: Summary) -> None:
        """Say in one line how the run went; list the scenes that failed."""
        parts = [f"{len(summary.done)} done"]
        parts += [f"{len(summary.skipped)} skipped"] if summary.skipped else []
        parts += [f"{len(summary.failed)} failed: {', '.join(summary.failed[:10])}"] if summary.failed else []
        if summary.failed or (not self.quiet and (self._bars or self.verbose or summary.skipped or self._is_long())):
            self._line(", ".join(parts) + f" ({time.monotonic() - self._start:.0f} s)")

    def _is_long(self) -> bool:
        return not self._is_silent and time.monotonic() - self._start > PLAIN_INTERVAL_S

    def _line(self, text: str) -> None:
        if self._bars:
            self._bars.console.print(f"pc3d {self.command}: {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"pc3d {self.command}: {text}", file=sys.stderr, flush=True)


def _stdout_is_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(1).st_mode)
    except OSError:
        return False
