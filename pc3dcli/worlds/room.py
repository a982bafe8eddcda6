# SPDX-License-Identifier: Apache-2.0
"""A furnished room with exact ground truth, seen by a depth camera (granularity_tracking.md section 13).

`make_room` draws 8 to 10 pieces of furniture and small objects standing on them; `Room.render` casts the rays of one
camera and returns colour, depth, and the object and part of every pixel, optionally as a noisy sensor sees them.
Everything is a function of the numpy Generator that comes in.  *Departures* from the spec's world: cylinders and
ellipsoids besides boxes, up to six shapes an object (legs of one piece of furniture are one part), textures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pc3dcli.worlds import furniture
from pc3dcli.worlds.primitives import (
    Primitive,
    Texture,
    hit_depth,
    image_rectangle,
    local_normals,
    texture_color,
)
from pc3dcli.worlds.sensor import sense_color, sense_depth

# builder, ScanNet200 label id
FURNITURE: dict[str, tuple[Callable, int]] = {
    "table": (furniture.table, 4),
    "chair": (furniture.chair, 2),
    "cabinet": (furniture.cabinet, 7),
    "lamp": (furniture.lamp, 28),
    "couch": (furniture.sofa, 6),
    "shelf": (furniture.shelf, 8),
    "bed": (furniture.bed, 11),
    "stool": (furniture.stool, 38),
    "plant": (furniture.plant, 40),
    "trash can": (furniture.trash_can, 56),
}
SMALL: dict[str, tuple[Callable, int]] = {
    "cup": (furniture.cup, 130),
    "bottle": (furniture.bottle, 65),
    "book": (furniture.books, 22),
    "laptop": (furniture.laptop, 77),
    "box": (furniture.carton, 26),
}
AT_WALL = ("cabinet", "shelf", "couch", "bed", "lamp")


@dataclass(frozen=True)
class RoomConfig:
    """What a room holds and how well its camera sees; sizes are spec section 13's, the rest is ours."""

    size: tuple[float, float, float] = (6.0, 6.0, 2.8)  # metres
    num_furniture: tuple[int, int] = (8, 10)  # drawn uniformly, both ends included
    num_small: tuple[int, int] = (3, 6)
    clearance: float = 0.08  # metres kept free between footprints
    camera_radius: float = 2.0  # metres; nothing taller than 1.2 m stands within 0.3 m of this circle
    textures: bool = True  # False: one colour a part
    sensor_noise: bool = False
    missing_depth: bool = False


@dataclass(frozen=True)
class RoomObject:
    """What one object is: id from 1, name, ScanNet200 label id, the ids of its parts (unique in the room)."""

    object: int
    name: str
    label_id: int
    parts: tuple[int, ...]


class RoomView(NamedTuple):
    """One rendered frame: rgb (H, W, 3) uint8, depth (H, W) float32 metres (0 missing), instance and part (H, W) int32.

    Instance and part are 0 on walls, floor and ceiling, and exact whatever the sensor loses.
    """

    rgb: np.ndarray
    depth: np.ndarray
    instance: np.ndarray
    part: np.ndarray


