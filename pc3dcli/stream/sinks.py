# SPDX-License-Identifier: Apache-2.0
"""Where a stream goes: standard output, one file, or a folder with one file a scene (cli.md section 7).

A scene is handed over whole, so that none is ever half written.  A folder and a file remember what is done: the same
command run again skips it, other settings are refused.
"""

from __future__ import annotations

import glob
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.stream.provenance import first_difference
from pc3dcli.stream.reader import read_lines
from pc3dcli.stream.records import dump_record, header
from pc3dcli.stream.writer import SPOOL_PATTERN, atomic_file, remove_stale_temporaries


@dataclass(frozen=True)
class SideFiles:
    """Where a scene's bulk files go, and how its records name them.

    stem    path without suffix; prefix  the same, relative to the folder of the stream file
    """

    stem: Path
    prefix: str

    def path(self, suffix: str) -> Path:
        return self.stem.with_name(self.stem.name + suffix)

    def relative(self, suffix: str) -> str:
        return self.prefix + suffix


class Sink(Protocol):
    """Takes finished scenes; `begin` and `end` bracket a segment."""

    spool_folder: Path | None  # where unfinished scenes of several processes may wait

    def prepare(self) -> None: ...
    def side_files(self, scene: str) -> SideFiles | None: ...
    def is_done(self, scene: str, programs: Sequence[dict]) -> bool: ...
    def begin(self, programs: list[dict]) -> None: ...
    def write(self, scene: str | None, lines: BinaryIO, *, is_ok: bool) -> None: ...
    def keep(self, scene: str) -> None: ...  # a scene that is done stands here
    def end(self, scenes: int, failed: int) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class StreamSink:
    """Standard output, or any open binary file."""

    spool_folder: Path | None = None

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def prepare(self) -> None:
        """Remove what killed runs left; before this one has temporaries."""
        remove_stale_temporaries(Path(tempfile.gettempdir()), SPOOL_PATTERN)

    def side_files(self, scene: str) -> SideFiles | None:
        return None

    def is_done(self, scene: str, programs: Sequence[dict]) -> bool:
        return False

    def begin(self, programs: list[dict]) -> None:
        self.file.write(_text([header(), *programs]))

    def write(self, scene: str | None, lines: BinaryIO, *, is_ok: bool) -> None:
        shutil.copyfileobj(lines, self.file, 1 << 16)
        self.file.flush()  # the next stage starts at once

    def keep(self, scene: str) -> None: ...

    def end(self, scenes: int, failed: int) -> None:
        self.file.write(_text([_end(scenes, failed)]))
        self.file.flush()

    def close(self) -> None:
        self.file.flush()

    def abort(self) -> None:
        """What was written stays; the missing `end` tells the reader."""


