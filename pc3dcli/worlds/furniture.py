# SPDX-License-Identifier: Apache-2.0
"""A catalogue of furniture and small objects made of a few boxes, cylinders and ellipsoids.

Every builder draws one object with random proportions: origin on the floor in the middle of the footprint, z up, front
towards +y, metres.  Shapes of one part share a part index; all sizes are ours, after common furniture.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Shape:
    """One shape of an object: unit-shape kind, (3,) center, (3, 3) half-axes as columns, part index from 0."""

    kind: str
    center: np.ndarray
    axes: np.ndarray
    part: int


@dataclass
class Assembly:
    """The shapes of one object while it is built; `tops` are (center (3,), half extents (2,)) of support surfaces."""

    shapes: list[Shape] = field(default_factory=list)
    tops: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def box(self, part: int, center: tuple, size: tuple, pitch: float = 0.0) -> None:
        """Add a box of full `size`, leaning back by `pitch` radians about x."""
        c, s = np.cos(pitch), np.sin(pitch)
        rotation = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        self.shapes.append(Shape("box", np.array(center, float), rotation * (np.array(size) / 2), part))

    def cylinder(self, part: int, center: tuple, radius: float, length: float, along: str = "z") -> None:
        """Add a cylinder whose axis is "x", "y" or "z"."""
        order = {"x": [1, 2, 0], "y": [2, 0, 1], "z": [0, 1, 2]}[along]
        axes = np.eye(3)[:, order] * np.array([radius, radius, length / 2])
        self.shapes.append(Shape("cylinder", np.array(center, float), axes, part))

    def ellipsoid(self, part: int, center: tuple, size: tuple) -> None:
        """Add an ellipsoid of full `size`."""
        self.shapes.append(Shape("ellipsoid", np.array(center, float), np.diag(np.array(size) / 2), part))

    def top(self, center: tuple, half: tuple) -> None:
        """Declare a horizontal rectangle on which small objects can stand."""
        self.tops.append((np.array(center, float), np.array(half, float)))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the (3,) lowest and highest corner of the boxes around all shapes."""
        reach = np.array([np.abs(shape.axes).sum(axis=1) for shape in self.shapes])
        centers = np.array([shape.center for shape in self.shapes])
        return (centers - reach).min(axis=0), (centers + reach).max(axis=0)


def table(rng: np.random.Generator) -> Assembly:
    """Four legs under a rectangular top, or a pedestal under a round one."""
    item, height = Assembly(), rng.uniform(0.68, 0.78)
    if rng.random() < 0.35:
        radius = rng.uniform(0.4, 0.6)
        item.cylinder(0, (0, 0, height - 0.02), radius, 0.04)
        item.cylinder(1, (0, 0, height / 2), 0.05, height - 0.04)
        item.cylinder(1, (0, 0, 0.02), radius * 0.55, 0.04)
        item.top((0, 0, height), (radius * 0.6, radius * 0.6))
        return item
    w, d, leg = rng.uniform(0.9, 1.5), rng.uniform(0.6, 0.85), rng.uniform(0.05, 0.08)
    item.box(0, (0, 0, height - 0.02), (w, d, 0.04))
    _legs(item, 1, (w - leg, d - leg), leg, height - 0.04)
    item.top((0, 0, height), (w / 2 - 0.1, d / 2 - 0.1))
    return item


def chair(rng: np.random.Generator) -> Assembly:
    """A seat on four legs with a leaning back."""
    item, w, d, seat = Assembly(), rng.uniform(0.4, 0.5), rng.uniform(0.4, 0.48), rng.uniform(0.42, 0.48)
    back = rng.uniform(0.4, 0.55)
    item.box(0, (0, 0, seat), (w, d, 0.06))
    item.box(1, (0, -d / 2 + 0.02, seat + back / 2 + 0.02), (w, 0.04, back), pitch=rng.uniform(0.0, 0.15))
    _legs(item, 2, (w - 0.05, d - 0.05), 0.045, seat - 0.03)
    return item


