# SPDX-License-Identifier: Apache-2.0
"""Boxes of the nuScenes detection task: which are scored, and which prediction takes which annotation.

evaluation.md 3.3 and 3.4; Caesar et al., nuScenes: A multimodal dataset for autonomous driving, 2020, section 3.1.
Samples do not affect each other, so all of them and all classes are matched at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

CLASS_RANGE = {  # metres from the ego vehicle
    "car": 50.0,
    "truck": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "construction_vehicle": 50.0,
    "pedestrian": 40.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "traffic_cone": 30.0,
    "barrier": 30.0,
}
CLASSES = tuple(CLASS_RANGE)
DISTANCES = (0.5, 1.0, 2.0, 4.0)  # metres between centres
MAX_PAIRS = 1 << 20  # pairs of a prediction and an annotation held at a time; ours
_BIKES = [CLASSES.index("motorcycle"), CLASSES.index("bicycle")]
_NEAR_FACE = 1e-6  # metres, scaled by the rack's size; ours


@dataclass(frozen=True)
class Boxes:
    """Boxes of all samples, in the global frame.

    sample     (N,) int32, index of the sample
    label      (N,) int8, index in CLASSES
    center     (N, 3) float64 metres; size (N, 3) float64 width, length, height in metres
    yaw        (N,) float64 radians
    velocity   (N, 2) float64 metres per second, NaN where unknown
    attribute  (N,) int16, -1 for none
    score      (N,) float64, of no meaning for annotations
    """

    sample: np.ndarray
    label: np.ndarray
    center: np.ndarray
    size: np.ndarray
    yaw: np.ndarray
    velocity: np.ndarray
    attribute: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return self.sample.size

    def take(self, index: np.ndarray) -> Boxes:
        """Return the boxes of an index or a mask, in its order."""
        return Boxes(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


@dataclass(frozen=True)
class Racks:
    """Bicycle racks: sample (R,) int32, center (R, 3), size (R, 3) as of Boxes, rotation (R, 4) w x y z."""

    sample: np.ndarray
    center: np.ndarray
    size: np.ndarray
    rotation: np.ndarray


def ego_distance(boxes: Boxes, ego: np.ndarray) -> np.ndarray:
    """Return the (N,) distances in the ground plane from the ego positions (samples, 2)."""
    offset = boxes.center[:, :2] - ego[boxes.sample]
    return _length(offset)


def in_class_range(boxes: Boxes, distance: np.ndarray) -> np.ndarray:
    """Tell for each box whether it is nearer than the range of its class, strictly."""
    return distance < np.array(list(CLASS_RANGE.values()))[boxes.label]


def in_rack(boxes: Boxes, racks: Racks) -> np.ndarray:
    """Tell for each box whether it is a bicycle or motorcycle whose centre is in a rack, faces included."""
    inside = np.zeros(len(boxes), bool)
    bikes = np.flatnonzero(np.isin(boxes.label, _BIKES) & np.isin(boxes.sample, racks.sample))
    for bike, rack in _pairs_of_groups(boxes.sample[bikes], racks.sample):
        bike = bikes[bike]
        rotation = rotation_matrices(racks.rotation)[rack]
        offset = boxes.center[bike] - racks.center[rack]
        local = np.einsum("nji,nj->ni", rotation, offset)
        half = racks.size[rack][:, [1, 0, 2]] / 2  # length is along x
        gap = (half - np.abs(local)).min(axis=1)
        near = np.abs(gap) <= _NEAR_FACE * (1 + np.abs(half).max(axis=1))
        for row in np.flatnonzero(near):  # rounding decides there: do as the public scorer does
            gap[row] = _on_rack(racks.rotation[rack[row]], racks.center[rack[row]], half[row], boxes.center[bike[row]])
        inside[bike[gap >= 0]] = True
    return inside


def _on_rack(quaternion: np.ndarray, center: np.ndarray, half: np.ndarray, point: np.ndarray) -> float:
    """Return 1 when a point is in a box by the products with three of its edges, else -1.

    Written so that each operation rounds as that of the public scorer: two products of 4 x 4 matrices for the
    rotation, all eight corners in one product.
    """
    x = half[0] * np.array([1, 1, 1, 1, -1, -1, -1, -1])
    y = half[1] * np.array([1, -1, -1, 1, 1, -1, -1, 1])
    z = half[2] * np.array([1, 1, -1, -1, 1, 1, -1, -1])
    corners = np.dot(_rounded_rotation(quaternion), np.vstack([x, y, z])) + center[:, None]
    offset = (point - corners[:, 0])[:, None]
    for neighbour in (4, 1, 3):
        edge = corners[:, neighbour] - corners[:, 0]
        along = np.dot(edge, offset)[0]
        if not 0 <= along <= np.dot(edge, edge):
            return -1.0
    return 1.0


def _rounded_rotation(quaternion: np.ndarray) -> np.ndarray:
    """Return the (3, 3) matrix of a quaternion as the product of its left and right multiplication."""
    square = np.dot(quaternion, quaternion)
    if abs(1 - square) >= 1e-14 and square > 0:  # the scorer's quaternions count as units below it
        quaternion = quaternion / np.sqrt(square)
    w, x, y, z = quaternion
    left = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    right = np.array([[w, -x, -y, -z], [x, w, z, -y], [y, -z, w, x], [z, y, -x, w]])
    return np.dot(left, right.T)[1:, 1:]


def rotation_matrices(quaternion: np.ndarray) -> np.ndarray:
    """Return (N, 3, 3) matrices of quaternions (N, 4) in the order w x y z, of any length; zeros for zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        w, x, y, z = np.nan_to_num(quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    rows = (
        (w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z),
    )
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def quaternion_yaw(quaternion: np.ndarray) -> np.ndarray:
    """Return (N,) radians: the direction in the ground plane of the x axis turned by (N, 4) w x y z of any length."""
    w, x, y, z = (quaternion / np.maximum(np.abs(quaternion).max(axis=1, keepdims=True, initial=0), 1e-300)).T
    return np.arctan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z)