class FileSink(StreamSink):
    """One stream file.

    Finished scenes of an earlier one of the same program are taken over; where nothing is new it is left as it is.
    """

    def __init__(self, path: Path, *, force: bool) -> None:
        if path.exists() and not path.is_file():
            raise UsageError("is no regular file", file=path, hint=f"pass --out - and redirect it: > {path}")
        self.path = path
        self.spool_folder = path.parent
        self._stack = ExitStack()
        self._old = None if force or not path.exists() else _scan(path)
        # what is not taken over yet
        self._rest = {} if self._old is None else {scene: [*places] for scene, places in self._old.ok_scenes.items()}
        self._waiting: list[Callable[[], None]] | None = []  # what to write once it is known that something is new

    def prepare(self) -> None:
        # the folder may be anyone's: only names that writers of ours make
        remove_stale_temporaries(self.path.parent, SPOOL_PATTERN)
        remove_stale_temporaries(self.path.parent, f".{glob.escape(self.path.name)}.*.tmp")
        remove_stale_temporaries(self.path.parent / f"{self.path.name}.files")

    def side_files(self, scene: str) -> SideFiles | None:
        folder = f"{self.path.name}.files"
        return SideFiles(self.path.parent / folder / scene, f"{folder}/{scene}")

    def is_done(self, scene: str, programs: Sequence[dict]) -> bool:
        if self._old is None:
            return False
        _refuse_other_settings(self.path, self._old, programs)
        if scene not in self._old.scenes:
            raise UsageError(
                f"exists and lacks scene {scene}", file=self.path, hint="pass --force to write it anew, or name another"
            )
        return scene in self._old.ok_scenes

    def begin(self, programs: list[dict]) -> None:
        if self._old is None:
            self._start()
        self._do(super().begin, programs)

    def write(self, scene: str | None, lines: BinaryIO, *, is_ok: bool) -> None:
        self._rest.pop(scene, None)
        if is_ok and scene is not None:
            self._start()
        kept = lines if self._waiting is None else io.BytesIO(lines.read())
        self._do(partial(super().write, is_ok=is_ok), scene, kept)

    def keep(self, scene: str) -> None:
        if self._rest[scene]:
            self._do(self._copy, *self._rest[scene].pop(0))

    def end(self, scenes: int, failed: int) -> None:
        self._do(super().end, scenes, failed)

    def close(self) -> None:
        """Give the file its name, with the finished scenes of the earlier one that this run did not ask for."""
        rest = [place for places in self._rest.values() for place in places]
        if self._waiting is None and rest:
            super().begin(self._old.programs)
            for place in rest:
                self._copy(*place)
            super().end(len(rest), 0)
        self._stack.close()

    def _start(self) -> None:
        if self._waiting is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self._stack.enter_context(atomic_file(self.path))
        actions, self._waiting = self._waiting, None
        for action in actions:
            action()

    def _do(self, action: Callable[..., None], *arguments: object) -> None:
        if self._waiting is None:
            action(*arguments)
        else:
            self._waiting.append(partial(action, *arguments))

    def _copy(self, start: int, stop: int) -> None:
        with self.path.open("rb") as old:
            old.seek(start)
            while start < stop and (part := old.read(min(stop - start, 1 << 16))):
                self.file.write(part)
                start += len(part)

    def abort(self) -> None:
        """Keep the earlier file, if any; drop the unfinished one."""
        try:
            with self._stack:
                raise _Aborted
        except _Aborted:
            self.prepare()


class FolderSink:
    """A folder: run.json and one complete stream a scene, `<folder>/<scene>.ndjson`."""

    def __init__(self, folder: Path, *, force: bool) -> None:
        if folder.exists() and not folder.is_dir():
            raise UsageError("is a file, expected a folder", file=folder)
        self.folder, self.force = folder, force
        self.spool_folder = folder
        self.programs: list[dict] = []
        self._all_programs: dict[str, dict] = {}
        self._asked: set[str] = set()
        self._has_written = False

    def prepare(self) -> None:
        remove_stale_temporaries(self.folder)

    def side_files(self, scene: str) -> SideFiles | None:
        return SideFiles(self.folder / scene, scene.rsplit("/", 1)[-1])

    def is_done(self, scene: str, programs: Sequence[dict]) -> bool:
        """Tell whether the scene can be skipped; InputError the second time, as its file would be overwritten."""
        if scene in self._asked:
            hint = "write one file (--out x.ndjson), or run once for each input"
            raise InputError(f"scene {scene} comes twice; a folder holds one file a scene", hint=hint)
        self._asked.add(scene)
        return not self.force and is_scene_done(self.folder, scene, programs)

    def begin(self, programs: list[dict]) -> None:
        self.programs = programs
        self._all_programs |= {record["id"]: record for record in programs}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "run.json").unlink(missing_ok=True)  # as a stream without its end: until all is there

    def write(self, scene: str | None, lines: BinaryIO, *, is_ok: bool) -> None:
        if scene is None:  # records outside scenes have no file of their own
            return
        self._has_written = True
        with atomic_file(_scene_file(self.folder, scene)) as file:
            sink = StreamSink(file)
            sink.begin(self.programs)
            sink.write(scene, lines, is_ok=is_ok)
            sink.end(1, 0 if is_ok else 1)

    def keep(self, scene: str) -> None: ...

    def end(self, scenes: int, failed: int) -> None: ...

    def close(self) -> None:
        with atomic_file(self.folder / "run.json") as file:
            # a run that found all done, perhaps on an empty input, says nothing new of the folder
            programs = self._all_programs if self._has_written else _programs_of_scenes(self.folder)
            programs = programs or self._all_programs
            run = header() | {"programs": list(programs.values())}
            del run["type"]
            file.write((json.dumps(run, indent=1, sort_keys=True) + "\n").encode())

    def abort(self) -> None:
        """Finished scenes stay."""
        self.prepare()


