# SPDX-License-Identifier: Apache-2.0
"""`pc3d demo` in processes of its own, as a newcomer runs it."""

import subprocess
import sys


def demo(folder, *options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pc3dcli", "demo", "--out", "d", "--frames", "8", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_demo_prints_commands_table_and_pictures_and_keeps_what_is_done(tmp_path):
    first = demo(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "$ pc3d track2d d/scans/ --skip-done d/labels/ | pc3d lift3d --out d/labels/ --write ply" in first.stdout
    assert "preset agnostic-valid" in first.stdout and "AP50" in first.stdout
    pictures = first.stdout.split("look at\n")[1].split()
    assert any(name.endswith(".html") for name in pictures) and all((tmp_path / name).is_file() for name in pictures)
    again = demo(tmp_path)
    assert again.returncode == 0 and "rendering" not in again.stderr and again.stdout == first.stdout
    assert "pc3d track2d: 1 scene, 1 skipped" in again.stderr
    other = demo(tmp_path, "--seed", "5")  # another room, so its labels are made anew
    assert other.returncode == 0 and "rendering" in other.stderr and "skipped" not in other.stderr


def test_demo_refuses_a_file_as_its_folder(run, tmp_path):
    (tmp_path / "d").write_text("")
    assert run("demo", "--out", tmp_path / "d").code == 2
