# SPDX-License-Identifier: Apache-2.0
"""The part of a stream command that is the same in all: open the output, run the scenes, say how it went."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from pc3dcli.commands.progress import ProgressReporter
from pc3dcli.errors import UsageError
from pc3dcli.stream.pipeline import Process, Runner, SceneTask, Summary
from pc3dcli.stream.provenance import Program
from pc3dcli.stream.sinks import FileSink, FolderSink, Sink, StreamSink, is_scene_done


@dataclass(frozen=True)
class Execution:
    """One run of a stream command; every shared option is read from the context of the command."""

    ctx: typer.Context
    program: Program

    def run(
        self,
        tasks: Iterable[SceneTask],
        process: Process,
        *,
        needed_files: tuple[str, ...] = (),
        describe: Callable[[SceneTask], str] | None = None,
    ) -> None:
        """Do all scenes and leave with the exit code; with --dry-run list what would be done.

        needed_files  suffixes of the files without which a scene is not finished
        describe      what --dry-run says of a scene
        """
        params = self.ctx.params
        if not params["scenes"] and sys.stdin is not None and sys.stdin.isatty():
            next(iter(tasks))  # says so, before anything is said about the output
        sink = open_sink(params["out"], is_json=params["json"] or params["dry_run"], force=params["force"])
        runner = Runner(
            program=self.program,
            sink=sink,
            reporter=self._reporter(),
            jobs=params.get("jobs", 1),
            is_unordered=params.get("unordered", False),
            is_fail_fast=params["fail_fast"],
            has_provenance=not params["no_provenance"],
            needed_files=needed_files,
        )
        if params["dry_run"]:
            self._list(tasks, runner, describe)
            raise typer.Exit(0)
        summary = self._run(tasks, runner, process)
        runner.reporter.summary(summary, self._hint(summary))
        raise typer.Exit(summary.exit_code)

    def _run(self, tasks: Iterable[SceneTask], runner: Runner, process: Process) -> Summary:
        skipped: list[str] = []
        try:
            with runner.reporter:
                summary = runner.run(self._not_done_elsewhere(tasks, runner, skipped), process)
        except KeyboardInterrupt:
            if isinstance(runner.sink, FolderSink):
                runner.reporter.warn("interrupted; finished scenes are kept, the same command goes on with the rest")
            elif isinstance(runner.sink, FileSink):
                runner.reporter.warn("interrupted; the unfinished file is removed, a folder keeps finished scenes")
            raise
        summary.skipped[:0] = skipped
        return summary

    def _reporter(self) -> ProgressReporter:
        params = self.ctx.params
        return ProgressReporter(
            self.ctx.info_name, quiet=params["quiet"], verbose=params["verbose"], progress=params["progress"]
        )

    def _limited(self, tasks: Iterable[SceneTask]) -> Iterator[SceneTask]:
        limit, number = self.ctx.params["limit"], 0
        for task in tasks:
            number += task.id is not None
            if limit is not None and number > limit:
                return
            yield task

    def _not_done_elsewhere(
        self, tasks: Iterable[SceneTask], runner: Runner, skipped: list[str]
    ) -> Iterator[SceneTask]:
        """Yield what --skip-done leaves; the rest goes to `skipped`."""
        for task in self._limited(tasks):
            if self._is_done_elsewhere(task, runner):
                skipped.append(task.id)
                runner.reporter.scene_finished(task.id, "skipped", None)
            else:
                yield task

    def _is_done_elsewhere(self, task: SceneTask, runner: Runner) -> bool:
        folder: Path | None = self.ctx.params["skip_done"]
        return bool(folder and task.id) and is_scene_done(folder, task.id, runner.chain(task.programs))

    def _list(self, tasks: Iterable[SceneTask], runner: Runner, describe: Callable[[SceneTask], str] | None) -> None:
        out = self.ctx.params["out"]
        for task in self._limited(tasks):
            if task.id is not None:
                where = out if not isinstance(runner.sink, FolderSink) else f"{Path(out) / task.id}.ndjson"
                is_done = self._is_done_elsewhere(task, runner) or runner.is_done(task)
                parts = [task.id, where, "skip" if is_done else "do", *([describe(task)] if describe else [])]
                print("\t".join(parts))

    def _hint(self, summary: Summary) -> str | None:
        """Say how skipped scenes could be redone, and how their work could be saved."""
        params = self.ctx.params
        is_piped = not params["scenes"] or "-" in params["scenes"]
        is_all = not summary.done and not summary.failed
        if not summary.skipped or not (is_all or is_piped):
            return None
        if params["skip_done"] is not None:
            return f"skipped scenes are finished in {params['skip_done']}, without --skip-done they are redone"
        saved = f"; track2d --skip-done {params['out']} saves the work for them" if is_piped else ""
        return f"skipped scenes are finished in {params['out']}, --force redoes them{saved}"


def open_sink(out: str, *, is_json: bool, force: bool) -> Sink:
    """Return the sink that --out names.

    raises  UsageError when records would go to a terminal without --json
    """
    if out == "-":
        if sys.stdout.isatty() and not is_json:
            raise UsageError("records do not go to a terminal: pipe it, or use --out FILE; --json prints it here")
        return StreamSink(sys.stdout.buffer)
    path = Path(out)
    return FileSink(path, force=force) if path.suffix == ".ndjson" else FolderSink(path, force=force)
