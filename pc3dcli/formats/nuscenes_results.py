# SPDX-License-Identifier: Apache-2.0
"""Read nuScenes detection submissions: one JSON object of `meta` and `results` (evaluation.md 3.1).

Boxes are in the global frame, sizes width, length, height, rotations quaternions w x y z.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError
from pc3dcli.formats.json_window import Batch, JsonWindow
from pc3dcli.formats.nuscenes_tables import ATTRIBUTES

MAX_BOXES = 500  # of one sample
_BATCH = 512  # boxes turned into arrays at a time; ours
META = ("use_camera", "use_lidar", "use_radar", "use_map", "use_external")


@dataclass(frozen=True)
class Submission:
    """What a submission holds.

    samples  tokens of `results` in the order of the file, those without boxes too
    boxes    columns sample (index in `samples`), label, center, size, rotation, velocity, attribute, score
    meta     what the predictions were made with
    """

    samples: tuple[str, ...]
    boxes: dict[str, np.ndarray]
    meta: dict[str, bool]


def read_submission(
    path: Path, classes: Sequence[str], progress: Callable[[str], None] = lambda token: None
) -> Submission:
    """Read a submission; labels are positions in `classes`.

    progress  called with the token of each sample
    raises    FormatError naming the line where the list of the sample at fault starts
    """
    meta, found = None, None
    with JsonWindow(path) as window:
        for key in window.members():
            if key == "meta":
                meta = _meta(window)
            elif key == "results":
                found = _results(window, classes, progress)
            else:
                window.value()
        window.finish()
    for name, value in (("meta", meta), ("results", found)):
        if value is None:
            raise FormatError(f"lacks {name!r}, expected a submission of meta and results", file=path)
    return Submission(*found, meta)


def _meta(window: JsonWindow) -> dict[str, bool]:
    line = window.line
    meta = window.value()
    if not isinstance(meta, dict):
        raise FormatError("meta is no object", file=window.path, line=line)
    for name, value in meta.items():
        if name in META and not isinstance(value, bool):
            raise FormatError(f"meta {name} is {value!r:.40}, expected true or false", file=window.path, line=line)
    return {name: meta[name] for name in META if name in meta}


def _results(
    window: JsonWindow, classes: Sequence[str], progress: Callable[[str], None]
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    pending = _Boxes(window.path, classes)
    for token in window.members():
        window.next_character()
        line = window.line
        boxes = window.value()
        if not isinstance(boxes, list):
            raise FormatError(f"sample {token} has no list of boxes", file=window.path, line=line)
        if len(boxes) > MAX_BOXES:
            problem = f"sample {token} has {len(boxes)} boxes, expected {MAX_BOXES} at most"
            raise FormatError(problem, file=window.path, line=line)
        pending.add(token, boxes, line)
        progress(token)
    return tuple(pending.tokens), pending.columns()


class _Boxes:
    """Boxes as they are read; a few thousand stand as objects, the rest as columns."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self.path = path
        self.tokens: list[str] = []
        self._labels = {name: code for code, name in enumerate(classes)}
        self._attributes = {"": -1} | {name: code for code, name in enumerate(ATTRIBUTES)}
        self._records: list = []
        self._samples: list[int] = []
        self._lines: list[int] = []
        self._parts: list[dict[str, np.ndarray]] = []

    def add(self, token: str, boxes: list, line: int) -> None:
        self._records += boxes
        self._samples += [len(self.tokens)] * len(boxes)
        self._lines += [line] * len(boxes)
        self.tokens.append(token)
        if len(self._records) >= _BATCH:
            self._convert()

    def columns(self) -> dict[str, np.ndarray]:
        self._convert()
        return {name: np.concatenate([part.pop(name) for part in self._parts]) for name in list(self._parts[0])}

    def _convert(self) -> None:
        batch = Batch(self.path, self._lines.__getitem__, "box", self._records)
        batch.check_objects()
        for index, token in enumerate(batch.strings("sample_token")):
            if token != self.tokens[self._samples[index]]:
                raise batch.fault(index, f"a box of sample {self.tokens[self._samples[index]]} names {token}")
        size = batch.vectors("size", 3)
        for index in islice(np.flatnonzero(~(size > 0).all(axis=1)), 1):
            raise batch.fault(index, f"size is {size[index].tolist()}, expected more than 0")
        self._parts.append(
            {
                "sample": np.array(self._samples, np.int32),
                "label": batch.codes("detection_name", self._labels, "detection class").astype(np.int8),
                "center": batch.vectors("translation", 3),
                "size": size,
                "rotation": batch.vectors("rotation", 4),
                "velocity": batch.vectors("velocity", 2, allow_nan=True),
                "attribute": batch.codes("attribute_name", self._attributes, "attribute").astype(np.int16),
                "score": batch.scalars("detection_score"),
            }
        )
        self._records, self._samples, self._lines = [], [], []
