# SPDX-License-Identifier: Apache-2.0
"""Drawing a room: which furniture, where, in which colours, and the small objects that stand on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pc3dcli.worlds import furniture
from pc3dcli.worlds.placement import FloorPlan, are_apart, footprint_of, yaw_matrix
from pc3dcli.worlds.primitives import Primitive, Texture

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

    @classmethod
    def varied(cls, rng: np.random.Generator) -> RoomConfig:
        """Draw a room to learn from: its sides, how full it is, and all that makes a camera's life hard; ours."""
        width, depth, height = rng.uniform([4.0, 4.0, 2.4], [7.0, 7.0, 3.2]).tolist()
        sparsest = int(np.clip(width * depth / 6, 4, 8))  # one piece of furniture on 3 to 6 square metres
        fewest = int(rng.integers(2, 8))
        return cls(
            size=(width, depth, height),
            num_furniture=(sparsest, int(width * depth / 3)),
            num_small=(fewest, fewest + 4),
            clearance=rng.uniform(0.0, 0.1),
            camera_radius=min(width, depth) / 3,
            sensor_noise=True,
            missing_depth=True,
        )


@dataclass(frozen=True)
class RoomObject:
    """What one object is: id from 1, name, ScanNet200 label id, the ids of its parts (unique in the room)."""

    object: int
    name: str
    label_id: int
    parts: tuple[int, ...]


def furnish_room(config: RoomConfig, rng: np.random.Generator) -> tuple[list[RoomObject], list[Primitive]]:
    """Furnish a room: a table first, then furniture at random where it fits, then small objects on it."""
    size = np.array(config.size)
    slab, flat = (
        np.array([0, 0, 0.05]),
        size * [0.5, 0.5, 0],
    )  # the floor is a box of its own, the hull reaches below it
    primitives = [
        Primitive("hull", size / 2 - slab, np.diag(size / 2 + slab), _hull_texture(config, rng)),
        Primitive("box", flat - slab / 2, np.diag(flat + slab / 2), _hull_texture(config, rng)),
    ]
    objects: list[RoomObject] = []
    floor = FloorPlan(size[:2], config.clearance, config.camera_radius)
    surfaces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    count = int(rng.integers(config.num_furniture[0], config.num_furniture[1] + 1))
    for _ in range(40 * count):
        if len(objects) == count:
            break
        name = "table" if not objects else str(rng.choice(sorted(FURNITURE)))
        item = FURNITURE[name][0](rng)
        placed = floor.place(item, name in AT_WALL, rng)
        if placed is not None:
            _add_object(item, name, FURNITURE[name][1], placed, (objects, primitives), config, rng)
            surfaces += [(placed @ np.append(center, 1), placed, half) for center, half in item.tops]
    _add_small(surfaces, (objects, primitives), config, rng)
    return objects, primitives


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
        world_from_object = world_from_surface @ yaw_matrix(rng.uniform(-0.6, 0.6))
        world_from_object[:3, 3] = center[:3] + world_from_surface[:3, :3] @ offset
        footprint = footprint_of(*item.bounds(), world_from_object)
        if all(abs(z - center[2]) > 0.3 or are_apart(footprint, other, 0.03) for z, other in taken):
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
