# SPDX-License-Identifier: Apache-2.0
"""Read record streams line by line: form, brackets, versions and truncation (cli.md sections 3 and 6)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from pc3dcli.errors import FormatError
from pc3dcli.stream.records import FORMAT, FREE_TYPES, MAX_LINE_BYTES, VERSION, check_record

FILTER_HINT = "was the stream filtered? a filter must keep header, scene, scene_end and end records"


class TruncatedStream(FormatError):
    """The input ended before its `end` record: its producer died, or `head` cut it."""


@dataclass(frozen=True)
class Line:
    """One record with its text (without the newline), its 1-based line number, and the bytes up to its end."""

    record: dict
    text: str
    number: int
    stop: int = 0

    @property
    def type(self) -> str:
        return self.record["type"]


@dataclass
class SceneRecords:
    """What a stream says of one scene.

    scene     the `scene` record; None for records that stand outside scenes
    kept      what `keep` returned for each record that it consumed, in order
    passed    the other lines, to be passed through unchanged
    ok        false when the producer failed at this scene
    programs  the program records of the segment up to here
    segment   0-based number of the segment in this input
    source    name of the file it stands in, for messages
    """

    scene: dict | None
    kept: Any = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    ok: bool = True
    programs: list[dict] = field(default_factory=list)
    segment: int = 0
    source: str = ""

    @property
    def id(self) -> str | None:
        return None if self.scene is None else self.scene["scene"]


def read_lines(
    file: BinaryIO, name: str, *, allow_truncated: bool = False, seen: dict[str, set[str]] | None = None
) -> Iterator[Line]:
    """Yield the records of a stream of one or more segments, one line at a time.

    file   binary file; name  its name in messages ("<stdin>")
    seen   scene id -> record types, shared by the inputs of one command that must not repeat a scene
    raises FormatError at the first malformed line, TruncatedStream after the last complete
           record when the final `end` is missing (unless allow_truncated)
    """
    brackets = _Brackets(name, {} if seen is None else seen)
    number, stop, is_cut = 0, 0, False
    for number, raw in enumerate(_raw_lines(file, name), 1):
        stop += len(raw)
        try:
            text = _decode(raw, name, number)
            if not text.strip():
                continue
            record = _parse(text, name, number)
        except FormatError:
            if raw.endswith(b"\n") or not brackets.has_started:
                raise
            is_cut = True  # the last line is not whole: a truncation, not an error of form
            break
        brackets.check(record, number)
        yield Line(record, text.rstrip("\r\n"), number, stop)
    if number == 0 or not brackets.has_started:
        raise FormatError("empty; expected a pc3d stream", file=name)
    if (is_cut or not brackets.is_between_segments) and not allow_truncated:
        raise TruncatedStream(
            f'ends after line {number} without an "end" record: its producer stopped early',
            file=name,
            hint="run the producer again, or let a filter keep that record; eval --allow-truncated takes what is there",
        )


def read_scenes(
    lines: Iterator[Line], keep: Callable[[Line], object | None], store: Callable[[], Any] = list
) -> Iterator[SceneRecords]:
    """Group a stream into scenes, one in memory at a time.

    keep    called for each record inside a scene; what it returns is collected in `kept`,
            None passes the line through
    store   makes the collection, anything with `append`
    """
    scene: SceneRecords | None = None
    loose = SceneRecords(None)
    programs: list[dict] = []
    segment = -1
    for line in lines:
        kind = line.type
        if kind == "header":
            programs, segment = [], segment + 1
            loose = SceneRecords(None, segment=segment)
        elif kind == "program" and scene is None:
            programs = [*programs, line.record]
        elif kind in ("scene", "end"):
            if loose.passed:
                loose.programs = programs
                yield loose
                loose = SceneRecords(None, segment=segment)
            if kind == "scene":
                scene = SceneRecords(line.record, kept=store(), programs=programs, segment=segment)
        elif kind == "scene_end":
            scene.ok = line.record["ok"]
            yield scene
            scene = None
        else:
            _collect(line, loose if scene is None else scene, keep)
    if loose.passed:  # an accepted truncation: an open scene is dropped, whole records outside scenes are not
        loose.programs = programs
        yield loose


def _collect(line: Line, scene: SceneRecords, keep: Callable[[Line], object | None]) -> None:
    value = keep(line) if scene.scene is not None else None
    if value is not None:
        scene.kept.append(value)
        return
    scene.passed.append(line.text)
    if scene.scene is None and line.type == "error":
        scene.ok = False


class _Brackets:
    """Check that header, scene, scene_end and end nest, and that no scene comes twice."""

    def __init__(self, name: str, seen: dict[str, set[str]]) -> None:
        self.name = name
        self.seen = seen
        self.has_started = False
        self.is_between_segments = True
        self.scene: str | None = None
        self.types: set[str] = set()

    def check(self, record: dict, number: int) -> None:
        kind = record["type"]
        problem, hint = (self._header(record), None) if kind == "header" else (self._step(record, kind), FILTER_HINT)
        if problem:
            raise FormatError(problem, file=self.name, line=number, hint=hint)
        if kind == "scene_end":
            self._close(record["scene"], number)

    def _step(self, record: dict, kind: str) -> str | None:
        if self.is_between_segments:
            return f'expected a "header" record, found "{kind}"'
        if kind == "scene":
            if self.scene is not None:
                return f'scene_end of "{self.scene}" is missing before scene "{record["scene"]}"'
            self.scene, self.types = record["scene"], set()
            return None
        if kind == "end":
            if self.scene is not None:
                return f'scene_end of "{self.scene}" is missing before "end"'
            self.is_between_segments = True
            return None
        if kind == "scene_end":
            return self._scene_end(record)
        return self._inside(record, kind)

    def _header(self, record: dict) -> str | None:
        if not self.is_between_segments:
            return 'a second "header" before "end": the producer of the first part stopped early'
        if record["format"] != FORMAT:
            return f"format is {record['format']!r}, expected {FORMAT!r}"
        version = str(record["version"])
        if version.split(".")[0] != VERSION.split(".")[0]:
            return f"stream version {version} cannot be read by this program, which reads version {VERSION}"
        self.has_started, self.is_between_segments = True, False
        return None

    def _scene_end(self, record: dict) -> str | None:
        if self.scene is None:
            return f'scene_end of "{record["scene"]}" without its "scene"'
        if record["scene"] != self.scene:
            return f'scene_end of "{record["scene"]}" inside scene "{self.scene}"'
        return None

    def _close(self, scene: str, number: int) -> None:
        earlier = self.seen.setdefault(scene, set())
        twice = sorted((earlier & self.types) - FREE_TYPES - {"frame"})
        if twice:
            raise FormatError(f'scene "{scene}" comes twice with {twice[0]} records', file=self.name, line=number)
        earlier |= self.types
        self.scene = None

    def _inside(self, record: dict, kind: str) -> str | None:
        scene = record.get("scene")
        if self.scene is None:
            if kind in FREE_TYPES or scene is None:
                return None
            return f'{kind} of scene "{scene}" stands outside its brackets'
        if scene is not None and scene != self.scene:
            return f'{kind} of scene "{scene}" inside scene "{self.scene}"'
        self.types.add(kind)
        return None


def _raw_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise FormatError("line is longer than 1 MiB; expected a pc3d stream", file=name, line=number)
        yield raw


def _decode(raw: bytes, name: str, number: int) -> str:
    if number == 1:
        _refuse_other_formats(raw, name)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8 text", file=name, line=number, column=error.start + 1) from None


def _refuse_other_formats(raw: bytes, name: str) -> None:
    start = raw.lstrip()[:1]
    if raw.startswith(b"\xef\xbb\xbf"):
        problem, hint = "starts with a byte-order mark", "remove it: sed '1s/^\\xef\\xbb\\xbf//'"
    elif raw.startswith(b"\x1e"):
        problem, hint = "is a JSON text sequence (RS bytes)", "remove them: tr -d '\\036'"
    elif start == b"[":
        problem, hint = "is a JSON array, expected one object per line", "split it: jq -c '.[]'"
    else:
        return
    raise FormatError(problem, file=name, line=1, hint=hint)


def _parse(text: str, name: str, number: int) -> dict:
    try:
        record = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        message = error.msg[0].lower() + error.msg[1:]
        raise FormatError(f"not JSON: {message}", file=name, line=number, column=error.colno) from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", file=name, line=number) from None
    problem = check_record(record)
    if problem:
        raise FormatError(problem, file=name, line=number)
    return record


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large")
    return value
