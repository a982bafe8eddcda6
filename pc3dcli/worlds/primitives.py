# SPDX-License-Identifier: Apache-2.0
"""Boxes, cylinders and ellipsoids under an affine map, hit exactly by all rays of an image, and their textures.

Each shape is the unit shape ([-1, 1]^3, the unit cylinder along z, the unit sphere) under world = axes @ local +
center.  A ray keeps its parameter under that map, so with camera rays (x, y, 1) the hit parameter *is* the depth
along the optical axis and no square root of a length enters it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

NEAR = 0.01  # metres; nothing closer to the camera is drawn


@dataclass(frozen=True)
class Texture:
    """A procedural colour over 3D positions in metres, local to the object it covers.

    kind    "uniform", "checker", "stripes" or "noise"
    colors  (2, 3) float in [0, 1], RGB
    scale   metres, edge of a checker field, width of a stripe, wave length of the noise
    waves   (6, 4) float: directions and phases of the noise
    """

    kind: str
    colors: np.ndarray
    scale: float
    waves: np.ndarray


@dataclass(frozen=True)
class Primitive:
    """One convex shape.

    kind    "box", "cylinder" (along local z), "ellipsoid", or "hull": the inside of a box, for the walls
    center  (3,) float64, metres, world frame
    axes    (3, 3) float64, columns are the half-axes of the shape in the world frame, metres
    part    id of the part it belongs to, object its object's id; 0 for the room itself
    """

    kind: str
    center: np.ndarray
    axes: np.ndarray
    texture: Texture
    object: int = 0
    part: int = 0
    local_from_world: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "local_from_world", np.linalg.inv(self.axes))

    def corners(self) -> np.ndarray:
        """Return the (8, 3) corners, world frame, of the box around the shape."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
        return signs @ self.axes.T + self.center


def hit_depth(primitive: Primitive, world_from_cam: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the depth at which camera rays (x, y, 1) enter the shape (leave it, for a "hull"), inf where they miss.

    x        (W,) float64, y (H,) float64: normalised image coordinates (u - cx) / fx, (v - cy) / fy
    returns  (H, W) float64, metres along the optical axis; inf also when the camera is inside the shape
    """
    local_from_cam = primitive.local_from_world @ world_from_cam[:3, :3]
    origin = primitive.local_from_world @ (world_from_cam[:3, 3] - primitive.center)
    rays = [(m[0] * x + m[2])[None, :] + (m[1] * y)[:, None] for m in local_from_cam]  # 3 of (H, W)
    with np.errstate(divide="ignore", invalid="ignore"):
        if primitive.kind in ("box", "hull"):
            spans = [_slab(origin[k], rays[k]) for k in range(3)]
        elif primitive.kind == "cylinder":
            spans = [_slab(origin[2], rays[2]), _quadric(origin[:2], rays[:2])]
        else:
            spans = [_quadric(origin, rays)]
        enter, leave = spans[0]
        for low, high in spans[1:]:
            enter, leave = np.maximum(enter, low), np.minimum(leave, high)
        if primitive.kind == "hull":
            return np.where(leave > NEAR, leave, np.inf)
        return np.where((enter <= leave) & (enter > NEAR), enter, np.inf)


def local_normals(primitive: Primitive, local: np.ndarray) -> np.ndarray:
    """Return (N, 3) outward unit normals, world frame, at (N, 3) surface points in local coordinates."""
    if primitive.kind == "ellipsoid":
        normals = local.copy()
    elif primitive.kind == "cylinder":
        radius = np.hypot(local[:, 0], local[:, 1])
        on_cap = np.abs(np.abs(local[:, 2]) - 1) < np.abs(radius - 1)
        normals = np.where(on_cap[:, None], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]) * local
    else:
        axis = np.argmax(np.abs(local), axis=1)
        normals = np.zeros_like(local)
        rows = np.arange(len(local))
        normals[rows, axis] = np.sign(local[rows, axis]) * (-1.0 if primitive.kind == "hull" else 1.0)
    normals = normals @ primitive.local_from_world  # normals map with the inverse transpose
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def image_rectangle(
    primitive: Primitive, K: np.ndarray, world_from_cam: np.ndarray, size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Return the pixel rectangle (top, bottom, left, right), ends exclusive, outside of which no ray can hit.

    returns  None when the shape is behind the camera or outside the image
    """
    H, W = size
    camera_points = (primitive.corners() - world_from_cam[:3, 3]) @ world_from_cam[:3, :3]
    z = camera_points[:, 2]
    if (z <= NEAR).all():
        return None
    if primitive.kind == "hull" or (z <= NEAR).any():
        return 0, H, 0, W
    u = camera_points[:, 0] / z * K[0, 0] + K[0, 2]
    v = camera_points[:, 1] / z * K[1, 1] + K[1, 2]
    left, right = max(int(np.floor(u.min())), 0), min(int(np.ceil(u.max())) + 1, W)
    top, bottom = max(int(np.floor(v.min())), 0), min(int(np.ceil(v.max())) + 1, H)
    return (top, bottom, left, right) if top < bottom and left < right else None


def texture_color(texture: Texture, points: np.ndarray) -> np.ndarray:
    """Return (N, 3) float64 RGB in [0, 1] at (N, 3) points in metres."""
    if texture.kind == "uniform":
        return np.broadcast_to(texture.colors[0], points.shape)
    if texture.kind == "checker":
        # half a cell of offset keeps faces at coordinate 0 from flickering between two fields
        blend = np.floor(points / texture.scale + 0.5).sum(axis=1) % 2
    elif texture.kind == "stripes":
        blend = np.floor((points @ texture.waves[0, :3]) / texture.scale + 0.5) % 2
    else:
        phase = points @ texture.waves[:, :3].T * (2 * np.pi / texture.scale) + texture.waves[:, 3]
        blend = np.clip(0.5 + np.sin(phase).sum(axis=1) / 5.0, 0, 1)
    return texture.colors[0] + blend[:, None] * (texture.colors[1] - texture.colors[0])


def _slab(origin: float, ray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where rays enter and leave -1 <= coordinate <= 1."""
    first, second = (-1.0 - origin) / ray, (1.0 - origin) / ray
    return np.fmin(first, second), np.fmax(first, second)  # fmin: 0 / 0 on a face plane counts as inside


def _quadric(origin: np.ndarray, rays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return where rays enter and leave the unit circle or sphere; (inf, -inf) where they miss."""
    a = np.maximum(sum(ray * ray for ray in rays), 1e-18)  # a ray along the cylinder's axis stays inside or outside
    b = sum(o * ray for o, ray in zip(origin, rays, strict=True))
    discriminant = b * b - a * (float(origin @ origin) - 1.0)
    root = np.sqrt(np.maximum(discriminant, 0.0))
    hits = discriminant > 0
    return np.where(hits, (-b - root) / a, np.inf), np.where(hits, (-b + root) / a, -np.inf)
