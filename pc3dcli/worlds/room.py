# SPDX-License-Identifier: Apache-2.0
"""A furnished room with exact ground truth, seen by a depth camera (granularity_tracking.md section 13).

`make_room` draws 8 to 10 pieces of furniture and small objects standing on them; `Room.render` casts the rays of one
camera; `write_room` films it with a camera that circles twice and writes a scan folder.  Everything is a function of
the numpy Generator that comes in.  *Departures* from the spec's world: cylinders and ellipsoids besides boxes, up to
eight shapes an object (legs of one piece of furniture are one part), textures, a sensor model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pc3dcli.geometry.cameras import back_project, look_at
from pc3dcli.worlds.furnish import RoomConfig, RoomObject, furnish_room
from pc3dcli.worlds.primitives import Primitive, hit_depth, image_rectangle, local_normals, texture_color
from pc3dcli.worlds.sensor import sense_color, sense_depth

__all__ = ["CaptureConfig", "Room", "RoomConfig", "RoomObject", "RoomView", "camera_path", "make_room", "write_room"]


@dataclass(frozen=True)
class CaptureConfig:
    """How a room is filmed; frames, turns and the small image are spec section 13's, the rest is ours."""

    num_frames: int = 120
    size: tuple[int, int] = (96, 128)  # (H, W) pixels
    fov: float = 1.05  # radians, horizontal
    turns: float = 2.0  # the second turn forces revisits
    height: float = 1.55  # metres above the floor
    voxel: float = 0.02  # metres, of the surface cloud
    color: str = "jpg"  # or "png"

    @property
    def K(self) -> np.ndarray:
        """The (3, 3) camera matrix, principal point in the middle of the image."""
        H, W = self.size
        focal = W / 2 / np.tan(self.fov / 2)
        return np.array([[focal, 0, (W - 1) / 2], [0, focal, (H - 1) / 2], [0, 0, 1.0]])


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
        return self.render_pair(K, world_from_cam, size, rng)[0]

    def render_pair(self, K, world_from_cam, size, rng) -> tuple[RoomView, np.ndarray]:
        """Return what `render` returns and the exact (H, W) float32 depth of the same frame."""
        exact, index = self._cast(K, world_from_cam, size)
        color, cosine = self._shade(K, world_from_cam, exact, index)
        instance = np.array([p.object for p in self.primitives], np.int32)[index]
        part = np.array([p.part for p in self.primitives], np.int32)[index]
        depth = exact
        if rng is not None:
            if self.config.sensor_noise:
                color = sense_color(color, rng)
            depth = sense_depth(exact, color, cosine, self.config.sensor_noise, self.config.missing_depth, rng)
        rgb = (np.clip(color, 0, 1) * 255 + 0.5).astype(np.uint8)
        return RoomView(rgb, depth.astype(np.float32), instance, part), exact.astype(np.float32)

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
    """Draw a room: a table first, then furniture at random where it fits, then small objects on it."""
    objects, primitives = furnish_room(config, rng)
    return Room(config, tuple(objects), tuple(primitives))


def camera_path(room: RoomConfig, capture: CaptureConfig) -> np.ndarray:
    """Return (T, 4, 4) world_from_cam of a camera that circles and looks across the middle of the room.

    Height, radius and gaze sway slowly, so that the second turn sees the same things from slightly elsewhere.
    """
    angle = np.arange(capture.num_frames) / max(capture.num_frames, 1) * capture.turns * 2 * np.pi
    center = np.array([room.size[0] / 2, room.size[1] / 2])
    poses = np.empty((capture.num_frames, 4, 4))
    for t, a in enumerate(angle):
        outward = np.array([np.cos(a), np.sin(a)])
        sideways = np.array([-outward[1], outward[0]])
        eye = center + (room.camera_radius + 0.12 * np.sin(1.3 * a)) * outward
        target = center + 0.5 * np.sin(0.7 * a) * sideways - 0.4 * outward
        heights = capture.height + 0.15 * np.sin(0.45 * a), 0.65 + 0.15 * np.cos(0.8 * a)
        poses[t] = look_at(np.append(eye, heights[0]), np.append(target, heights[1]), np.array([0, 0, 1.0]))
    return poses