def cabinet(rng: np.random.Generator) -> Assembly:
    """A body with two doors that stand proud and two round knobs."""
    item, w, d, h = Assembly(), rng.uniform(0.7, 1.1), rng.uniform(0.4, 0.5), rng.uniform(0.75, 1.25)
    item.box(0, (0, 0, h / 2), (w, d, h))
    for side in (-1, 1):
        item.box(1 + (side > 0), (side * w / 4, d / 2 + 0.012, h / 2), (w / 2 - 0.03, 0.025, h - 0.08))
        item.ellipsoid(1 + (side > 0), (side * 0.06, d / 2 + 0.035, h * 0.55), (0.04, 0.05, 0.04))
    item.top((0, 0, h), (w / 2 - 0.1, d / 2 - 0.08))
    return item


def lamp(rng: np.random.Generator) -> Assembly:
    """A floor lamp: disc, pole and an ellipsoid or cylinder shade."""
    item, h, radius = Assembly(), rng.uniform(1.35, 1.7), rng.uniform(0.16, 0.24)
    item.cylinder(0, (0, 0, 0.02), radius * 0.8, 0.04)
    item.cylinder(0, (0, 0, h / 2), 0.02, h - 0.08)
    if rng.random() < 0.5:
        item.ellipsoid(1, (0, 0, h), (2 * radius, 2 * radius, 0.32))
    else:
        item.cylinder(1, (0, 0, h), radius, 0.28)
    return item


def sofa(rng: np.random.Generator) -> Assembly:
    """A base, a back, two arms and a roll cushion."""
    item, w, d = Assembly(), rng.uniform(1.4, 1.9), rng.uniform(0.75, 0.9)
    seat, arm = rng.uniform(0.38, 0.45), rng.uniform(0.12, 0.2)
    item.box(0, (0, 0, seat / 2), (w, d, seat))
    item.box(1, (0, -d / 2 + 0.1, seat + 0.2), (w, 0.2, 0.4))
    for side in (-1, 1):
        item.box(2, (side * (w / 2 - arm / 2), 0.1, seat + 0.1), (arm, d - 0.2, 0.2))
    item.cylinder(3, (rng.uniform(-0.3, 0.3), -d / 2 + 0.32, seat + 0.11), 0.11, 0.45, along="x")
    return item


def shelf(rng: np.random.Generator) -> Assembly:
    """Two sides, a back panel and three or four boards."""
    item, w, d, h = Assembly(), rng.uniform(0.7, 1.0), rng.uniform(0.28, 0.36), rng.uniform(1.3, 1.8)
    for side in (-1, 1):
        item.box(0, (side * (w / 2 - 0.02), 0, h / 2), (0.04, d, h))
    item.box(0, (0, -d / 2 + 0.01, h / 2), (w - 0.08, 0.02, h))
    boards = int(rng.integers(3, 5))
    for k in range(boards):
        z = 0.1 + (h - 0.12) * k / (boards - 1)
        item.box(1, (0, 0.01, z), (w - 0.08, d - 0.02, 0.03))
        if 0.3 < z < h - 0.3:
            item.top((0, 0.03, z + 0.015), (w / 2 - 0.15, d / 2 - 0.12))
    return item


def bed(rng: np.random.Generator) -> Assembly:
    """A frame, a mattress, a head board and a pillow."""
    item, w, length = Assembly(), rng.uniform(0.9, 1.2), rng.uniform(1.8, 2.0)
    item.box(0, (0, 0, 0.15), (w, length, 0.3))
    item.box(1, (0, 0.02, 0.4), (w - 0.06, length - 0.08, 0.2))
    item.box(2, (0, -length / 2 - 0.03, 0.45), (w, 0.06, 0.9))
    item.ellipsoid(3, (0, -length / 2 + 0.35, 0.53), (w * 0.6, 0.4, 0.16))
    return item


