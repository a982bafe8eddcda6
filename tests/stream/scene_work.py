# SPDX-License-Identifier: Apache-2.0
"""Functions that process scenes for test_pipeline.py; worker processes import this module by its name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.stream.pipeline import Context, SceneTask
from pc3dcli.stream.writer import atomic_file


def count(task: SceneTask, context: Context) -> Iterator[dict]:
    """Yield `payload` step records; late scenes take less time and finish first."""
    time.sleep(0.02 * (5 - len(task.id)))
    yield task.scene | {"num_points": task.payload}
    for step in range(task.payload):
        yield {"type": "step", "scene": task.id, "step": step, "loss": 1 / (step + 1)}
        context.report(step + 1, task.payload)


def fail_on_even(task: SceneTask, context: Context) -> Iterator[dict]:
    """Fail at scenes with an even payload, after records that must not be seen."""
    yield {"type": "step", "scene": task.id, "step": 0, "loss": 0.0}
    if task.payload % 2 == 0:
        raise FormatError("expected 4 numbers, found 3", file=Path("pose/120.txt"), line=2, hint="delete the frame")


def fail_at_once(task: SceneTask, context: Context) -> Iterator[dict]:
    """Fail before the first record."""
    raise InputError("no such file", file="x")
    yield {}


def say_things(task: SceneTask, context: Context) -> Iterator[dict]:
    """Say two things; the scene "a" fails then, with an error that names no file."""
    context.note("40 frames")
    yield {"type": "step", "scene": task.id, "step": 0, "loss": 0.0}
    context.warn("2 frames skipped")
    if task.id == "a":
        raise InputError("no points")


def slow_first(task: SceneTask, context: Context) -> Iterator[dict]:
    """Take long for the scene "a" only."""
    time.sleep(0.5 if task.id == "a" else 0.0)
    yield {"type": "step", "scene": task.id, "step": 0, "loss": 0.0}


def sleep_forever(task: SceneTask, context: Context) -> Iterator[dict]:
    """Say that it runs by a file `payload/<scene>`, then never end; the scene "a" returns at once."""
    (task.payload / task.id).write_text(str(os.getpid()))
    if task.id != "a":
        with atomic_file(context.side.path(".bin")) as file:
            file.write(b"x")
            time.sleep(60)
    yield {"type": "step", "scene": task.id, "step": 0, "loss": 0.0}


def need_a_package(task: SceneTask, context: Context) -> Iterator[dict]:
    """Raise what no scene can help."""
    yield {"type": "step", "scene": task.id, "step": 0, "loss": 0.0}
    raise UsageError("this needs the package x, which is not installed")


def break_down(task: SceneTask, context: Context) -> Iterator[dict]:
    """Raise what is no error of the user."""
    yield {"type": "step", "scene": task.id, "step": 0, "loss": 0.0}
    raise ZeroDivisionError("a bug")


def write_nan(task: SceneTask, context: Context) -> Iterator[dict]:
    """Yield a record that no stream may hold."""
    yield {"type": "step", "scene": task.id, "step": 0, "loss": float("nan")}


def must_not_run(task: SceneTask, context: Context) -> Iterator[dict]:
    """Fail loudly: the scene was to be skipped."""
    raise AssertionError(f"{task.id} was processed")
    yield {}
