# SPDX-License-Identifier: Apache-2.0
"""Run one function over many scenes: order, failure, resume and several processes (cli.md sections 6 and 7).

A command gives tasks and a function `process(task, context)` that yields the records of one scene.  They wait in a
spool until the scene is finished and reach the sink in one piece, so a failed scene leaves an `error` and nothing else.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from pc3dcli.errors import Pc3dError, UsageError, WeightsError
from pc3dcli.stream.provenance import Program, heads
from pc3dcli.stream.records import dump_record
from pc3dcli.stream.sinks import SideFiles, Sink
from pc3dcli.stream.spool import SPOOL_BYTES
from pc3dcli.stream.workers import interrupts_held, spool_folder, worker_pool


@dataclass(frozen=True)
class SceneTask:
    """One scene to be done.

    scene    its `scene` record, None for records that stand outside scenes
    payload  whatever `process` needs; picklable
    passed   lines to pass through unchanged
    is_ok    false when an earlier stage failed at this scene: its lines are only copied
    programs program records of the segment it came in
    segment  0-based number of that segment
    """

    scene: dict | None
    payload: object = None
    passed: tuple[str, ...] = ()
    is_ok: bool = True
    programs: tuple[dict, ...] = ()
    segment: int = 0

    @property
    def id(self) -> str | None:
        return None if self.scene is None else self.scene["scene"]


def _silent(*_: object) -> None:  # no lambda: a Context goes to other processes
    pass


@dataclass(frozen=True)
class Context:
    """What `process` may use besides its task.

    side      where bulk files go; None when the stream goes to standard output
    programs  the program chain of the output, ours last, for files that carry it
    report    report(done, total) draws progress
    warn      says what the user should know though the scene goes well
    note      says what is of interest to one who watches
    """

    side: SideFiles | None
    programs: tuple[dict, ...]
    report: Callable[[int, int | None], None] = _silent
    warn: Callable[[str], None] = _silent
    note: Callable[[str], None] = _silent


Process = Callable[[SceneTask, Context], Iterator[dict]]


class Reporter(Protocol):
    """What the user sees on stderr while scenes are done."""

    def scene_progress(self, scene: str, done: int, total: int | None) -> None: ...
    def scene_finished(self, scene: str, status: str, message: str | None) -> None: ...
    def warn(self, message: str) -> None: ...
    def note(self, message: str) -> None: ...


@dataclass
class Summary:
    """How a run went: scene ids by outcome."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    has_loose_errors: bool = False

    @property
    def exit_code(self) -> int:
        return 3 if self.failed or self.has_loose_errors else 0


