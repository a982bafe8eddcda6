# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and terminals (cli.md section 2): what processes do when they are interrupted."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXACT = ["--masks", "oracle", "-Dp_whole=1", "-Dp_merge=0", "-Dp_nested=0", "-Dp_eroded=0", "-Dp_dilated=0"]


def start(environment: dict, cwd: Path, *arguments: str, **settings) -> subprocess.Popen:
    """Start pc3d in a process group of its own, as a terminal does."""
    cwd.mkdir(exist_ok=True)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    return subprocess.Popen(["pc3d", *arguments], cwd=cwd, env=environment, start_new_session=True, text=True, **pipes)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize(("number", "code", "jobs"), [(signal.SIGINT, 130, "2"), (signal.SIGTERM, 143, "1")])
def test_interrupted_then_rerun_equals_an_uninterrupted_run(environment, tmp_path, long_scan, number, code, jobs):
    command = ["track2d", *EXACT, str(long_scan), "--out", "tracks/"]
    process = start(environment | {"PC3D_TRACK2D_JOBS": jobs}, tmp_path, *command)
    wait_for(tmp_path / "tracks/a.ndjson", process)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    said = "pc3d track2d: interrupted; finished scenes are kept, the same command goes on with the rest\n"
    assert (process.returncode, out, err) == (code, "", said if number == signal.SIGINT else "")
    assert [name for name in tree(tmp_path / "tracks") if name != "b.ndjson"] == ["a.ndjson"]
    process = start(environment, tmp_path, *command)
    assert process.wait(60) == 0
    assert start(environment, tmp_path / "whole", *command).wait(60) == 0
    assert tree(tmp_path / "tracks") == tree(tmp_path / "whole/tracks")


@pytest.fixture(scope="module")
def long_scan(tmp_path_factory, write_scan) -> Path:
    """Three scenes that take a while, so that a signal finds the command at work."""
    folder = tmp_path_factory.mktemp("long") / "scans"
    for seed, name in enumerate("abc"):
        write_scan(folder / name, (60, 80), 30 if name == "c" else 4, 0.08, seed)
    return folder


def test_ctrl_c_on_a_pipe_stops_both_stages(environment, tmp_path, long_scan):
    script = f"pc3d track2d {' '.join(EXACT)} {long_scan} | pc3d lift3d --out labels/"
    group = subprocess.Popen(
        ["bash", "-c", f"set -o pipefail; {script}"], cwd=tmp_path, env=environment, start_new_session=True,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(tmp_path / "labels/a.ndjson", group)
    os.killpg(group.pid, signal.SIGINT)
    err = group.communicate(timeout=60)[1]
    assert group.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in err
    assert not [name for name in tree(tmp_path / "labels") if name.endswith(".tmp") or name == "run.json"]


def on_terminal(environment: dict, cwd: Path, *arguments: str) -> tuple[int, str]:
    """Run pc3d with standard input, output and error on a terminal; return its exit code and what it showed."""
    master, slave = pty.openpty()
    process = start(environment, cwd, *arguments, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    return process.wait(60), shown.decode()


def test_records_do_not_go_to_a_terminal(environment, scans, tmp_path):
    code, shown = on_terminal(environment, tmp_path, "track2d", *EXACT, str(scans))
    assert code == 2
    assert "pipe it, or use --out FILE; --json prints it here" in shown
    code, shown = on_terminal(environment, tmp_path, "track2d", *EXACT, str(scans), "--json", "--limit", "1")
    assert (code, '"scene_end"' in shown) == (0, True)


def test_no_input_on_a_terminal_shows_two_examples(environment, tmp_path):
    for command in ("track2d", "lift3d"):
        code, shown = on_terminal(environment, tmp_path, command)
        assert code == 2
        assert f"usage: pc3d {command} {'SCENE' if command == 'track2d' else 'STREAM'}..." in shown
        assert shown.count("pc3d track2d") >= 1
        assert len(shown.splitlines()) <= 5


def test_dry_run_may_be_read_on_a_terminal(environment, scans, tmp_path):
    code, shown = on_terminal(environment, tmp_path, "track2d", str(scans), "--dry-run")
    assert code == 0
    assert [line.split("\t")[0] for line in shown.splitlines()] == ["a", "b", "c"]


def test_ctrl_c_while_modules_load_is_silent(environment, tmp_path):
    # the current folder comes first where modules are looked for
    (tmp_path / "typer.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    process = start(environment, tmp_path, "track2d", "scans/")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (-signal.SIGINT, "", "")  # 130 for the shell


HALF_BUILT = """
import os, signal
import pc3dcli.main

class HalfBuilt:  # as a temporary file that Ctrl-C hits before it has its attributes
    def __init__(self, names):
        os.kill(os.getpid(), signal.{})

    def __del__(self):
        self.missing

pc3dcli.main.application = HalfBuilt
pc3dcli.main.main(["eval"])
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_finalizers_of_half_built_objects_say_nothing(environment, name, code):
    command = [sys.executable, "-c", HALF_BUILT.format(name)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (code, "", "")
