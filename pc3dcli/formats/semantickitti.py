# SPDX-License-Identifier: Apache-2.0
"""SemanticKITTI labels: `sequences/NN/{labels,predictions}/*.label`, one little-endian uint32 a point.

The low 16 bits are the raw label, the high 16 the instance.  `semantickitti_labels.tsv` maps raw labels to the classes
of the two tasks: 19 of single scans, and 25 of several scans, where moving things are classes of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError, InputError

UNKNOWN = 255  # class id of raw labels that the table does not list
_MAX_RAW = 1 << 16
_MERGED = ("bus", "on-rails")  # they are other vehicles, and do not name the class
_SEQUENCE = re.compile(r"[0-9]{2}")


@dataclass(frozen=True)
class LabelMap:
    """Classes of a task.

    names     of classes 1 to C
    class_id  (65536,) uint8: raw label -> class id, 0 for what is not scored, `UNKNOWN`
    raw_ids   (C,) a raw label that stands for each class, for writers
    """

    names: tuple[str, ...]
    class_id: np.ndarray
    raw_ids: tuple[int, ...]


def label_map(task: str) -> LabelMap:
    """Return the classes of "single" (19) or "multi" (25), called as the raw label that others merge into."""
    lines = Path(__file__).with_name("semantickitti_labels.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    column = rows[0].index(f"{task}_id")
    class_id = np.full(_MAX_RAW, UNKNOWN, np.uint8)
    chosen: dict[int, tuple[int, str]] = {}
    for row in rows[1:]:
        raw, number = int(row[0]), int(row[column])
        class_id[raw] = number
        if number not in chosen or chosen[number][1].endswith(_MERGED):
            chosen[number] = (raw, row[1])
    ordered = [chosen[number] for number in sorted(chosen) if number]
    return LabelMap(tuple(name for _, name in ordered), class_id, tuple(raw for raw, _ in ordered))


def find_scans(root: Path, folder: str, sequences: tuple[str, ...] | None = None) -> dict[str, Path]:
    """Return the label files of the sequences, by "NN/<stem>", sorted.

    root       holds `sequences/NN/<folder>/*.label`, or is that `sequences`
    sequences  two digits each; None for all that have such a folder
    raises     InputError when there is none, or a named sequence has none
    """
    base = root / "sequences" if (root / "sequences").is_dir() else root
    if not base.is_dir():
        raise InputError("no such folder", file=root)
    names = sequences or sorted(path.name for path in base.iterdir() if _SEQUENCE.fullmatch(path.name))
    found: dict[str, Path] = {}
    for name in names:
        files = sorted((base / name / folder).glob("*.label"))
        if sequences and not files:
            raise InputError(f"no labels of sequence {name}; tried {name}/{folder}/*.label", file=base)
        found |= {f"{name}/{path.stem}": path for path in files}
    if not found:
        raise InputError(f"no labels; tried sequences/NN/{folder}/*.label", file=root)
    return found


def read_raw_labels(path: Path) -> np.ndarray:
    """Read the raw label of each point, (N,) uint16.

    raises  FormatError when the file does not hold whole numbers of four bytes
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", file=path) from None
    if len(data) % 4:
        raise FormatError(f"{len(data)} bytes, expected a multiple of 4: one uint32 a point", file=path)
    return np.frombuffer(data, "<u2")[::2]


def class_ids(raw: np.ndarray, labels: LabelMap, path: Path) -> np.ndarray:
    """Return (N,) uint8 class ids of (N,) uint16 raw labels.

    raises  FormatError naming the first raw label that the table does not list
    """
    ids = labels.class_id.take(raw)
    if ids.size and ids.max() == UNKNOWN:
        point = int(np.argmax(ids == UNKNOWN))
        problem = f"point {point} has raw label {raw[point]}, which SemanticKITTI does not define"
        raise FormatError(problem, file=path, hint="predictions hold raw labels, not training ids")
    return ids


def write_labels(path: Path, raw: np.ndarray) -> None:
    """Write (N,) raw labels, instance 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.asarray(raw).astype("<u4").tobytes())
