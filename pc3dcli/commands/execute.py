# SPDX-License-Identifier: Apache-2.0
"""The part of a stream command that is the same in all: open the output, run the scenes, say how it went."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from pc3dcli.commands.progress import ProgressReporter
from pc3dcli.errors import UsageError
from pc3dcli.stream.pipeline import Process, Runner, SceneTask
from pc3dcli.stream.provenance import Program
from pc3dcli.stream.sinks import FileSink, FolderSink, Sink, StreamSink, is_scene_done


@dataclass(frozen=True)
class Execution:
    """One run of a stream command; every shared option is read from the context of the command."""

    ctx: typer.Context
    program: Program

    def run(self, tasks: Iterable[SceneTask], process: Process) -> None:
        """Do all scenes and leave with the exit code; with --dry-run list what would be done."""
        params = self.ctx.params
        if not params["scenes"] and sys.stdin is not None and sys.stdin.isatty():
            next(iter(tasks))  # says so, before anything is said about the output
        sink = open_sink(params["out"], is_json=params["json"] or params["dry_run"], force=params["force"])
        runner = Runner(
            program=self.program,
            sink=sink,
            reporter=self._reporter(),
            jobs=params["jobs"],
            is_unordered=params["unordered"],
            is_fail_fast=params["fail_fast"],
            has_provenance=not params["no_provenance"],
        )
        tasks = self._selected(tasks, runner)
        if params["dry_run"]:
            self._list(tasks, runner)
            raise typer.Exit(0)
        with runner.reporter:
            summary = runner.run(tasks, process)
        runner.reporter.summary(summary)
        raise typer.Exit(summary.exit_code)

    def _reporter(self) -> ProgressReporter:
        params = self.ctx.params
        return ProgressReporter(
            self.ctx.info_name, quiet=params["quiet"], verbose=params["verbose"], progress=params["progress"]
        )

    def _selected(self, tasks: Iterable[SceneTask], runner: Runner) -> Iterator[SceneTask]:
        """Apply --limit and --skip-done."""
        params = self.ctx.params
        done_folder: Path | None = params.get("skip_done")
        number = 0
        for task in tasks:
            if task.id is not None:
                number += 1
                if params["limit"] is not None and number > params["limit"]:
                    return
                if done_folder and is_scene_done(done_folder, task.id, runner.chain(task.programs)):
                    runner.reporter.scene_finished(task.id, "skipped", None)
                    continue
            yield task

    def _list(self, tasks: Iterable[SceneTask], runner: Runner) -> None:
        out = self.ctx.params["out"]
        for task in tasks:
            if task.id is not None:
                where = out if not isinstance(runner.sink, FolderSink) else f"{Path(out) / task.id}.ndjson"
                print(f"{task.id}\t{where}\t{'skip' if runner.is_done(task) else 'do'}")


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
