# SPDX-License-Identifier: Apache-2.0
"""What the user sees of a training run: progress with the time left on stderr, with --json `step` records on stdout."""

from __future__ import annotations

import sys
import time

from pc3dcli.commands.progress import ProgressReporter
from pc3dcli.stream.records import dump_record, header

PART = "loss_"  # how the names of the parts of a loss begin
SMOOTHING = 0.98  # share of the old estimate of a step's seconds that a new step leaves; ours


class TrainingReporter(ProgressReporter):
    """Reporter of the training loop; a context manager around it.  Only the first process is told anything."""

    def __init__(
        self, command: str, program: dict, *, json: bool, quiet: bool, verbose: bool, progress: bool | None
    ) -> None:
        super().__init__(command, quiet=quiet, verbose=verbose, progress=progress)
        self._program, self._json = program, json
        self._steps = self._first = self._step = 0
        self._step_s: float | None = None
        self._before = time.monotonic()

    def started(self, step: int, steps: int, records: bytes) -> None:
        self._first, self._step, self._steps = step, step, steps
        self._before = time.monotonic()
        if step:
            self.warn(f"goes on after step {step} of {steps}")
        self._print(header(), self._program)
        if self._json:
            sys.stdout.write(records.decode())

    def logged(self, record: dict) -> None:
        self._print(record)
        if record["type"] != "step":
            return
        self._step = record["step"]
        left = duration(self._seconds_of_step() * (self._steps - self._step))
        parts = [f"{name.removeprefix(PART)} {value:.3g}" for name, value in record.items() if name.startswith(PART)]
        of_parts = f" ({', '.join(parts)})" if len(parts) > 1 else ""
        text = f"epoch {record['epoch']}, loss {record['loss']:.5g}{of_parts}, {left} left"
        if self._bars:
            self._draw(text, self._step, self._steps)
        else:
            self._say_now_and_then(f"step {self._step} of {self._steps}, {text}")

    def finished(self, steps: int, new_steps: int, out: object) -> None:
        """Say that all is done; to be called by the first process alone."""
        if not new_steps and not self._steps:
            self.warn(f"{out} was finished before, --force redoes it")
        elif not self.quiet:
            now = "" if new_steps == steps else f", {new_steps} of them now"
            self._line(f"{steps} step{'s' * (steps != 1)}{now}, {duration(time.monotonic() - self._start)}")
        self._print({"type": "end", "scenes": 0, "failed": 0})

    def interrupted(self) -> None:
        if self._steps:
            self.warn(f"interrupted at step {self._step} of {self._steps}; the same command goes on from a checkpoint")

    def _seconds_of_step(self) -> float:
        now = time.monotonic()
        seconds, self._before = now - self._before, now
        if self._step_s is None or self._step - self._first < 3:  # the first steps are slow
            self._step_s = seconds
        self._step_s = SMOOTHING * self._step_s + (1 - SMOOTHING) * seconds
        return self._step_s

    def _print(self, *records: dict) -> None:
        if self._json:
            print("\n".join(dump_record(record) for record in records), flush=True)


def duration(seconds: float) -> str:
    """Return "48 s", "12 min" or "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
