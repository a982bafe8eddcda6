# SPDX-License-Identifier: Apache-2.0
"""What the user sees on stderr while scenes are done (cli.md section 2).

Bars only where stderr is a terminal and stdout is no pipe, so that in a pipeline the last stage alone draws; otherwise
a plain line every 30 s, on a terminal one for each scene, and one at the end.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pc3dcli.stream.pipeline import Summary

PLAIN_INTERVAL_S = 30.0
MAX_NAMED = 10  # failed scenes that the summary names


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
        self._shows_notes = not quiet and (verbose or (sys.stderr.isatty() and not self._is_silent))
        # a later stage may have drawn its bar where our line is to stand; it draws it again below
        self._line_start = "\r\x1b[K" if sys.stderr.isatty() and _stdout_is_pipe() else ""
        self._finished = 0
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
            self._draw(scene, done, total)
        else:
            self._say_now_and_then(f"{scene}: {done}" + (f" of {total}" if total else ""))

    def scene_finished(self, scene: str, status: str, message: str | None) -> None:
        self._finished += 1
        if self._bars:
            self._draw(f"{self._finished} finished", 0, None)
        if status == "failed":
            self._line(message or f"{scene}: failed")
        elif self.verbose:
            self._line(f"{scene}: {status}")
        elif not self._bars:
            self._say_now_and_then(f"{self._finished} finished")

    def warn(self, message: str) -> None:
        if not self.quiet:
            self._line(message)

    def note(self, message: str) -> None:
        """Say what is of interest to one who watches: on a terminal, or with --verbose."""
        if self._shows_notes:
            self._line(message)

    def summary(self, summary: Summary, hint: str | None = None) -> None:
        """Say in one line how the run went, with the scenes that failed; the hint stands below."""
        count = len(summary.done) + len(summary.skipped) + len(summary.failed)
        parts = [f"{count} scene{'' if count == 1 else 's'}"]
        parts += [f"{len(summary.skipped)} skipped"] if summary.skipped else []
        more = ", ..." if len(summary.failed) > MAX_NAMED else ""
        names = ", ".join(summary.failed[:MAX_NAMED]) + more
        parts += [f"{len(summary.failed)} failed ({names})"] if summary.failed else []
        if summary.failed or not self.quiet:
            self._line(", ".join([*parts, f"{time.monotonic() - self._start:.0f} s"]))
        if hint and not self.quiet:
            print(f"  hint: {hint}", file=sys.stderr, flush=True)

    def _draw(self, text: str, done: int, total: int | None) -> None:
        if self._bar is None:
            self._bar = self._bars.add_task(text, total=total)
        self._bars.update(self._bar, description=text, completed=done, total=total)

    def _say_now_and_then(self, text: str) -> None:
        if not self._is_silent and time.monotonic() - self._last > PLAIN_INTERVAL_S:
            self._last = time.monotonic()
            self._line(text)

    def _line(self, text: str) -> None:
        if self._bars:
            self._bars.console.print(f"pc3d {self.command}: {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"{self._line_start}pc3d {self.command}: {text}", file=sys.stderr, flush=True)


def _stdout_is_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(1).st_mode)
    except OSError:
        return False
