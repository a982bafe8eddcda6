# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from pc3dcli.commands import training_progress
from pc3dcli.commands.training_progress import TrainingReporter, duration

PROGRAM = {"type": "program", "id": "abc", "program": "pc3d pretrain", "version": "1", "argv": [], "parents": []}


def step(number: int) -> dict:
    return {"type": "step", "step": number, "epoch": 0, "loss": 0.5, "lr": 0.001}


def reporter(**changes) -> TrainingReporter:
    settings = {"json": False, "quiet": False, "verbose": False, "progress": None} | changes
    return TrainingReporter("pretrain", PROGRAM, **settings)


class Clock:
    """Two seconds pass whenever one looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 2.0
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5340, "89 min"), (12_000, "3 h 20 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_line_now_and_then_says_what_is_left(monkeypatch, capsys):
    monkeypatch.setattr(training_progress, "time", Clock())
    monkeypatch.setattr("pc3dcli.commands.progress.time", Clock())
    with reporter() as shown:
        shown.started(0, 100, b"")
        for number in range(1, 41):
            shown.logged(step(number))
        shown.finished(100, 100, "run")
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 4
    number = int(lines[0].split()[3])
    assert lines[0] == f"pc3d pretrain: step {number} of 100, epoch 0, loss 0.5, {duration(2 * (100 - number))} left"
    assert lines[-1].startswith("pc3d pretrain: 100 steps, ")


def test_the_parts_of_a_loss_are_shown(monkeypatch, capsys):
    monkeypatch.setattr("pc3dcli.commands.progress.time", Clock())
    with reporter() as shown:
        shown.started(0, 100, b"")
        for number in range(1, 20):
            shown.logged(step(number) | {"loss_point": 0.01949, "loss_gc": 0.6931})
        shown.finished(100, 60, "run")
    lines = capsys.readouterr().err.splitlines()
    assert ", loss 0.5 (point 0.0195, gc 0.693), " in lines[0]
    assert lines[-1].startswith("pc3d pretrain: 100 steps, 60 of them now, ")


def test_going_on_is_said_and_quiet_says_nothing(capsys):
    for quiet in (False, True):
        with reporter(quiet=quiet) as shown:
            shown.started(40, 100, b"")
            shown.interrupted()
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "pc3d pretrain: goes on after step 40 of 100",
        "pc3d pretrain: interrupted at step 40 of 100; the same command goes on from a checkpoint",
    ]
    assert captured.out == ""


def test_json_prints_what_was_logged_before_too(capsys):
    with reporter(json=True, quiet=True) as shown:
        shown.started(1, 2, b'{"type":"step","step":1,"loss":0.5}\n')
        shown.logged(step(2))
        shown.finished(2, 1, "run")
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["type"] for record in records] == ["header", "program", "step", "step", "end"]
    assert [record["step"] for record in records[2:4]] == [1, 2]


def test_a_bar_is_drawn_where_asked(capsys):
    with reporter(progress=True) as shown:
        shown.started(0, 3, b"")
        for number in range(1, 4):
            shown.logged(step(number))
        assert shown._bars.tasks[0].completed == 3
        assert shown._bars.tasks[0].total == 3
        assert "loss 0.5" in shown._bars.tasks[0].description
        shown.finished(3, 3, "run")
    assert capsys.readouterr().out == ""