def _programs_of_scenes(folder: Path) -> dict[str, dict]:
    """Return id -> program record over all scene files of a folder, those of earlier runs too."""
    programs: dict[str, dict] = {}
    for path in sorted(folder.rglob("*.ndjson")):
        with path.open("rb") as file:
            for line in file:
                record = json.loads(line)
                if record["type"] not in ("header", "program"):
                    break
                if record["type"] == "program":
                    programs.setdefault(record["id"], record)
    return programs


def is_scene_done(folder: Path, scene: str, programs: Sequence[dict]) -> bool:
    """Tell whether `folder` holds a complete, successful file of `scene` made by the last of `programs`.

    programs  our chain, ourselves last; empty to accept any maker
    raises    UsageError when it was made with other settings
    """
    path = _scene_file(folder, scene)
    if not path.is_file():
        return False
    old = _scan(path)
    if scene not in old.ok_scenes:
        return False
    _refuse_other_settings(path, old, programs)
    return True


@dataclass(frozen=True)
class _OldFile:
    """What an earlier file holds; ok_scenes says from which to which byte the finished ones stand, each time."""

    programs: list[dict]
    scenes: frozenset[str]
    ok_scenes: dict[str, list[tuple[int, int]]]


def _scan(path: Path) -> _OldFile:
    programs, scenes, places = [], set(), {}
    start = stop = 0
    try:
        with path.open("rb") as file:
            for line in read_lines(file, str(path)):
                if line.type == "program":
                    programs.append(line.record)
                elif line.type == "scene":
                    start = stop
                elif line.type == "scene_end":
                    scenes.add(line.record["scene"])
                    if line.record["ok"]:
                        places.setdefault(line.record["scene"], []).append((start, line.stop))
                stop = line.stop
    except FormatError as error:
        problem = f"exists and is no complete stream ({error.message})"
        raise UsageError(problem, file=path, hint="pass --force") from None
    return _OldFile(programs, frozenset(scenes), places)


def _refuse_other_settings(path: Path, old: _OldFile, programs: Sequence[dict]) -> None:
    if not programs or not old.programs or any(record["id"] == programs[-1]["id"] for record in old.programs):
        return
    theirs = {record["program"]: record for record in old.programs}
    # from the source on: what an early stage did differently changes the identity of all later ones
    pairs = [(ours, theirs[ours["program"]]) for ours in programs if ours["program"] in theirs]
    differing = [pair for pair in pairs if pair[0]["id"] != pair[1]["id"]]
    difference = first_difference(*(differing or [(programs[-1], old.programs[-1])])[0])
    raise UsageError(f"exists, {difference}", file=path, hint="pass --force to redo it, or name another --out")


def _scene_file(folder: Path, scene: str) -> Path:
    return folder / f"{scene}.ndjson"


def _end(scenes: int, failed: int) -> dict:
    return {"type": "end", "scenes": scenes, "failed": failed}


def _text(records: list[dict]) -> bytes:
    return "".join(dump_record(record) + "\n" for record in records).encode()


class _Aborted(Exception):
    """Leaves `atomic_file` on its failure path."""
