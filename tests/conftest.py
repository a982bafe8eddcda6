# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings beside the checkout; tests skip where it is missing."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}")
    return folder


@pytest.fixture(scope="session")
def scans(tmp_path_factory) -> Path:
    """A folder of two small written rooms, room0 and room1: 16 frames of 128 x 96 over half a turn."""
    from pc3dcli.worlds.room import CaptureConfig, RoomConfig, make_room, write_room

    folder = tmp_path_factory.mktemp("world") / "scans"
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        room = make_room(RoomConfig(num_furniture=(4, 4), num_small=(1, 1)), rng)
        write_room(room, folder / f"room{seed}", CaptureConfig(num_frames=16, turns=0.5, voxel=0.04), rng)
    return folder


@dataclass(frozen=True)
class Result:
    """What one run of the program left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]

    def of(self, kind: str) -> list[dict]:
        return [record for record in self.records if record["type"] == kind]


class _Pipe(io.TextIOWrapper):
    def isatty(self) -> bool:
        return False


@pytest.fixture
def run(monkeypatch):
    """Run the program in this process: run("track2d", "scans/", stdin=b"...") -> Result."""

    def run_program(*arguments: object, stdin: bytes | str = b"") -> Result:
        from pc3dcli.main import _run

        data = stdin.encode() if isinstance(stdin, str) else stdin
        out, err = io.BytesIO(), io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", _Pipe(io.BytesIO(data), encoding="utf-8"))
            patch.setattr(sys, "stdout", _Pipe(out, encoding="utf-8", write_through=True))
            patch.setattr(sys, "stderr", _Pipe(err, encoding="utf-8", write_through=True))
            code = _run([str(argument) for argument in arguments])
            for stream in (sys.stdout, sys.stderr, sys.stdin):
                stream.flush() if stream is not sys.stdin else None
                stream.detach()
        return Result(code, out.getvalue().decode(), err.getvalue().decode())

    return run_program
