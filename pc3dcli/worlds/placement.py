# SPDX-License-Identifier: Apache-2.0
"""Finding free places: footprints are rectangles on the floor that keep apart and leave the camera its way."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pc3dcli.worlds.furniture import Assembly

TALL = 1.2  # metres; what is taller keeps PATH_MARGIN metres from the camera's circle
PATH_MARGIN = 0.3


@dataclass
class FloorPlan:
    """The floor of a room, size (2,) metres from the origin, and the (4, 2) footprints already taken."""

    size: np.ndarray
    clearance: float
    camera_radius: float
    footprints: list[np.ndarray] = field(default_factory=list)

    def place(self, item: Assembly, at_wall: bool, rng: np.random.Generator) -> np.ndarray | None:
        """Return world_from_object (4, 4) of a free place and take it, or None when no try fits."""
        low, high = item.bounds()
        for _ in range(20):
            world_from_object = self._at_wall(low, rng) if at_wall else self._anywhere(rng)
            footprint = footprint_of(low, high, world_from_object)
            if self._is_free(footprint, high[2]):
                self.footprints.append(footprint)
                return world_from_object
        return None

    def _at_wall(self, low: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a pose with the back 2 cm off one of the four walls and the front into the room."""
        world_from_object = yaw_matrix(int(rng.integers(4)) * np.pi / 2)
        back = world_from_object[:2, :2] @ [0, low[1] - 0.02]
        is_across = np.abs(world_from_object[:2, 1]) > 0.5  # the floor axis that leads away from the wall
        across = np.where(back < 0, -back, self.size - back)
        world_from_object[:2, 3] = np.where(is_across, across, rng.uniform(0, 1, 2) * self.size)
        return world_from_object

    def _anywhere(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a pose, half of the time in the middle of the room, where the camera sees it from all sides."""
        world_from_object = yaw_matrix(rng.uniform(0, 2 * np.pi))
        reach = (0.3, 0.7) if rng.random() < 0.5 else (0.0, 1.0)
        world_from_object[:2, 3] = rng.uniform(*reach, 2) * self.size
        return world_from_object

    def _is_free(self, footprint: np.ndarray, height: float) -> bool:
        if (footprint < 0).any() or (footprint > self.size).any():
            return False
        radius = np.linalg.norm(footprint - self.size / 2, axis=1)
        is_outside = radius.min() > self.camera_radius + PATH_MARGIN
        if height > TALL and not is_outside and radius.max() > self.camera_radius - PATH_MARGIN:
            return False
        return all(are_apart(footprint, other, self.clearance) for other in self.footprints)


def are_apart(first: np.ndarray, second: np.ndarray, clearance: float) -> bool:
    """Say whether two (4, 2) rectangles are apart by `clearance` along one of their edge directions."""
    for corners in (first, second):
        for edge in (corners[1] - corners[0], corners[3] - corners[0]):
            axis = edge / np.linalg.norm(edge)
            a, b = first @ axis, second @ axis
            if a.max() + clearance <= b.min() or b.max() + clearance <= a.min():
                return True
    return False


def footprint_of(low: np.ndarray, high: np.ndarray, world_from_object: np.ndarray) -> np.ndarray:
    """Return the (4, 2) corners on the floor, in order around, of an object's bounds `low`, `high` (3,)."""
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
    return corners @ world_from_object[:2, :2].T + world_from_object[:2, 3]


def yaw_matrix(yaw: float) -> np.ndarray:
    """Return the (4, 4) rotation by `yaw` radians about z, counter-clockwise seen from above."""
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    return matrix