def write_room(room: Room, folder: Path, capture: CaptureConfig, rng: np.random.Generator) -> None:
    """Film a room and write it as a ScanNet export folder with its ground truth.

    color/<i>.jpg, depth/<i>.png (uint16 mm), pose/<i>.txt, intrinsic/{intrinsic,extrinsic}_{color,depth}.txt,
    instance/<i>.png and part/<i>.png (uint16, 0 = structure), <scene>_vh_clean_2.ply = exact depth of all frames fused
    in voxels, gt/<scene>.txt = ScanNet200 label * 1000 + object id of every vertex, 0 on the structure.

    folder  is made; its name is the scene's
    """
    # the file formats are loaded on writing only: rendering needs numpy alone
    from pc3dcli.formats.cloud import Cloud
    from pc3dcli.formats.ply import write_ply
    from pc3dcli.formats.scannet_instances import write_truth

    for name in ("color", "depth", "pose", "intrinsic", "instance", "part", "gt"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _write_intrinsics(folder / "intrinsic", capture.K)
    surface = _Surface(capture.voxel)
    for t, world_from_cam in enumerate(camera_path(room.config, capture)):
        view, exact = room.render_pair(capture.K, world_from_cam, capture.size, rng)
        _write_frame(folder, t, view, world_from_cam, capture.color)
        surface.add(back_project(exact, capture.K, world_from_cam), view.rgb, view.instance)
    xyz, rgb, instance = surface.vertices()
    write_ply(folder / f"{folder.name}_vh_clean_2.ply", Cloud(xyz=xyz, rgb=rgb))
    labels = np.array([0] + [item.label_id * 1000 + item.object for item in room.objects])
    write_truth(folder / "gt" / f"{folder.name}.txt", labels[instance])


class _Surface:
    """Voxel means of all points seen so far, kept apart by object so that a vertex never averages two of them."""

    def __init__(self, voxel: float) -> None:
        self.voxel = voxel
        self.codes = np.empty(0, np.int64)
        self.sums = np.empty((0, 7))  # x y z r g b count

    def add(self, points: np.ndarray, rgb: np.ndarray, instance: np.ndarray) -> None:
        # 16 bits an axis reach 655 m at 1 cm; the object goes below, so that codes sort by voxel
        cells = np.floor(points.reshape(-1, 3) / self.voxel).astype(np.int64) + (1 << 15)
        codes = (((cells[:, 0] << 16) | cells[:, 1]) << 16 | cells[:, 2]) << 15 | instance.reshape(-1)
        rows = np.column_stack([points.reshape(-1, 3), rgb.reshape(-1, 3), np.ones(len(codes))])
        codes, rows = _sum_by_code(codes, rows)
        self.codes, self.sums = _sum_by_code(np.append(self.codes, codes), np.concatenate([self.sums, rows]))

    def vertices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (N, 3) float32 points, (N, 3) uint8 colours, (N,) int64 objects, one vertex a voxel: the fullest."""
        cell, instance = self.codes >> 15, self.codes & ((1 << 15) - 1)
        order = np.lexsort((instance, -self.sums[:, 6], cell))
        first = np.ones(len(order), bool)
        first[1:] = cell[order][1:] != cell[order][:-1]
        chosen = order[first]
        means = self.sums[chosen, :6] / self.sums[chosen, 6:]
        return means[:, :3].astype(np.float32), (means[:, 3:] + 0.5).astype(np.uint8), instance[chosen]


def _sum_by_code(codes: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, group = np.unique(codes, return_inverse=True)
    columns = [np.bincount(group, weights=column, minlength=len(unique)) for column in rows.T]
    return unique, np.stack(columns, axis=1)


def _write_intrinsics(folder: Path, K: np.ndarray) -> None:
    intrinsic = np.eye(4)
    intrinsic[:3, :3] = K
    for camera in ("color", "depth"):
        np.savetxt(folder / f"intrinsic_{camera}.txt", intrinsic, fmt="%.9g")
        np.savetxt(folder / f"extrinsic_{camera}.txt", np.eye(4), fmt="%.9g")


def _write_frame(folder: Path, t: int, view: RoomView, world_from_cam: np.ndarray, color: str) -> None:
    from pc3dcli.formats.images import write_jpeg, write_png

    write_color = write_jpeg if color == "jpg" else write_png
    write_color(folder / f"color/{t}.{color}", view.rgb)
    write_png(folder / f"depth/{t}.png", np.clip(np.rint(view.depth * 1000), 0, 65534).astype(np.uint16))
    write_png(folder / f"instance/{t}.png", view.instance.astype(np.uint16))
    write_png(folder / f"part/{t}.png", view.part.astype(np.uint16))
    np.savetxt(folder / "pose" / f"{t}.txt", world_from_cam, fmt="%.9g")
