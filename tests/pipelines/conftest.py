# SPDX-License-Identifier: Apache-2.0
"""A world of three small rooms and a real shell to run pipelines in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.worlds.room import CaptureConfig, RoomConfig, make_room, write_room

ROOT = Path(__file__).resolve().parents[2]
SCENES = ["a", "b", "c"]
# the true masks on every frame; `track` is what the scripts of the tests call
EXACT = "-D p_whole=1 -D p_merge=0 -D p_nested=0 -D p_eroded=0 -D p_dilated=0 -D stride_key=1"
PROLOGUE = f'set -o pipefail; track() {{ pc3d track2d --masks oracle {EXACT} "$@"; }}\n'

Shell = Callable[..., subprocess.CompletedProcess]


def _write_scan(folder: Path, size: tuple[int, int], num_frames: int, voxel: float, seed: int = 1) -> None:
    """Write a room with four pieces of furniture as a scan."""
    rng = np.random.default_rng(seed)
    room = make_room(RoomConfig(num_furniture=(4, 4), num_small=(0, 0)), rng)
    capture = CaptureConfig(num_frames=num_frames, size=size, turns=1.0, voxel=voxel, color="png")
    write_room(room, folder, capture, rng)


@pytest.fixture(scope="session")
def scans(tmp_path_factory) -> Path:
    """Three tiny scans, not to be changed."""
    folder = tmp_path_factory.mktemp("world") / "scans"
    for seed, name in enumerate(SCENES):
        _write_scan(folder / name, (30, 40), 4, 0.08, seed)
    return folder


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """An environment where `pc3d` is this program."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "pc3d"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m pc3dcli "$@"\n')
    script.chmod(0o755)
    names = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PATH": f"{folder}:{os.environ['PATH']}"}
    return {name: value for name, value in os.environ.items() if not name.startswith("PC3D_")} | names


@pytest.fixture
def shell(tmp_path, environment, scans) -> Shell:
    """Run a bash script in `tmp_path`; $SCANS is the folder of scans."""

    def run(script: str, *, cwd: Path = tmp_path, **settings) -> subprocess.CompletedProcess:
        cwd.mkdir(exist_ok=True)
        return subprocess.run(
            ["bash", "-c", PROLOGUE + script], cwd=cwd, env=environment | {"SCANS": str(scans)}, capture_output=True,
            text=True, timeout=120, check=False, **settings,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def tracks(scans, environment, tmp_path_factory) -> Path:
    """The stream of the three scans in a file; not to be changed."""
    path = tmp_path_factory.mktemp("tracks") / "tracks.ndjson"
    script = f"{PROLOGUE} track {scans} --out {path}"
    subprocess.run(["bash", "-c", script], env=environment, check=True, timeout=120)
    return path


@pytest.fixture(scope="session")
def write_scan() -> Callable[..., None]:
    return _write_scan
