# SPDX-License-Identifier: Apache-2.0
"""Where `eval --task semantic` takes labels from: text files, one a scene, or `labels3d` records of a stream.

A record of kind "semantic" has one label a point, or several in columns, best first: ids of the class list, or
positions in the record's own `classes`, which are names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pc3dcli.commands.evaluation import Entries
from pc3dcli.commands.inputs import STDIN, holds_stream, stream_entry, stream_scenes
from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.formats import semantic_labels
from pc3dcli.formats.class_lists import ClassList
from pc3dcli.formats.result_json import file_sha256
from pc3dcli.formats.tensors import read_tensor, tensor_file
from pc3dcli.stream.reader import Line, SceneRecords

NO_CLASS = -1  # of a label whose name is not in the class list


class FileLabels:
    """The labels of one scene in a text file."""

    is_ok, has_labels = True, True

    def __init__(self, scene: str, path: Path) -> None:
        self.scene, self.path = scene, path
        self.programs: list[dict] = []  # such a file does not say who made it

    def labels(self) -> np.ndarray:
        """Return one label a vertex, (N,) of any integer type."""
        return semantic_labels.read_labels(self.path)

    def guesses(self) -> np.ndarray:
        """Return the labels of each vertex in order, (N, K) int64."""
        return semantic_labels.read_label_table(self.path)

    def fault(self, message: str, vertex: int | None = None) -> FormatError:
        """Return the error of the file, or of the line of a vertex."""
        return FormatError(message, file=self.path, line=None if vertex is None else vertex + 1)

    def entries(self) -> Entries:
        """Return what was read, for the digest."""
        return [(self.path.name, file_sha256(self.path))]


class StreamLabels:
    """The labels of one scene in a record."""

    def __init__(self, records: SceneRecords, classes: ClassList) -> None:
        self.scene, self.is_ok, self.programs = records.id, records.ok, records.programs
        self.lines: list[Line] = records.kept
        self.classes, self.source = classes, records.source
        folder = Path.cwd() if records.source == STDIN else Path(records.source).parent
        self._folders = (folder, Path(records.scene["root"]))

    @property
    def has_labels(self) -> bool:
        """Tell whether the scene has a record of semantic labels; a stream may hold scenes of other things."""
        return bool(self.lines)

    def labels(self) -> np.ndarray:
        """Return one label a point, (N,) of any integer type; raises FormatError for more columns."""
        guesses = self.guesses()
        if guesses.shape[1] != 1:
            raise self.fault(f"{guesses.shape[1]} labels a point, expected one")
        return guesses[:, 0]

    def guesses(self) -> np.ndarray:
        """Return the labels of each point in order, (N, K) int64; raises FormatError and InputError."""
        if len(self.lines) > 1:
            raise FormatError("a second labels3d of the scene", file=self.source, line=self.lines[1].number)
        record = self.lines[0].record
        try:
            values = read_tensor(record["tensor"], self._folders)
        except FormatError as error:
            raise self.fault(f"{error.file}: {error.message}" if error.file else error.message) from None
        if values.dtype.kind not in "iu" or values.ndim not in (1, 2):
            raise self.fault(f"tensor is {values.shape} {values.dtype}, expected integers, one or several a point")
        values = values.reshape(len(values), -1).astype(np.int64)
        names = record.get("classes")
        return values if names is None else self._ids_of(values, names)

    def _ids_of(self, values: np.ndarray, names: object) -> np.ndarray:
        """Return the class ids of positions in a list of names; -1 stands for no label."""
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.fault("classes is no list of names")
        wrong = (values < -1) | (values >= len(names))
        if wrong.any():
            vertex = int(np.argmax(wrong.any(axis=1)))
            raise self.fault(f"found label {values[wrong][0]} of {len(names)} classes", vertex)
        known = dict(zip(self.classes.names, self.classes.ids, strict=True))
        return np.array([*(known.get(name, NO_CLASS) for name in names), NO_CLASS])[values]

    def fault(self, message: str, vertex: int | None = None) -> FormatError:
        """Return the error of the record, or of one of its points."""
        place = "" if vertex is None else f"point {vertex}: "
        return FormatError(f"{place}{message}", file=self.source, line=self.lines[0].number)

    def entries(self) -> Entries:
        """Return what was read, for the digest."""
        path = tensor_file(self.lines[0].record["tensor"], self._folders)
        return [stream_entry(self.scene, self.lines), *([] if path is None else [(path.name, file_sha256(path))])]


def label_files(sources: list[str]) -> dict[str, Path] | None:
    """Return the prediction file of every scene, known before any is read; None when `sources` are streams.

    raises  InputError when there is none, UsageError for streams beside files
    """
    is_stream = [holds_stream(source) for source in sources]
    if all(is_stream):
        return None
    if any(is_stream):
        other = sources[is_stream.index(False)]
        raise UsageError(f"{other} is no stream: expected streams, or text files and folders of them")
    return semantic_labels.find_predictions(sources)


def stream_labels(sources: list[str], classes: ClassList, *, allow_truncated: bool) -> Iterator[StreamLabels]:
    """Yield the scenes of streams; raises InputError when none of them has labels."""
    has_any = False
    for records in stream_scenes(sources, _semantic, allow_truncated=allow_truncated):
        if records.scene is not None:
            has_any |= bool(records.kept) or not records.ok
            yield StreamLabels(records, classes)
    if not has_any:
        raise InputError("holds no labels3d record of kind semantic", file=STDIN if sources[0] == "-" else sources[0])


def _semantic(line: Line) -> Line | None:
    return line if line.type == "labels3d" and line.record.get("kind", "semantic") == "semantic" else None
