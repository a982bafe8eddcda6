# SPDX-License-Identifier: Apache-2.0
"""Standard streams that a script closed, or that take nothing: a sentence and an exit code, and no file is damaged."""

import pytest

CLOSED = "standard input or output is closed\n  hint: name files, or --out\n"


@pytest.mark.parametrize(
    "command", ["track $SCANS", "pc3d track2d --print-config", "pc3d --version", "track $SCANS -j 2"]
)
def test_closed_stdout_is_an_error_where_it_is_needed(shell, command):
    result = shell(f"{command} >&-")
    assert result.returncode == 2
    assert result.stderr.endswith(CLOSED)
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "2>&-", "<&- >&- 2>&-", ">&- -j 2"])
def test_files_are_whole_whatever_is_closed(shell, tmp_path, closed):
    result = shell(f"track $SCANS -q --out open/ && track $SCANS -q --out closed/ {closed}")
    assert (result.returncode, result.stderr) == (0, "")
    for name in "abc":
        lines, others = (
            (tmp_path / folder / f"{name}.ndjson").read_text().splitlines() for folder in ("open", "closed")
        )
        assert lines[2:] == others[2:]  # all but header and argv


def test_closed_stdin_is_no_input(shell):
    for command in ("track", "pc3d lift3d", "pc3d view --out v", "pc3d eval --gt $SCANS"):
        result = shell(f"{command} <&-")
        assert result.returncode == 2
        assert ": no input\n" in result.stderr


@pytest.mark.parametrize(
    "command", ["track $SCANS", "track $SCANS -n", "pc3d track2d --print-config", "pc3d --version"]
)
def test_an_output_that_takes_nothing(shell, command):
    result = shell(f"{command} >/dev/full")
    assert result.returncode == 1
    assert "no space left on the disk" in result.stderr
    assert len(result.stderr.splitlines()) == 2
