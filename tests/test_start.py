# SPDX-License-Identifier: Apache-2.0
"""Help starts at once: no command loads what only its work needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pc3dcli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "numpy", "rich", "cv2", "scipy", "sklearn", "pycocotools", "safetensors", "PIL", "pydantic"}


def imported_by(*arguments: str) -> tuple[set[str], subprocess.CompletedProcess]:
    """Return the top-level modules that `pc3d` imports when run with `arguments`, and how it went."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    names = [line.rsplit("|", 1)[1].strip() for line in result.stderr.splitlines() if line.startswith("import time:")]
    return {name.split(".")[0] for name in names}, result


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join
)
def test_help_imports_nothing_heavy(arguments):
    names, result = imported_by("-m", "pc3dcli", *arguments)
    assert result.returncode == 0, result.stderr
    assert "typer" in names
    assert names & HEAVY == set()


def test_a_heavy_import_is_noticed():
    names, _ = imported_by("-c", "import numpy")
    assert names & HEAVY == {"numpy"}


def test_help_lists_the_commands():
    result = imported_by("-m", "pc3dcli", "--help")[1]
    for name in COMMANDS:
        assert f"\n  {name} " in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_before_advanced(name):
    text = imported_by("-m", "pc3dcli", name, "-h")[1].stdout
    before = text.split("\nAdvanced", 1)[0]
    assert len(before.splitlines()) <= 24, before
    assert "Examples:" in before
    assert f"Manual: man pc3d-{name}" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.fixture
def small_job(tmp_path):
    """The arguments of an evaluation of one scene."""
    (tmp_path / "gt").mkdir()
    (tmp_path / "pred" / "masks").mkdir(parents=True)
    (tmp_path / "gt" / "a.txt").write_text("3001\n" * 120)
    (tmp_path / "pred" / "a.txt").write_text("masks/0.txt 3 0.5\n")
    (tmp_path / "pred" / "masks" / "0.txt").write_text("1\n" * 120)
    return ["eval", str(tmp_path / "pred"), "--gt", str(tmp_path / "gt")]


def test_eval_loads_nothing_of_the_other_commands(small_job):
    names, result = imported_by("-m", "pc3dcli", *small_job)
    assert result.returncode == 0, result.stderr
    assert names & (HEAVY - {"numpy"} | {"multiprocessing", "concurrent"}) == set()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed there")
def test_eval_starts_no_threads_of_linear_algebra(small_job):
    code = (
        "import os, sys; from pc3dcli import main; assert main._run(sys.argv[1:]) == 0; "
        "assert 'numpy' in sys.modules; print(len(os.listdir('/proc/self/task')))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", code, *small_job]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "1"
