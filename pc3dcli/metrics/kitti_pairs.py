# SPDX-License-Identifier: Apache-2.0
"""Which detections overlap which ground truth enough to match, by KITTI's three overlaps (evaluation.md 4.2, 4.3).

Overlaps are computed once, for pairs of one frame that some class and difficulty can match; only those above the
class's threshold are kept, so that matching works on a short list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pc3dcli.metrics.rotated_iou import intersection_area

CLASSES = ("Car", "Pedestrian", "Cyclist")
KINDS = ("car", "pedestrian", "cyclist", "van", "person_sitting", "dontcare", "other")
DONT_CARE = KINDS.index("dontcare")
OVERLAPS = ("bbox", "bev", "3d")
STRICT = {"bbox": (0.7, 0.5, 0.5), "bev": (0.7, 0.5, 0.5), "3d": (0.7, 0.5, 0.5)}  # by class
LOOSE = {"bbox": (0.7, 0.5, 0.5), "bev": (0.5, 0.25, 0.25), "3d": (0.5, 0.25, 0.25)}
EASY_HEIGHT = 40  # pixels; below it a detection can be an ignored one, whatever its type
_CLASS_OF = np.array([0, 1, 2, 0, 1, -1, -1])  # kind -> the class it is of or a neighbour of
_AT_ONCE = 1 << 14  # pairs; bounds memory, ours


@dataclass(frozen=True)
class Boxes:
    """Objects of all frames, frame after frame, in file order.

    frame   (N,) int64 ascending index of the frame
    kind    (N,) int64 index in KINDS
    values  (N, 14 or 15) float64: truncated occluded alpha x1 y1 x2 y2 h w l x y z rotation_y [score], pixels,
            metres and radians in the camera's frame
    """

    frame: np.ndarray
    kind: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.frame)

    truncation = property(lambda self: self.values[:, 0])
    occlusion = property(lambda self: self.values[:, 1])
    alpha = property(lambda self: self.values[:, 2])
    image_box = property(lambda self: self.values[:, 3:7])
    image_height = property(lambda self: self.values[:, 6] - self.values[:, 4])
    depth = property(lambda self: self.values[:, 12])
    score = property(lambda self: self.values[:, 14])
    class_index = property(lambda self: _CLASS_OF[self.kind])


@dataclass(frozen=True)
class Pairs:
    """Pairs above the threshold: truth and found (P,) int64 rows ascending by (truth, found), overlap (P,) float64."""

    truth: np.ndarray
    found: np.ndarray
    overlap: np.ndarray


def matching_pairs(
    truth: Boxes, found: Boxes, thresholds: dict[str, tuple[float, ...]]
) -> dict[str, tuple[Pairs, Pairs, Pairs]]:
    """Return for each of OVERLAPS the pairs of each class whose overlap exceeds its threshold.

    thresholds  STRICT or LOOSE
    """
    rows = np.flatnonzero(truth.class_index >= 0)
    kept: dict[str, list[list[tuple]]] = {name: [[], [], []] for name in OVERLAPS}
    is_low = np.abs(found.image_height) < EASY_HEIGHT
    for i, j in _same_frame(truth.frame, rows, found.frame):
        of_class = truth.class_index[i]
        can_match = (found.kind[j] == of_class) | is_low[j]
        i, j, of_class = i[can_match], j[can_match], of_class[can_match]
        for name, overlap in _overlaps(truth.values[i], found.values[j]).items():
            above = np.array(thresholds[name])[of_class] < overlap
            for c in range(len(CLASSES)):
                keep = np.flatnonzero(above & (of_class == c))
                kept[name][c].append((i[keep], j[keep], overlap[keep]))
    return {name: tuple(_joined(parts) for parts in kept[name]) for name in OVERLAPS}


def excused_by_dont_care(
    truth: Boxes, found: Boxes, thresholds: dict[str, tuple[float, ...]], names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Return for each of OVERLAPS (M,) bool: a DontCare covers more than the threshold of the detection.

    names  the overlaps in which DontCare counts; in the others nothing is excused
    """
    excused = {name: np.zeros(len(found), bool) for name in OVERLAPS}
    rows = np.flatnonzero(truth.kind == DONT_CARE)
    for i, j in _same_frame(truth.frame, rows, found.frame):
        has_class = found.kind[j] < len(CLASSES)
        i, j = i[has_class], j[has_class]
        for name, overlap in _overlaps(truth.values[i], found.values[j], names, is_cover=True).items():
            excused[name][j[np.array(thresholds[name])[found.kind[j]] < overlap]] = True
    return excused


