# SPDX-License-Identifier: Apache-2.0
"""Parametric shapes in twelve classes: one of three bases with one of four small details on top of it.

The details hold 18 % of the points and alone tell four classes of one base apart, so that what a network learns about
small geometry decides how well it classifies.  Recipe and sizes: the small experiment of the GeoMask3D notes, section
6.3.  Ours: details stand upright on the surface of the base, pegs 0.3 apart, an ellipsoid is sampled before it is
flattened, base and detail points are mixed at random, parts are 0 (base) and 1 (detail).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

BASES = ("box", "cylinder", "sphere")
DETAILS = ("handle", "cone", "fin", "pegs")
CLASSES = tuple(f"{base}-{detail}" for base in BASES for detail in DETAILS)
PARTS = ("base", "detail")
DETAIL_SHARE = 0.18  # of the points
NOISE = 0.008  # standard deviation before the shape is scaled to radius 1
_HANDLE_RADIUS, _HANDLE_TUBE = 0.22, 0.05
_PEG_DISTANCE = 0.3  # between the axes of the two pegs; ours


@dataclass(frozen=True)
class Shapes:
    """Shapes of equal size.

    points  (S, N, 3) float32, z up, centroid 0, largest norm 1
    label   (S,) int64 into CLASSES
    part    (S, N) uint8 into PARTS
    """

    points: np.ndarray
    label: np.ndarray
    part: np.ndarray


def make_shapes(num: int, seed: int | tuple[int, ...], num_points: int = 1024) -> Shapes:
    """Draw `num` shapes, classes as even as possible and in random order; the same arguments give the same shapes."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(num) % len(CLASSES))
    num_detail = round(DETAIL_SHARE * num_points)
    base, top, offset = _draw_bases(label // len(DETAILS), num_points - num_detail, rng)
    detail = _draw_details(label % len(DETAILS), num_detail, rng)
    detail[..., :2] += offset[:, None]
    detail[..., 2] += top[:, None]
    points = np.concatenate((base, detail), axis=1)  # (S, N, 3)
    points = _rotate_z(points, rng.uniform(0, 2 * np.pi, num)) + rng.normal(0, NOISE, points.shape)
    order = rng.permuted(np.broadcast_to(np.arange(num_points), (num, num_points)), axis=1)
    points = np.take_along_axis(points, order[..., None], axis=1)
    points -= points.mean(axis=1, keepdims=True)
    points /= np.linalg.norm(points, axis=2).max(axis=1)[:, None, None]
    return Shapes(points.astype(np.float32), label, (order >= num_points - num_detail).astype(np.uint8))


def write_shapes(file: Path | BinaryIO, shapes: Shapes, name: str = "shape") -> None:
    """Write shapes as one .npz: points, label, part, class_names, part_names and id, `name`_00000 and so on."""
    np.savez(
        file,
        points=shapes.points,
        label=shapes.label.astype(np.uint8),
        part=shapes.part,
        class_names=np.array(CLASSES),
        part_names=np.array(PARTS),
        id=np.array([f"{name}_{index:05d}" for index in range(len(shapes.label))]),
    )


def _draw_bases(kind: np.ndarray, num_points: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return points (S, n, 3), the height (S,) of the surface below the detail and the detail's (x, y) (S, 2)."""
    num = len(kind)
    points, top = np.empty((num, num_points, 3)), np.empty(num)
    offset = rng.uniform(-0.25, 0.25, (num, 2))
    box, cylinder, sphere = (np.flatnonzero(kind == index) for index in range(len(BASES)))
    size = np.column_stack([rng.uniform(0.8, 1.4, (len(box), 2)), rng.uniform(0.25, 0.5, len(box))])
    points[box], top[box] = _on_box(size, num_points, rng), size[:, 2] / 2
    radius, height = rng.uniform(0.4, 0.7, len(cylinder)), rng.uniform(0.5, 1.0, len(cylinder))
    points[cylinder], top[cylinder] = _on_cylinder(radius, height, num_points, rng), height / 2
    radius, flat = rng.uniform(0.5, 0.8, len(sphere)), rng.uniform(0.6, 0.9, len(sphere))
    ball = rng.normal(size=(len(sphere), num_points, 3))
    ball *= (radius[:, None] / np.linalg.norm(ball, axis=2))[..., None]
    ball[..., 2] *= flat[:, None]
    points[sphere] = ball
    top[sphere] = flat * np.sqrt(radius**2 - (offset[sphere] ** 2).sum(axis=1))  # offsets reach 0.36, radii start at .5
    return points, top, offset


def _draw_details(kind: np.ndarray, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Return points (S, n, 3) of details that stand on the plane z = 0 around the origin."""
    points = np.empty((len(kind), num_points, 3))
    counts = [int((kind == index).sum()) for index in range(len(DETAILS))]
    points[kind == 0] = _on_half_torus(counts[0], num_points, rng)
    points[kind == 1] = _on_cone(counts[1], 0.18, 0.35, num_points, rng)
    points[kind == 2] = _on_box(np.tile((0.3, 0.12, 0.3), (counts[2], 1)), num_points, rng) + (0, 0, 0.15)
    pegs = _on_cylinder(np.full(counts[3], 0.06), np.full(counts[3], 0.35), num_points, rng) + (0, 0, 0.175)
    pegs[..., 0] += rng.choice((-_PEG_DISTANCE / 2, _PEG_DISTANCE / 2), pegs.shape[:2])
    points[kind == 3] = pegs
    return points * rng.uniform(0.8, 1.2, len(kind))[:, None, None]


def _on_box(size: np.ndarray, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Draw points uniformly on boxes around the origin, size (S, 3) -> (S, n, 3)."""
    S = len(size)
    points = rng.uniform(-0.5, 0.5, (S, num_points, 3))
    area = np.stack((size[:, 1] * size[:, 2], size[:, 0] * size[:, 2], size[:, 0] * size[:, 1]), axis=1)
    share = np.cumsum(area, axis=1) / area.sum(axis=1, keepdims=True)
    axis = (rng.random((S, num_points))[..., None] > share[:, None, :2]).sum(axis=2)
    side = rng.choice((-0.5, 0.5), (S, num_points))
    np.put_along_axis(points, axis[..., None], side[..., None], axis=2)
    return points * size[:, None]


def _on_cylinder(radius: np.ndarray, height: np.ndarray, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Draw points uniformly on closed upright cylinders around the origin, radius and height (S,) -> (S, n, 3)."""
    shape = (len(radius), num_points)
    angle = rng.uniform(0, 2 * np.pi, shape)
    is_cap = rng.random(shape) < (radius / (radius + height))[:, None]  # 2 pi r^2 of 2 pi r (r + h)
    distance = np.where(is_cap, np.sqrt(rng.random(shape)), 1.0) * radius[:, None]
    side = rng.choice((-0.5, 0.5), shape)
    z = np.where(is_cap, side, rng.uniform(-0.5, 0.5, shape)) * height[:, None]
    return np.stack((distance * np.cos(angle), distance * np.sin(angle), z), axis=2)


def _on_cone(num: int, radius: float, height: float, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Draw points uniformly on the side of upright cones, (num, n, 3)."""
    share = np.sqrt(rng.random((num, num_points)))  # of the way down from the tip
    angle = rng.uniform(0, 2 * np.pi, share.shape)
    return np.stack((radius * share * np.cos(angle), radius * share * np.sin(angle), height * (1 - share)), axis=2)


def _on_half_torus(num: int, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Draw points uniformly on half rings that stand in the plane y = 0, (num, n, 3)."""
    shape = (num, num_points)
    along, around = rng.uniform(0, np.pi, shape), rng.uniform(0, 2 * np.pi, shape)
    # the area is larger outside: a point stays with (1 + t/R cos) / 2, else it goes to the opposite side of the tube
    is_kept = rng.random(shape) < 0.5 * (1 + _HANDLE_TUBE / _HANDLE_RADIUS * np.cos(around))
    around = np.where(is_kept, around, around + np.pi)
    distance = _HANDLE_RADIUS + _HANDLE_TUBE * np.cos(around)
    return np.stack((distance * np.cos(along), _HANDLE_TUBE * np.sin(around), distance * np.sin(along)), axis=2)


def _rotate_z(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y, z = np.moveaxis(points, 2, 0)
    return np.stack((cos * x - sin * y, sin * x + cos * y, z), axis=2)
