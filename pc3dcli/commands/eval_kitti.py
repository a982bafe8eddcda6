# SPDX-License-Identifier: Apache-2.0
"""`eval --task kitti`: read label and result files of the frames that are scored (evaluation.md section 4).

The rules of the numbers are in `metrics/kitti_pairs.py` and `metrics/kitti_ap.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pc3dcli.commands.eval_kitti_result import Scored, evaluation_of
from pc3dcli.commands.eval_kitti_result import metric_names as result_names
from pc3dcli.commands.evaluation import Entries, Evaluation, Request, check_partners, named, parse_ranges
from pc3dcli.commands.inputs import is_stream
from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.formats import kitti_labels
from pc3dcli.formats.result_json import file_sha256
from pc3dcli.metrics.kitti_pairs import KINDS, Boxes

PRESETS = {
    "kitti": "the official program: an object exactly as high as the minimum counts",
    "kitti-py": "the ports to Python and numba: an object exactly as high as the minimum is ignored",
}
OPTIONS = frozenset(("split", "loose", "ranges", "per_scene", "confusion", "bootstrap", "seed", "allow_missing"))
MANUAL = """\
PREDICTIONS is one folder of result files NNNNNN.txt, or a folder that has them in data/; --gt is the folder of label
files, or one that has them in label_2/ or training/label_2/. --split FILE lists the frames to score, one id a line.

Average precision of Car, Pedestrian and Cyclist by three overlaps: bbox (boxes in the image), bev (rotated boxes on
the ground) and 3d; aos is the orientation similarity of bbox. Each at easy, moderate and hard. An overlap counts above
0.7 for cars, 0.5 for the others; --loose takes 0.5 for cars and 0.25 for the others in bev and 3d. The main number is
R40, the mean of the precision at 40 recall steps, which the benchmark uses since October 2019; R11, the mean of 11, is
what papers before that report, and the two must not be compared. Every value is in [0, 1].

Preset kitti is the official C++ program. Preset kitti-py is what its ports to Python do (kitti-object-eval-python and
the copies in detection toolboxes): they ignore objects exactly 25 or 40 pixels high. All else is equal, so that one of
the two presets fits every published table; a table of an unnamed script most often is of a port. Which published
numbers compare: the benchmark's tables, in percent, with preset kitti at R40.

Overlaps are exact to a few 1e-16. The program's geometry library is off by up to 3e-7 and most ports compute in single
precision, so that boxes whose overlap is the threshold itself may fall to either side there.

Odd rules that are kept. A detection lower than the minimum height is ignored whatever its type: it can be taken by an
object, which then is neither found nor missed. DontCare regions excuse false positives of bbox alone, since they have
no place in space; preset kitti, as the program, applies them wherever they have one. With fewer than 40 objects, or
when some are never found, the last recall steps have precision 0: perfect results on a few frames score below 1, and
R40 is lower than R11 there. One detection with alpha -10 leaves aos undefined. Where the program would divide by
zero, at a score with neither true nor false positives, the step has precision 0.

Undefined (null, "-") is a class without a counted object at that difficulty. A class without a detection scores 0 with
a warning; the program prints nothing for it. The program scores the frames that happen to have a result file; here a
frame without one is an error, or without detections under --allow-missing.

