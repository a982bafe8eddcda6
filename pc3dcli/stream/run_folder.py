# SPDX-License-Identifier: Apache-2.0
"""The folder of a training run: who made it, its log, and whether it is finished (cli.md sections 5 and 7).

model.safetensors  config.json   the weights, when training is done
log.ndjson                       `step` records, no clock in them
run.json                         program records, times and machine; there only when all is done
checkpoints/last.safetensors     where an unfinished run goes on; removed when it is done
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pc3dcli.errors import FormatError, UsageError
from pc3dcli.stream.provenance import first_difference
from pc3dcli.stream.records import dump_record, header
from pc3dcli.stream.writer import atomic_file, remove_stale_temporaries

LOG, RUN, CHECKPOINT, WEIGHTS = "log.ndjson", "run.json", "checkpoints/last.safetensors", "model.safetensors"
OTHERS = ("predictions.npz", "pictures/epoch*.png")  # files of a run that another one may not make again


@dataclass(frozen=True)
class RunFolder:
    """A folder and the program record of who writes to it.

    force  what is there is made again
    """

    path: Path
    program: dict
    force: bool = False

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    def is_done(self) -> bool:
        """Tell whether the folder holds this very run, finished.

        raises  UsageError when it holds a finished run of other settings, or weights that no run of ours wrote
        """
        if self.force:
            return False
        if self.path.exists() and not self.path.is_dir():
            raise UsageError("is a file, expected a folder", file=self.path)
        run = self.path / RUN
        if run.is_file():
            self.check_same(_program_of(run), run)
            return (self.path / WEIGHTS).is_file()
        if (self.path / WEIGHTS).exists() and not self.checkpoint.exists():
            raise UsageError("exists, of another origin", file=self.path / WEIGHTS, hint="name another --out")
        return False

    def state(self) -> str:
        """Say in one word what a run would find; raises as `is_done`."""
        if self.is_done():
            return "finished"
        return "unfinished" if self.checkpoint.exists() and not self.force else "new"

    def check_same(self, theirs: dict, file: Path) -> None:
        """Refuse a program record that is not ours; the error names the first difference."""
        if theirs.get("id") != self.program["id"]:
            hint = "pass --force to start again, or name another --out"
            raise UsageError(f"exists, {first_difference(self.program, theirs)}", file=file, hint=hint)

    def open_log(self, num_bytes: int) -> RunLog:
        """Open the log for writing after its first `num_bytes`, which a checkpoint says are good.

        raises  FormatError when it has fewer
        """
        remove_stale_temporaries(self.path)
        if not num_bytes and ((self.path / RUN).exists() or self.checkpoint.exists()):
            for file in (file for pattern in OTHERS for file in self.path.glob(pattern)):
                file.unlink()
        for name in (*(() if num_bytes else (WEIGHTS, CHECKPOINT)), RUN):  # weights alone would be of unknown origin
            (self.path / name).unlink(missing_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / LOG
        kept = path.read_bytes()[:num_bytes] if num_bytes and path.exists() else b""
        if len(kept) < num_bytes:
            hint = "pass --force to start again"
            raise FormatError(f"found {len(kept)} bytes, the checkpoint knows {num_bytes}", file=path, hint=hint)
        file = path.open("r+b" if num_bytes else "wb")
        file.truncate(num_bytes)
        file.seek(num_bytes)
        return RunLog(file, kept)

    def finish(self, started: float, **facts: object) -> None:
        """Write run.json, which says that all is done, and remove the checkpoint.

        started  time.time() of this call; facts  what else is worth to know of the machine and the run
        """
        run = header() | {"programs": [self.program]}
        del run["type"]
        clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))
        run |= {"started": clock, "seconds": round(time.time() - started, 1), "machine": platform.platform(), **facts}
        with atomic_file(self.path / RUN) as file:
            file.write((json.dumps(run, indent=1, sort_keys=True) + "\n").encode())
        self.checkpoint.unlink(missing_ok=True)


@dataclass
class RunLog:
    """log.ndjson, open for writing; `kept` is what stood in it."""

    file: BinaryIO
    kept: bytes

    def write(self, records: Iterable[dict]) -> None:
        """Append records; raises OSError that names the file."""
        lines = "".join(dump_record(record) + "\n" for record in records).encode()
        try:
            self.file.write(lines)
            self.file.flush()
        except OSError as error:  # a full disk has no name
            error.filename = self.file.name
            raise

    def sync(self) -> int:
        """Make sure that the log is on the disk; returns its length in bytes."""
        os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        self.file.close()


def _program_of(run: Path) -> dict:
    try:
        program = json.loads(run.read_bytes())["programs"][-1]
        if isinstance(program["id"], str) and isinstance(program["program"], str):
            return {"version": None} | program
    except (ValueError, LookupError, TypeError, OSError):
        pass
    raise UsageError("exists and is no record of a run", file=run, hint="pass --force, or name another --out")