def image_pairs(truth: Boxes, found: Boxes, rows: np.ndarray, is_used: np.ndarray, threshold: float) -> Pairs:
    """Return the pairs of any kinds whose boxes in the image overlap by more than `threshold`.

    rows     (R,) ascending rows of `truth`; is_used (M,) bool
    """
    kept = []
    for i, j in _same_frame(truth.frame, rows, found.frame):
        overlap = _image_overlap(truth.image_box[i], found.image_box[j], False)
        keep = np.flatnonzero((overlap > threshold) & is_used[j])
        kept.append((i[keep], j[keep], overlap[keep]))
    return _joined(kept)


def _same_frame(
    truth_frame: np.ndarray, rows: np.ndarray, found_frame: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (truth rows, detection rows) of all pairs within a frame, ascending, a bounded number at a time."""
    first = np.searchsorted(found_frame, truth_frame[rows], "left")
    count = np.searchsorted(found_frame, truth_frame[rows], "right") - first
    ends = np.cumsum(count)
    start = 0
    while start < len(rows):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _AT_ONCE, "right")))
        part = count[start:stop]
        place = np.arange(part.sum()) - np.repeat(np.cumsum(part) - part, part)
        yield np.repeat(rows[start:stop], part), np.repeat(first[start:stop], part) + place
        start = stop


def _overlaps(
    truth: np.ndarray, found: np.ndarray, names: Sequence[str] = OVERLAPS, *, is_cover: bool = False
) -> dict[str, np.ndarray]:
    """Return (P,) overlaps of each name: intersection over union, or over the detection with `is_cover`."""
    overlaps = {"bbox": _image_overlap(truth[:, 3:7], found[:, 3:7], is_cover)}
    if "bev" not in names:
        return overlaps
    shared = intersection_area(_ground_box(truth), _ground_box(found))
    meet = np.flatnonzero(shared > 0)  # most pairs do not; what follows is for those that do
    truth, found, shared = truth[meet], found[meet], shared[meet]
    truth_area, found_area = np.abs(truth[:, 8] * truth[:, 9]), np.abs(found[:, 8] * found[:, 9])
    bottom = np.minimum(truth[:, 11], found[:, 11])  # y points down: the bottom has the larger y
    top = np.maximum(truth[:, 11] - truth[:, 7], found[:, 11] - found[:, 7])
    shared_volume = shared * np.maximum(0.0, bottom - top)
    truth_volume, found_volume = (box[:, 7] * box[:, 9] * box[:, 8] for box in (truth, found))
    whole_area = found_area if is_cover else truth_area + found_area - shared
    whole_volume = found_volume if is_cover else found_volume + truth_volume - shared_volume
    for name, part, whole in (("bev", shared, whole_area), ("3d", shared_volume, whole_volume)):
        overlaps[name] = np.zeros(len(overlaps["bbox"]))
        overlaps[name][meet] = _ratio(part, whole)
    return overlaps


def _image_overlap(truth: np.ndarray, found: np.ndarray, is_cover: bool) -> np.ndarray:
    """Return (P,) overlaps of boxes (P, 4) in the image, x1 y1 x2 y2."""
    width = np.minimum(truth[:, 2], found[:, 2]) - np.maximum(truth[:, 0], found[:, 0])
    height = np.minimum(truth[:, 3], found[:, 3]) - np.maximum(truth[:, 1], found[:, 1])
    shared = np.where((width > 0) & (height > 0), width * height, 0.0)
    truth_area, found_area = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (truth, found))
    # the order of the sum is the official program's: at a threshold the last bit decides
    return _ratio(shared, found_area if is_cover else found_area + truth_area - shared)


def _ground_box(values: np.ndarray) -> np.ndarray:
    """Return (N, 5) rectangles in the x, z plane; rotation_y turns from x away from z."""
    return np.stack([values[:, 10], values[:, 12], values[:, 9], values[:, 8], -values[:, 13]], axis=1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=(part > 0) & (whole != 0))


def _joined(parts: list[tuple]) -> Pairs:
    if not parts:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