--ranges 0-30,30-50,50-80 (ours) repeats bev and 3d for objects at such depths z in metres, the lower limit included;
objects elsewhere are ignored, and detections elsewhere are no false positives. F1 of a frame (--per-scene, ours) is
taken at the score at which its class has the largest F1 over all frames, at moderate. --confusion (ours) matches boxes
in the image with overlap above 0.5 whatever their types, the best score first, above that score. --bootstrap draws
frames; the steps of recall are those of each resample.
"""
_KIND = {name: index for index, name in enumerate(KINDS)}
_OTHER = KINDS.index("other")


def metric_names(request: Request) -> list[str]:
    """Return the metrics that --fail-under knows; raises UsageError for ranges that are none."""
    _ranges(request)
    return result_names()


def run(request: Request) -> Evaluation:
    """Score a folder of result files against a folder of label files.

    raises  UsageError for more than one folder; InputError and FormatError for inputs
    """
    ranges = _ranges(request)
    if len(request.predictions) > 1:
        raise UsageError("KITTI results are one folder", hint="copy the result files of all parts into one")
    folder = Path(request.predictions[0])
    if is_stream(request.predictions[0]):
        hint = "write one NNNNNN.txt a frame, in a folder"
        raise InputError("a stream: box3d records have no image boxes, which KITTI scores by", file=folder, hint=hint)
    reader = _Reader(kitti_labels.find_labels(request.gt), kitti_labels.find_results(folder), request)
    frames, missing = reader.frames()
    for number, frame in enumerate(frames, 1):
        reader.read(frame, number - 1)
        request.progress(frame, number, len(frames))
    reader.check_types()
    scored = Scored(
        frames=frames,
        num_scored=len(frames) - len(missing),
        truth=reader.truth.boxes(),
        found=reader.found.boxes(),
        ranges=ranges,
        request=request,
        warnings=reader.warnings,
        digest_entries=reader.digest_entries(folder),
    )
    return evaluation_of(scored)


def _ranges(request: Request) -> dict[str, tuple[float, float]]:
    text = request.options["ranges"]
    return {} if text is None else parse_ranges(text)


@dataclass
class _Rows:
    """Objects of the frames read so far, frame by frame; the files they are from; types that KITTI does not have."""

    num_columns: int
    frame: list[np.ndarray] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    foreign: dict[str, tuple[Path, int]] = field(default_factory=dict)

    def add(self, path: Path, number: int, types: list[str], values: np.ndarray) -> None:
        self.files.append(path)
        if not types:
            return
        self.frame.append(np.full(len(types), number))
        self.values.append(values)
        for line, name in enumerate(types, 1):
            if name not in kitti_labels.TYPES:
                self.foreign.setdefault(name, (path, line))
            self.kind.append(_KIND.get(name, _OTHER))

    def boxes(self) -> Boxes:
        frame = np.concatenate([np.zeros(0, np.int64), *self.frame])
        values = np.concatenate([np.zeros((0, self.num_columns - 1)), *self.values])
        return Boxes(frame, np.array(self.kind, np.int64), values)


class _Reader:
    """Reads the frames of both sides into arrays."""

    def __init__(self, labels: dict[str, Path], results: dict[str, Path], request: Request) -> None:
        self.labels, self.results, self.request = labels, results, request
        self.truth, self.found = _Rows(len(kitti_labels.COLUMNS) - 1), _Rows(len(kitti_labels.COLUMNS))
        self.warnings: set[tuple[str, str, str]] = set()

    def frames(self) -> tuple[list[str], list[str]]:
        """Return the frames to score, sorted, and those of them without a result file.

        raises  InputError naming up to ten frames that one side lacks
        """
        frames, gt, split = list(self.labels), self.request.gt, self.request.options["split"]
        check_partners(self.labels, self.results, gt, allow_missing=True, what="frame")
        if split is not None:
            frames = kitti_labels.read_split(Path(split))
            lacking = [frame for frame in frames if frame not in self.labels]
            if lacking:
                raise InputError(f"{named(lacking, 'frame')} of {split} without labels", file=gt)
            outside = sorted(self.results.keys() - set(frames))
            if outside:
                detail = f"{named(outside, 'frame')} with results, not in {Path(split).name}"
                self.warnings.add(("outside-split", "", detail))
        results, allow_missing = self.results.keys() & set(frames), self.request.options["allow_missing"]
        missing = check_partners(frames, results, gt, allow_missing=allow_missing, what="frame")
        for frame in missing:
            self.warnings.add(("missing-frame", frame, "scored as a frame without detections"))
        return frames, missing

    def read(self, frame: str, number: int) -> None:
        """Read the two files of a frame."""
        label, result = self.labels[frame], self.results.get(frame)
        self.truth.add(label, number, *kitti_labels.read_labels(label))
        if result is not None:
            self.found.add(result, number, *kitti_labels.read_results(result))

    def check_types(self) -> None:
        """Refuse detections of a type that neither KITTI nor the labels have: most likely a misspelt one."""
        for name, (path, line) in self.found.foreign.items():
            if name not in self.truth.foreign:
                hint = f"KITTI's types: {', '.join(kitti_labels.TYPES)}"
                raise FormatError(f"unknown type {name!r}, which no label has", file=path, line=line, hint=hint)

    def digest_entries(self, folder: Path) -> tuple[Entries, Entries]:
        """Return (relative path, SHA-256) of the files read, where they are wanted."""
        if not self.request.has_digest:
            return [], []
        return tuple(
            [(path.relative_to(root).as_posix(), file_sha256(path)) for path in rows.files]
            for rows, root in ((self.truth, self.request.gt), (self.found, folder))
        )
