# SPDX-License-Identifier: Apache-2.0
import io

import pytest

from pc3dcli.commands import progress
from pc3dcli.commands.progress import ProgressReporter
from pc3dcli.stream.pipeline import Summary


class Terminal(io.StringIO):
    """A text file that says it is a terminal."""

    def isatty(self):
        return True


def report(*, quiet=False, verbose=False, shows=None, summary=None) -> ProgressReporter:
    reporter = ProgressReporter("lift3d", quiet=quiet, verbose=verbose, progress=shows)
    with reporter:
        reporter.scene_progress("a", 1, 10)
        reporter.scene_finished("a", "done", None)
        reporter.scene_finished("b", "failed", "pose.txt:2: expected 4 numbers")
        reporter.warn("2 frames skipped")
    reporter.summary(summary or Summary(done=["a"], failed=["b"]))
    return reporter


def test_lines_elsewhere_than_on_a_terminal(capsys):
    report()
    assert capsys.readouterr().err.splitlines() == [
        "pc3d lift3d: pose.txt:2: expected 4 numbers",
        "pc3d lift3d: 2 frames skipped",
        "pc3d lift3d: 2 scenes, 1 failed (b), 0 s",
    ]


def test_quiet_leaves_errors_only(capsys):
    report(quiet=True)
    assert [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines()] == [
        "pose.txt:2: expected 4 numbers", "2 scenes, 1 failed (b), 0 s",
    ]  # fmt: skip
    report(quiet=True, summary=Summary(done=["a"], skipped=["b"]))
    assert capsys.readouterr().err == "pc3d lift3d: pose.txt:2: expected 4 numbers\n"


def test_the_summary_is_always_said_with_its_hint(capsys):
    ProgressReporter("lift3d", quiet=False, verbose=False, progress=False).summary(Summary(["a"], ["b", "c"]), "do x")
    assert capsys.readouterr().err.splitlines() == ["pc3d lift3d: 3 scenes, 2 skipped, 0 s", "  hint: do x"]
    ProgressReporter("lift3d", quiet=False, verbose=False, progress=None).summary(Summary(["a"]))
    assert capsys.readouterr().err == "pc3d lift3d: 1 scene, 0 s\n"


@pytest.mark.parametrize(
    ("is_terminal", "settings", "is_said"),
    [(True, {}, True), (False, {}, False), (False, {"verbose": True}, True), (True, {"progress": False}, False),
     (True, {"quiet": True, "verbose": True}, False)],
)  # fmt: skip
def test_notes_are_for_one_who_watches(monkeypatch, is_terminal, settings, is_said):
    monkeypatch.setattr(progress.sys, "stderr", Terminal() if is_terminal else io.StringIO())
    ProgressReporter("track2d", **{"quiet": False, "verbose": False, "progress": None} | settings).note("a: 40 frames")
    assert ("a: 40 frames" in progress.sys.stderr.getvalue()) == is_said


def test_a_line_erases_the_bar_that_a_later_stage_may_have_drawn(monkeypatch):
    for is_pipe, start in ((True, "\r\x1b[K"), (False, "")):
        monkeypatch.setattr(progress.sys, "stderr", Terminal())
        monkeypatch.setattr(progress, "_stdout_is_pipe", lambda is_pipe=is_pipe: is_pipe)
        report(shows=None if is_pipe else False)
        lines = progress.sys.stderr.getvalue().removesuffix("\n").split("\n")
        assert len(lines) == 3 and all(line.startswith(f"{start}pc3d lift3d: ") for line in lines[:1] + lines[2:])


def test_verbose_says_every_scene(capsys):
    report(verbose=True)
    assert "pc3d lift3d: a: done" in capsys.readouterr().err


def test_one_plain_line_every_thirty_seconds(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    reporter = ProgressReporter("lift3d", quiet=False, verbose=False, progress=None)
    for second in range(100):
        now[0] = float(second)
        reporter.scene_progress("a", second, 100)
    assert capsys.readouterr().err.splitlines() == [f"pc3d lift3d: a: {n} of 100" for n in (31, 62, 93)]
    now[0] += 100
    reporter.scene_finished("a", "done", None)  # all there is of scenes in worker processes
    assert capsys.readouterr().err == "pc3d lift3d: 1 finished\n"
    silent = ProgressReporter("lift3d", quiet=False, verbose=False, progress=False)
    now[0] += 100
    silent.scene_progress("a", 1, 2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("is_terminal", "is_pipe", "asked", "draws"),
    [(True, False, None, True), (True, True, None, False), (False, False, None, False), (False, True, True, True),
     (True, False, False, False)],
)  # fmt: skip
def test_who_draws(monkeypatch, is_terminal, is_pipe, asked, draws):
    monkeypatch.setattr(progress.sys, "stderr", Terminal() if is_terminal else io.StringIO())
    monkeypatch.setattr(progress, "_stdout_is_pipe", lambda: is_pipe)
    reporter = report(shows=asked)
    assert (reporter._bars is not None) == draws
    assert "pose.txt:2: expected 4 numbers" in progress.sys.stderr.getvalue()