@dataclass(frozen=True)
class Room:
    """A finished room; z up, one corner of the floor at the origin."""

    config: RoomConfig
    objects: tuple[RoomObject, ...]
    primitives: tuple[Primitive, ...]  # the room's hull first

    def render(
        self,
        K: np.ndarray,
        world_from_cam: np.ndarray,
        size: tuple[int, int],
        rng: np.random.Generator | None = None,
    ) -> RoomView:
        """Cast one ray a pixel.

        K        (3, 3) float64 pixels; world_from_cam (4, 4) float64; size (H, W)
        rng      draws the noise and the holes that the config switches on; None gives the exact frame
        """
        depth, index = self._cast(K, world_from_cam, size)
        color, cosine = self._shade(K, world_from_cam, depth, index)
        instance = np.array([p.object for p in self.primitives], np.int32)[index]
        part = np.array([p.part for p in self.primitives], np.int32)[index]
        if rng is not None:
            if self.config.sensor_noise:
                color = sense_color(color, rng)
            depth = sense_depth(depth, color, cosine, self.config.sensor_noise, self.config.missing_depth, rng)
        rgb = (np.clip(color, 0, 1) * 255 + 0.5).astype(np.uint8)
        return RoomView(rgb, depth.astype(np.float32), instance, part)

    def _cast(self, K, world_from_cam, size) -> tuple[np.ndarray, np.ndarray]:
        """Return (H, W) float64 depth and (H, W) index of the nearest primitive."""
        H, W = size
        x = (np.arange(W) - K[0, 2]) / K[0, 0]
        y = (np.arange(H) - K[1, 2]) / K[1, 1]
        depth = np.full((H, W), np.inf)
        index = np.zeros((H, W), np.int32)
        for k, primitive in enumerate(self.primitives):
            rectangle = image_rectangle(primitive, K, world_from_cam, size)
            if rectangle is None:
                continue
            top, bottom, left, right = rectangle
            hit = hit_depth(primitive, world_from_cam, x[left:right], y[top:bottom])
            nearest = depth[top:bottom, left:right]
            closer = hit < nearest
            nearest[closer] = hit[closer]
            index[top:bottom, left:right][closer] = k
        return depth, index

    def _shade(self, K, world_from_cam, depth, index) -> tuple[np.ndarray, np.ndarray]:
        """Return (H, W, 3) float64 colour in [0, 1] and (H, W) cosine between ray and normal."""
        H, W = depth.shape
        color, cosine = np.zeros((H * W, 3)), np.zeros(H * W)
        order = np.argsort(index, axis=None, kind="stable")
        ends = np.cumsum(np.bincount(index.reshape(-1), minlength=len(self.primitives)))
        lamp = np.array([0.5, 0.45, 0.92]) * self.config.size
        for k, primitive in enumerate(self.primitives):
            pixels = order[ends[k - 1] if k else 0 : ends[k]]
            if not len(pixels):
                continue
            z = depth.reshape(-1)[pixels]
            rays = np.stack([(pixels % W - K[0, 2]) / K[0, 0], (pixels // W - K[1, 2]) / K[1, 1], np.ones(len(pixels))])
            rays = (world_from_cam[:3, :3] @ rays).T
            points = world_from_cam[:3, 3] + rays * z[:, None]
            local = (points - primitive.center) @ primitive.local_from_world.T
            normals = local_normals(primitive, local)
            to_lamp = lamp - points
            lambert = (normals * to_lamp).sum(axis=1) / np.maximum(np.linalg.norm(to_lamp, axis=1), 1e-9)
            light = 0.45 + 0.5 * np.maximum(lambert, 0) + 0.08 * (normals @ [0.6, 0.35, 0.72])
            color[pixels] = texture_color(primitive.texture, local * np.linalg.norm(primitive.axes, axis=0))
            color[pixels] *= light[:, None]
            cosine[pixels] = np.abs((normals * rays).sum(axis=1)) / np.linalg.norm(rays, axis=1)
        return color.reshape(H, W, 3), cosine.reshape(H, W)


def make_room(config: RoomConfig, rng: np.random.Generator) -> Room:
    """Furnish a room: a table first, then furniture at random where it fits, then small objects on it."""
    size = np.array(config.size)
    primitives = [Primitive("hull", size / 2, np.diag(size / 2), _hull_texture(config, rng))]
    objects: list[RoomObject] = []
    footprints: list[np.ndarray] = []
    surfaces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    count = int(rng.integers(config.num_furniture[0], config.num_furniture[1] + 1))
    for _ in range(40 * count):
        if len(objects) == count:
            break
        name = "table" if not objects else str(rng.choice(sorted(FURNITURE)))
        item = FURNITURE[name][0](rng)
        placed = _place_on_floor(item, name in AT_WALL, config, footprints, rng)
        if placed is not None:
            _add_object(item, name, FURNITURE[name][1], placed, (objects, primitives), config, rng)
            surfaces += [(placed @ np.append(center, 1), placed, half) for center, half in item.tops]
    _add_small(surfaces, (objects, primitives), config, rng)
    return Room(config, tuple(objects), tuple(primitives))


def _place_on_floor(item, at_wall: bool, config: RoomConfig, footprints: list, rng) -> np.ndarray | None:
    """Return world_from_object (4, 4) of a free place and book its footprint, or None when no try fits."""
    low, high = item.bounds()
    room = np.array(config.size[:2])
    for _ in range(20):
        if at_wall:
            side = int(rng.integers(4))
            yaw = side * np.pi / 2
            back = _yaw_matrix(yaw)[:2, :2] @ [0, low[1] - 0.02]
            along = rng.uniform(0, 1, 2) * room
            wall = np.abs(_yaw_matrix(yaw)[:2, 1]) > 0.5  # the axis that points away from the wall
            xy = np.where(wall, np.where(back < 0, -back, room - back), along)
        else:
            yaw = rng.uniform(0, 2 * np.pi)
            xy = rng.uniform(0.3, 0.7, 2) * room if rng.random() < 0.5 else rng.uniform(0, 1, 2) * room
        world_from_object = _yaw_matrix(yaw)
        world_from_object[:2, 3] = xy
        footprint = _footprint(low, high, world_from_object)
        if _is_free(footprint, high[2], config, footprints):
            footprints.append(footprint)
            return world_from_object
    return None


def _is_free(footprint: np.ndarray, height: float, config: RoomConfig, others: list[np.ndarray]) -> bool:
    room = np.array(config.size[:2])
    if (footprint < 0).any() or (footprint > room).any():
        return False
    radius = np.linalg.norm(footprint - room / 2, axis=1)
    near_path = radius.min() < config.camera_radius + 0.3 and radius.max() > config.camera_radius - 0.3
    if height > 1.2 and near_path:
        return False
    return all(_are_apart(footprint, other, config.clearance) for other in others)


def _are_apart(first: np.ndarray, second: np.ndarray, clearance: float) -> bool:
    """Say whether two (4, 2) rectangles are apart by `clearance` along one of their edge directions."""
    for corners in (first, second):
        for edge in (corners[1] - corners[0], corners[3] - corners[0]):
            axis = edge / np.linalg.norm(edge)
            a, b = first @ axis, second @ axis
            if a.max() + clearance <= b.min() or b.max() + clearance <= a.min():
                return True
    return False


def _add_small(surfaces: list, scene: tuple, config: RoomConfig, rng: np.random.Generator) -> None:
    """Stand small objects on support surfaces, not into each other."""
    count = int(rng.integers(config.num_small[0], config.num_small[1] + 1)) if surfaces else 0
    taken: list[tuple[float, np.ndarray]] = []
    for _ in range(20 * count):
        if len(taken) == count:
            return
        name = str(rng.choice(sorted(SMALL)))
        item = SMALL[name][0](rng)
        center, world_from_surface, half = surfaces[int(rng.integers(len(surfaces)))]
        offset = np.append(rng.uniform(-1, 1, 2) * half, 0)
        world_from_object = world_from_surface @ _yaw_matrix(rng.uniform(-0.6, 0.6))
        world_from_object[:3, 3] = center[:3] + world_from_surface[:3, :3] @ offset
        footprint = _footprint(*item.bounds(), world_from_object)
        if all(abs(z - center[2]) > 0.3 or _are_apart(footprint, other, 0.03) for z, other in taken):
            taken.append((center[2], footprint))
            _add_object(item, name, SMALL[name][1], world_from_object, scene, config, rng)


def _add_object(item, name: str, label_id: int, world_from_object, scene: tuple, config, rng) -> None:
    objects, primitives = scene
    first_part = primitives[-1].part + 1
    num_parts = max(shape.part for shape in item.shapes) + 1
    base = rng.uniform(0.1, 0.9, 3)
    textures = [_part_texture(base, config, rng) for _ in range(num_parts)]
    for shape in item.shapes:
        center = (world_from_object @ np.append(shape.center, 1))[:3]
        axes, part = world_from_object[:3, :3] @ shape.axes, first_part + shape.part
        primitives.append(Primitive(shape.kind, center, axes, textures[shape.part], len(objects) + 1, part))
    objects.append(RoomObject(len(objects) + 1, name, label_id, tuple(range(first_part, first_part + num_parts))))


def _part_texture(base: np.ndarray, config: RoomConfig, rng: np.random.Generator) -> Texture:
    """Draw the texture of a part: near the object's colour, or half of the time one of its own."""
    color = base + rng.normal(0, 0.06, 3) if rng.random() < 0.5 else rng.uniform(0.08, 0.92, 3)
    kind = str(rng.choice(["uniform", "uniform", "noise", "stripes", "checker"])) if config.textures else "uniform"
    other = color * rng.uniform(0.55, 0.85) + rng.normal(0, 0.03, 3)
    return Texture(kind, np.clip([color, other], 0.02, 1), rng.uniform(0.05, 0.2), _waves(rng))


def _hull_texture(config: RoomConfig, rng: np.random.Generator) -> Texture:
    color = rng.uniform(0.6, 0.9) + rng.normal(0, 0.04, 3)
    other = color * rng.uniform(0.75, 0.9)
    kind = str(rng.choice(["noise", "stripes", "checker"])) if config.textures else "uniform"
    return Texture(kind, np.clip([color, other], 0, 1), rng.uniform(0.3, 0.6), _waves(rng))


def _waves(rng: np.random.Generator) -> np.ndarray:
    directions = rng.normal(size=(6, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.column_stack([directions * rng.uniform(0.5, 2.0, (6, 1)), rng.uniform(0, 2 * np.pi, 6)])


def _footprint(low: np.ndarray, high: np.ndarray, world_from_object: np.ndarray) -> np.ndarray:
    """Return the (4, 2) corners on the floor of an object's bounds, in order around."""
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
    return corners @ world_from_object[:2, :2].T + world_from_object[:2, 3]


def _yaw_matrix(yaw: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    return matrix
