# SPDX-License-Identifier: Apache-2.0
"""SemanticKITTI labels: `sequences/NN/{labels,predictions}/*.label`, one little-endian uint32 a point.

The low 16 bits are the raw label, the high 16 the instance.  `semantickitti_labels.tsv` maps raw labels to the classes
of the two tasks: 19 of single scans, and 25 of several scans, where moving things are classes of their own.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError, InputError

LABEL_BITS = np.uint32(0xFFFF)
_MERGED = ("bus", "on-rails")  # they are other vehicles, and do not name the class
_SEQUENCE = re.compile(r"[0-9]{2}")


@dataclass(frozen=True)
class LabelMap:
    """Classes of a task.

    names       of classes 1 to C
    raw_labels  (R,) int64, all that the data set defines, sorted
    class_ids   (R,) int64, the class of each, 0 for what is not scored
    """

    names: tuple[str, ...]
    raw_labels: np.ndarray
    class_ids: np.ndarray

    @property
    def num_raw(self) -> int:
        """One more than the largest raw label."""
        return int(self.raw_labels[-1]) + 1


def label_map(task: str) -> LabelMap:
    """Return the classes of "single" (19) or "multi" (25), called as the raw label that others merge into."""
    lines = Path(__file__).with_name("semantickitti_labels.tsv").read_text(encoding="utf-8").splitlines()
    header, *rows = [line.split("\t") for line in lines if not line.startswith("#")]
    raw_labels, class_ids = (np.array([int(row[column]) for row in rows]) for column in (0, header.index(f"{task}_id")))
    chosen: dict[int, tuple[int, str]] = {}
    for raw, number, row in zip(raw_labels.tolist(), class_ids.tolist(), rows, strict=True):
        if number not in chosen or chosen[number][1].endswith(_MERGED):
            chosen[number] = (raw, row[1])
    names = tuple(chosen[number][1] for number in sorted(chosen) if number)
    return LabelMap(names, raw_labels, class_ids)


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


def read_labels(path: Path) -> np.ndarray:
    """Read the (N,) uint32 of the points, label in the bits of `LABEL_BITS`, instance above.

    raises  InputError when it cannot be read, FormatError when it does not hold whole numbers of four bytes
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe or a device may never end
            raise InputError("cannot read it: not a regular file", file=path)
        points = np.fromfile(path, "<u4")  # a third of the time that read_bytes takes
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", file=path) from None
    if points.nbytes != about.st_size:
        raise FormatError(f"{about.st_size} bytes, expected a multiple of 4: one uint32 a point", file=path)
    return points


def check_labels(points: np.ndarray, labels: LabelMap, path: Path) -> None:
    """Refuse raw labels that the table does not list; points (N,) as `read_labels` gives them.

    raises  FormatError naming the first
    """
    raw = points & LABEL_BITS
    is_known = np.isin(raw, labels.raw_labels)
    if not is_known.all():
        point = int(np.argmin(is_known))
        problem = f"point {point} has raw label {raw[point]}, which SemanticKITTI does not define"
        raise FormatError(problem, file=path, hint="predictions hold raw labels, not training ids")


def write_labels(path: Path, raw: np.ndarray) -> None:
    """Write (N,) raw labels, instance 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.asarray(raw).astype("<u4").tobytes())