@dataclass(frozen=True)
class Runner:
    """The settings of a run that every command shares."""

    program: Program
    sink: Sink
    reporter: Reporter
    jobs: int = 1
    is_unordered: bool = False
    is_fail_fast: bool = False
    has_provenance: bool = True
    needed_files: tuple[str, ...] = ()  # suffixes of the files beside the records without which no scene is done

    def run(self, tasks: Iterable[SceneTask], process: Process) -> Summary:
        """Do every task and write its records.

        raises  the error of the first failed scene with fail_fast; whatever reading the tasks raises, after the
                scenes that came before it are written and without an `end` record
        """
        summary = Summary()
        self.sink.prepare()
        try:
            self._run(tasks, process, summary)
        except BaseException:
            self.sink.abort()
            raise
        self.sink.close()
        return summary

    def chain(self, programs: tuple[dict, ...]) -> tuple[dict, ...]:
        """Return the program records of our output for an input made by `programs`, none without provenance."""
        return (*programs, self.program.record(heads(list(programs)))) if self.has_provenance else ()

    def is_done(self, task: SceneTask) -> bool:
        """Tell whether the output holds this scene already; raises UsageError when it was made with other settings."""
        if task.id is None or not task.is_ok or not self.sink.is_done(task.id, self.chain(task.programs)):
            return False
        side = self.sink.side_files(task.id)
        return side is None or all(side.path(suffix).is_file() for suffix in self.needed_files)

    def _run(self, tasks: Iterable[SceneTask], process: Process, summary: Summary) -> None:
        segment = _Segment(self.sink)
        with closing(self._parallel(tasks, process) if self.jobs > 1 else self._serial(tasks, process)) as results:
            for task, spool, report in results:
                segment.open(task.segment, self.chain(task.programs))
                if spool is None:
                    self.sink.keep(task.id)
                    segment.scenes += 1
                    summary.skipped.append(task.id)
                    self.reporter.scene_finished(task.id, "skipped", None)
                    continue
                with spool:
                    self.sink.write(task.id, spool, is_ok=report.is_ok)
                self._account(task, report, segment, summary)
        segment.open(max(segment.number, 0), self.chain(()))  # an empty input still gives a header and an end
        segment.close()

    def _account(self, task: SceneTask, report: _Report, segment: _Segment, summary: Summary) -> None:
        if task.id is None:
            summary.has_loose_errors |= not report.is_ok
            return
        segment.scenes += 1
        segment.failed += not report.is_ok
        (summary.done if report.is_ok else summary.failed).append(task.id)
        for is_warning, message in report.said:
            (self._warn if is_warning else self._note)(task.id, message)
        is_last = self.is_fail_fast and report.error is not None
        message = None if is_last else report.message  # who catches the error says it
        self.reporter.scene_finished(task.id, "done" if report.is_ok else "failed", message)
        if is_last:
            raise report.error

    def _warn(self, scene: str, message: str) -> None:
        self.reporter.warn(f"{scene}: {message}")

    def _note(self, scene: str, message: str) -> None:
        self.reporter.note(f"{scene}: {message}")

    def _context(self, task: SceneTask) -> Context:
        side = None if task.id is None else self.sink.side_files(task.id)
        return Context(side, self.chain(task.programs))

    def _serial(self, tasks: Iterable[SceneTask], process: Process) -> Iterator[_Result]:
        folder = self.sink.spool_folder
        for task in tasks:
            if self.is_done(task):
                yield task, None, None
                continue
            says = {"report": self.reporter.scene_progress, "warn": self._warn, "note": self._note}
            context = replace(self._context(task), **{name: partial(say, task.id) for name, say in says.items()})
            spool = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - closed by the one who writes it out
                SPOOL_BYTES, dir=folder if folder and folder.is_dir() else None
            )
            report = _spool_scene(task, process, context, spool)
            spool.seek(0)
            yield task, spool, report

    def _parallel(self, tasks: Iterable[SceneTask], process: Process) -> Iterator[_Result]:
        with spool_folder(self.sink.spool_folder) as folder, worker_pool(self.jobs) as pool:
            waiting: deque[tuple[SceneTask, Future | None]] = deque()
            failure: Exception | None = None
            source = iter(tasks)
            while True:
                try:
                    task = next(source, None)
                    is_done = task is not None and self.is_done(task)
                except Pc3dError as error:  # the scenes before it are still to be written
                    failure = error
                    break
                if task is None:
                    break
                job = None
                if not is_done:
                    with interrupts_held():
                        job = pool.submit(_work, task, process, self._context(task), folder)
                waiting.append((task, job))
                while len(waiting) >= 2 * self.jobs or self._is_ready(waiting):
                    yield self._next_result(waiting)
            while waiting:
                yield self._next_result(waiting)
            if failure is not None:
                raise failure

    def _is_ready(self, waiting: deque[tuple[SceneTask, Future | None]]) -> bool:
        candidates = list(waiting) if self.is_unordered else list(waiting)[:1]
        return any(job is None or job.done() for _, job in candidates)

    def _next_result(self, waiting: deque[tuple[SceneTask, Future | None]]) -> _Result:
        position = 0
        if self.is_unordered:
            jobs = [job for _, job in waiting if job is not None]
            ready = wait(jobs, return_when=FIRST_COMPLETED).done if jobs else set()
            position = next(i for i, (_, job) in enumerate(waiting) if job is None or job in ready)
        task, job = waiting[position]
        del waiting[position]
        if job is None:
            return task, None, None
        path, report = job.result()
        spool = path.open("rb")
        path.unlink()
        return task, spool, report


@dataclass(frozen=True)
class _Report:
    """How one scene went; what a worker process had to say as (is a warning, text)."""

    is_ok: bool
    message: str | None = None
    error: Pc3dError | None = None
    said: tuple[tuple[bool, str], ...] = ()


_Result = tuple[SceneTask, BinaryIO | None, _Report | None]