def scoring_order(score: np.ndarray) -> np.ndarray:
    """Return the index that sorts by decreasing score, equal scores in reverse order (evaluation.md 3.4)."""
    return np.argsort(score, kind="stable")[::-1]


def match(truth: Boxes, predicted: Boxes) -> np.ndarray:
    """Match predictions, which stand in scoring order, to annotations of their class and sample.

    Each takes the nearest that is left, the first of equally near ones, if it is nearer than the limit.
    returns (4, P) int32, index of the annotation at each of DISTANCES, -1 for none
    """
    pairs = pairs_within(truth, predicted)
    return np.stack([_greedy(*pairs, limit, (len(predicted), len(truth))) for limit in DISTANCES])


def pairs_within(truth: Boxes, predicted: Boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return prediction, annotation and distance of pairs nearer than 4 m, by prediction, distance, annotation."""
    found = []
    for chosen, partner in _pairs_of_groups(_group(predicted), _group(truth)):
        distance = _length(predicted.center[chosen, :2] - truth.center[partner, :2])
        near = np.flatnonzero(distance < DISTANCES[-1])
        near = near[np.lexsort((partner[near], distance[near], chosen[near]))]
        found.append((chosen[near], partner[near], distance[near]))
    if not found:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0)
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def _group(boxes: Boxes) -> np.ndarray:
    return boxes.sample.astype(np.int64) * len(CLASSES) + boxes.label


def _pairs_of_groups(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (index in left, index in right) of all pairs of equal numbers, MAX_PAIRS at a time, in order of left."""
    sizes = np.bincount(right, minlength=int(left.max(initial=-1)) + 1)
    order = np.argsort(right, kind="stable").astype(np.int32)
    first = (np.cumsum(sizes) - sizes)[left]
    counts = sizes[left]
    rows = np.flatnonzero(counts)
    first, counts = first[rows], counts[rows]
    stops = np.cumsum(counts)
    begin = 0
    while begin < rows.size:
        done = stops[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(stops, done + MAX_PAIRS, "right")))
        part = counts[begin:end]
        start = first[begin:end] - (stops[begin:end] - part - done)  # minus the pairs before
        yield np.repeat(rows[begin:end], part), order[np.repeat(start, part) + np.arange(part.sum())]
        begin = end


def _greedy(
    chosen: np.ndarray, partner: np.ndarray, distance: np.ndarray, limit: float, shape: tuple[int, int]
) -> np.ndarray:
    """Return (P,) int32, the annotation that each prediction takes when they choose in turn.

    A prediction whose nearest annotation is within reach of no earlier one that is still to choose takes it: whatever
    those do, it is left.  The first one always is of that kind, so that each round settles some.
    """
    taken = np.full(shape[0], -1, np.int32)
    earliest = np.zeros(shape[1], np.int32)
    is_left = np.ones(shape[1], bool)
    near = distance < limit
    chosen, partner = chosen[near], partner[near]
    while chosen.size:
        is_nearest = np.concatenate([[True], chosen[1:] != chosen[:-1]])
        earliest[partner[::-1]] = chosen[::-1]  # the last assignment stays: the first prediction
        settled = is_nearest & (earliest[partner] == chosen)
        taken[chosen[settled]] = partner[settled]
        is_left[partner[settled]] = False
        open_rows = is_left[partner] & (taken[chosen] < 0)
        chosen, partner = chosen[open_rows], partner[open_rows]
    return taken


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(vectors[:, 0] * vectors[:, 0] + vectors[:, 1] * vectors[:, 1])