def stool(rng: np.random.Generator) -> Assembly:
    """A round seat on a column with a foot."""
    item, h, radius = Assembly(), rng.uniform(0.45, 0.7), rng.uniform(0.16, 0.21)
    item.cylinder(0, (0, 0, h - 0.035), radius, 0.07)
    item.cylinder(1, (0, 0, h / 2 - 0.02), 0.035, h - 0.07)
    item.cylinder(1, (0, 0, 0.015), radius * 0.9, 0.03)
    return item


def plant(rng: np.random.Generator) -> Assembly:
    """A pot with a crown of two ellipsoids."""
    item, h, radius = Assembly(), rng.uniform(0.25, 0.4), rng.uniform(0.14, 0.2)
    item.cylinder(0, (0, 0, h / 2), radius, h)
    item.ellipsoid(1, (0.03, 0, h + 0.28), (0.5, 0.45, 0.6))
    item.ellipsoid(1, (-0.1, 0.05, h + 0.5), (0.35, 0.35, 0.4))
    return item


def trash_can(rng: np.random.Generator) -> Assembly:
    """A cylindrical bin under a domed lid."""
    item, h, radius = Assembly(), rng.uniform(0.4, 0.6), rng.uniform(0.14, 0.2)
    item.cylinder(0, (0, 0, h / 2), radius, h)
    item.ellipsoid(1, (0, 0, h), (2.05 * radius, 2.05 * radius, radius))
    return item


def cup(rng: np.random.Generator) -> Assembly:
    """A cylinder with an ellipsoid for a handle."""
    item, radius, h = Assembly(), rng.uniform(0.045, 0.06), rng.uniform(0.1, 0.14)
    item.cylinder(0, (0, 0, h / 2), radius, h)
    item.ellipsoid(1, (radius, 0, h / 2), (0.06, 0.025, h * 0.6))
    return item


def bottle(rng: np.random.Generator) -> Assembly:
    """A wide and a narrow cylinder, or an ellipsoid belly with a neck."""
    item, h = Assembly(), rng.uniform(0.18, 0.26)
    if rng.random() < 0.5:
        radius = rng.uniform(0.04, 0.06)
        item.cylinder(0, (0, 0, h / 2), radius, h)
        item.cylinder(1, (0, 0, h + 0.04), radius * 0.4, 0.08)
    else:
        width = rng.uniform(0.14, 0.2)
        item.ellipsoid(0, (0, 0, h / 2), (width, width, h))
        item.cylinder(1, (0, 0, h), width * 0.25, 0.1)
    return item


def books(rng: np.random.Generator) -> Assembly:
    """Two books in a pile, one per part."""
    item, w, d, h = Assembly(), rng.uniform(0.2, 0.28), rng.uniform(0.15, 0.2), rng.uniform(0.04, 0.07)
    item.box(0, (0, 0, h / 2), (w, d, h))
    item.box(1, (0.01, -0.01, h * 1.5), (w * 0.85, d * 0.85, h))
    return item


def laptop(rng: np.random.Generator) -> Assembly:
    """A flat base and a leaning screen."""
    item, w = Assembly(), rng.uniform(0.3, 0.36)
    item.box(0, (0, 0, 0.012), (w, 0.22, 0.024))
    item.box(1, (0, -0.12, 0.12), (w, 0.015, 0.2), pitch=0.25)
    return item


def carton(rng: np.random.Generator) -> Assembly:
    """A box with a slightly larger lid."""
    item, w, d, h = Assembly(), rng.uniform(0.16, 0.28), rng.uniform(0.14, 0.2), rng.uniform(0.1, 0.18)
    item.box(0, (0, 0, h / 2), (w, d, h))
    item.box(1, (0, 0, h + 0.015), (w + 0.02, d + 0.02, 0.03))
    return item


def _legs(item: Assembly, part: int, spread: tuple[float, float], side: float, height: float) -> None:
    for x in (-0.5, 0.5):
        for y in (-0.5, 0.5):
            item.box(part, (x * spread[0], y * spread[1], height / 2), (side, side, height))