class _Segment:
    """Opens and closes the segments of the output as those of the input change."""

    def __init__(self, sink: Sink) -> None:
        self.sink, self.number, self.scenes, self.failed = sink, -1, 0, 0

    def open(self, number: int, programs: tuple[dict, ...]) -> None:
        if number == self.number:
            return
        if self.number >= 0:
            self.close()
        self.sink.begin(list(programs))
        self.number, self.scenes, self.failed = number, 0, 0

    def close(self) -> None:
        self.sink.end(self.scenes, self.failed)


def _spool_scene(task: SceneTask, process: Process, context: Context, spool: BinaryIO) -> _Report:
    """Write all lines of a scene to `spool`; on failure those of an error instead."""
    if task.scene is None or not task.is_ok:
        return _copy_scene(task, context, spool)
    try:
        counts = _write_scene(task, process, context, spool)
    except (UsageError, WeightsError):  # no scene's fault
        raise
    except Pc3dError as error:
        spool.seek(0)
        spool.truncate()
        program = context.programs[-1]["id"] if context.programs else None
        _write(spool, [_scene_record(task.scene, context), _error_record(error, task.id, program)])
        _write(spool, [{"type": "scene_end", "scene": task.id, "ok": False}])
        message = error.with_hint() if error.file is not None else f"{task.id}: {error.with_hint()}"
        return _Report(False, message, error)
    _write(spool, [{"type": "scene_end", "scene": task.id, "ok": True, "counts": dict(sorted(counts.items()))}])
    return _Report(True)


def _write_scene(task: SceneTask, process: Process, context: Context, spool: BinaryIO) -> Counter:
    """Write the scene record, what passes through, and what `process` yields (its own scene record, if any, first)."""
    counts: Counter = Counter()
    scene = task.scene
    is_open = False
    for record in process(task, context):
        if record["type"] == "scene":
            scene = record
            continue
        if not is_open:
            _open_scene(spool, scene, task, context)
            is_open = True
        counts[record["type"]] += 1
        _write(spool, [record])
    if not is_open:
        _open_scene(spool, scene, task, context)
    return counts


def _open_scene(spool: BinaryIO, scene: dict, task: SceneTask, context: Context) -> None:
    _write(spool, [_scene_record(scene, context)])
    _copy_lines(task, spool)


def _copy_scene(task: SceneTask, context: Context, spool: BinaryIO) -> _Report:
    """Pass on a scene that failed in an earlier stage, or records that stand outside scenes."""
    if task.scene is None:
        _copy_lines(task, spool)
        return _Report(task.is_ok)
    _write(spool, [task.scene if context.programs else _scene_record(task.scene, context)])
    _copy_lines(task, spool)
    _write(spool, [{"type": "scene_end", "scene": task.id, "ok": False}])
    return _Report(False, f"{task.id}: failed in an earlier stage")


def _copy_lines(task: SceneTask, spool: BinaryIO) -> None:
    for line in task.passed:
        spool.write(line.encode() + b"\n")


def _write(spool: BinaryIO, records: list[dict]) -> None:
    for record in records:
        spool.write(dump_record(record).encode() + b"\n")


def _scene_record(scene: dict, context: Context) -> dict:
    if context.programs:
        return scene | {"program": context.programs[-1]["id"]}
    return {name: value for name, value in scene.items() if name != "program"}


def _error_record(error: Pc3dError, scene: str, program: str | None) -> dict:
    optional = {
        "program": program,
        "file": None if error.file is None else str(error.file),
        "line": error.line,
        "hint": error.hint,
    }
    code = type(error).__name__.removesuffix("Error").lower()
    record = {"type": "error", "code": code, "message": error.message, "scene": scene}
    return record | {name: value for name, value in optional.items() if value is not None}


def _work(task: SceneTask, process: Process, context: Context, folder: Path) -> tuple[Path, _Report]:
    """Do one scene in a worker process; its lines come back as a file."""
    handle, name = tempfile.mkstemp(dir=folder)
    said: list[tuple[bool, str]] = []
    context = replace(
        context, warn=lambda message: said.append((True, message)), note=lambda message: said.append((False, message))
    )
    with os.fdopen(handle, "wb") as spool:
        report = _spool_scene(task, process, context, spool)
    return Path(name), replace(report, said=tuple(said))
