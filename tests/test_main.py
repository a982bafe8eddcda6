# SPDX-License-Identifier: Apache-2.0
import errno
import os

import pytest

from pc3dcli import __version__, main
from pc3dcli.errors import FormatError, InputError, UsageError, WeightsError


@pytest.fixture
def outcome(monkeypatch, capsys):
    """Return (exit code, stderr) of a command that raises the given error."""

    def run(error: BaseException, *arguments: str) -> tuple[int, str]:
        def invoke(_):
            raise error

        monkeypatch.setattr(main, "_invoke", invoke)
        monkeypatch.setattr(main, "_drop_output", lambda: None)
        return main._run(["lift3d", *arguments]), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError("x"), 2), (InputError("x"), 4), (FormatError("x"), 4), (WeightsError("x"), 4)]
)
def test_errors_of_the_user(outcome, error, code):
    assert outcome(error) == (code, "pc3d lift3d: x\n")


def test_message_names_place_and_remedy(outcome):
    error = FormatError("expected 4 numbers, found 3", file="pose/120.txt", line=2, column=5, hint="delete the frame")
    assert outcome(error)[1] == "pc3d lift3d: pose/120.txt:2:5: expected 4 numbers, found 3\n  hint: delete the frame\n"
    assert "Traceback" in outcome(error, "--debug")[1]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ZeroDivisionError("a bug\nin two lines"), "unexpected ZeroDivisionError: a bug"),
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "x.ndjson"), "x.ndjson: no space left on the disk"),
        (OSError(errno.ENOSPC, "No space left on device"), "output: no space left on the disk"),
        (OSError(errno.EIO, "Input/output error", "x.ndjson"), "x.ndjson: Input/output error"),
        (OSError(errno.EFBIG, "File too large"), "File too large"),
    ],
)
def test_unexpected_failures_are_one_line_and_a_hint(outcome, error, message):
    code, shown = outcome(error)
    assert code == 1
    assert shown.startswith(f"pc3d lift3d: {message}")
    assert shown.endswith("\n  hint: --debug shows where\n")
    assert len(shown.splitlines()) == 2
    with pytest.raises(type(error)):
        outcome(error, "--debug")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENOENT])
def test_an_output_that_cannot_be_is_a_wrong_command_line(outcome, number):
    message = f"pc3d lift3d: x/y.ndjson: cannot write it: {os.strerror(number)}\n  hint: name another place\n"
    assert outcome(OSError(number, os.strerror(number), "x/y.ndjson")) == (2, message)


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141), (main._Terminated(), 143)]
)
def test_signals_are_silent(outcome, error, code):
    assert outcome(error) == (code, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "pc3d: No such command 'nonsense'."),
        (["lift3d", "--mrege", "none"], "pc3d lift3d: No such option: --mrege"),
        (["lift3d", "--merge", "nine"], "pc3d lift3d: Invalid value for '--merge'"),
        (["lift3d", "--min-views", "x"], "pc3d lift3d: Invalid value for '--min-views'"),
        (["lift3d", "--min-v", "3"], "pc3d lift3d: No such option: --min-v"),  # no abbreviations
        (["lift3d", "--out", ""], "pc3d lift3d: an argument is empty"),
        (["lift3d", "--out="], "pc3d lift3d: --out= has no value"),
        (["track2d", "--depth-scale", "nan"], "pc3d track2d: Invalid value for '--depth-scale'"),
        (["track2d", "--max-depth", "inf"], "pc3d track2d: Invalid value for '--max-depth'"),
        (["track2d", "--seed", "-1"], "pc3d track2d: Invalid value for '--seed'"),
        (["lift3d", "--out"], "pc3d lift3d: Option '--out' requires an argument"),
    ],
)
def test_wrong_command_lines(arguments, message, capsys):
    assert main._run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(message)
    assert "hint: " in shown.err
    assert shown.out == ""


def test_nothing_asked_shows_the_help(capsys):
    assert main._run([]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Usage: pc3d")
    assert "hint" not in shown


def test_versions(capsys, monkeypatch):
    monkeypatch.setenv("PC3D_VERSION", "1")  # somebody's variable, not ours
    assert main._run(["--version"]) == 0
    assert capsys.readouterr().out == f"pc3d {__version__}\n"
    assert main._run(["--show-versions"]) == 0
    assert {"pc3d", "stream", "Python", "torch", "CUDA"} <= {
        line.split()[0] for line in capsys.readouterr().out.splitlines()
    }
    assert main._run(["lift3d", "--help"]) == 0
