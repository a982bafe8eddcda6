# SPDX-License-Identifier: Apache-2.0
"""Choose where to look at a scene from: above, the four corners, and from inside.

Rooms are looked into: the views from outside leave out the ceiling, and the wall between a corner camera and the
room.  Points with normals that face the scanner are simply left out where they are seen from behind.  Without
normals both are found from the points alone (a crowded layer at the top that spans the plan; tall columns with
nothing before them); scenes lower or narrower than a room then keep all their points.  Objects are seen whole,
with a margin, whatever their size.  All numbers here are ours.
"""

from __future__ import annotations

import numpy as np

from pc3dcli.geometry.render import Viewpoint

ELEVATION_DEG = 38.0
FIELD_DEG = 40.0  # vertical field of the views from outside
TOP_FIELD_DEG = 18.0  # narrow: nearly a floor plan
INSIDE_FIELD_DEG = 68.0
LEAST_SHOWN = 0.3  # a corner view shows at least this part of what the best one does
FILL = 0.94  # of the picture that the central points of a scene take
OBJECT_FILL = 0.88  # of the picture that all points of an object take: discs are drawn around them
ASIDE = 0.08  # of the picture's width that an object stands right of the middle: its legend is at the left
EYE_HEIGHT = 1.55  # metres above the floor
MIN_INSIDE_POINTS = 5_000  # with fewer, one who stands among them sees nothing but gaps
MIN_ROOM_HEIGHT = 1.9  # metres; lower scenes have neither ceiling nor walls to cut
MAX_ROOM_HEIGHT = 50.0  # metres; higher ceilings are not looked for
MIN_ROOM_WIDTH = 2.0  # metres
MAX_TILT_DEG = 40.0  # between the given and the true up axis
MIN_LEVEL_SHARE = 0.05  # of the normals that agree on a level surface, to believe it
_AXES = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1)}


def choose_viewpoints(
    xyz: np.ndarray,
    size: tuple[int, int],
    level_from_world: np.ndarray,
    normal: np.ndarray | None = None,
    *,
    is_object: bool = False,
) -> list[Viewpoint]:
    """Return the standard views of a scene: `top`, `corner1` to `corner4` and, in rooms, `inside`.

    A corner from which nearly everything is seen from behind, as of a shelf, is left out.  Of an object nothing is.

    xyz               (N, 3) float, metres, world frame
    size              (H, W) of the pictures
    level_from_world  (3, 3) float, from `upright` or `level_rotation`
    normal            (N, 3) float that face the scanner, or None; not looked at of objects
    returns           viewpoints that show the central 98 % of the points they do not leave out, all points of an object
    """
    if len(xyz) == 0:
        return []
    origin = np.asarray(xyz, np.float64).mean(0)
    level = ((xyz - origin) @ level_from_world.T).astype(np.float64)
    turn = _plan_rotation(level[:: max(1, len(level) // 5000), :2])
    level = level @ turn.T  # x along the longer wall
    scene = _Scene(level, size, origin, turn @ level_from_world, is_object)
    top_cut, side_cut = (np.inf, np.inf) if is_object else _cut_heights(level)
    normal = None if is_object else normal
    views = [scene.view("top", (0.0, 0.0, -1.0), (0.0, 1.0, 0.0), TOP_FIELD_DEG, level[:, 2] > top_cut)]
    cut = level[:, 2] > side_cut
    corners = []
    for number, angle_deg in enumerate((225, 315, 45, 135), start=1):
        out = np.array([np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))])
        lean = np.radians(ELEVATION_DEG)
        forward = (-out[0] * np.cos(lean), -out[1] * np.cos(lean), -np.sin(lean))
        if normal is not None:
            hidden = cut | seen_from_behind(normal, scene.level_from_world.T @ forward)
        elif not np.isfinite(side_cut):  # no room, no walls
            hidden = cut
        else:
            hidden = cut | _front_walls(level, ~cut, turn_side=number - 1)
        corners.append(scene.view(f"corner{number}", forward, (0.0, 0.0, 1.0), FIELD_DEG, hidden))
    best = max(_num_shown(view, len(xyz)) for view in corners)
    views += [view for view in corners if _num_shown(view, len(xyz)) >= LEAST_SHOWN * best]
    inside = None if is_object or len(xyz) < MIN_INSIDE_POINTS else _inside(scene, side_cut)
    return views if inside is None else [*views, inside]


def _num_shown(view: Viewpoint, count: int) -> int:
    return count if view.hidden is None else count - int(np.count_nonzero(view.hidden))


def seen_from_behind(normal: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Return (N,) bool, the points whose normals (N, 3) turn away from a camera that looks along `forward` (3,)."""
    return normal @ np.asarray(forward, normal.dtype) > 0.1  # a little more than edge-on


def faces_inwards(xyz: np.ndarray, normal: np.ndarray) -> bool:
    """Tell whether most normals face the middle of the cloud, as those of a scanned room do.

    Elsewhere (an object, or normals of unknown sign) leaving out what is seen from behind gains nothing.
    """
    sample = slice(None, None, max(1, len(xyz) // 20_000))
    to_middle = np.median(xyz[sample], axis=0) - xyz[sample]
    return bool(((to_middle * normal[sample]).sum(1) > 0).mean() > 0.5)


def mesh_normals(xyz: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return (N, 3) float32 unit normals of mesh vertices (N, 3), the area-weighted mean of their faces (F, 3).

    Vertices without a face, or with coordinates that are not finite, get zero.
    """
    corner = np.asarray(xyz, np.float64)[faces]  # (F, 3 corners, 3)
    area = np.nan_to_num(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), posinf=0.0, neginf=0.0)
    index, weight = faces.reshape(-1), np.repeat(area, 3, axis=0)
    total = np.stack([np.bincount(index, weight[:, axis], len(xyz)) for axis in range(3)], 1)
    return (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)).astype(np.float32)


def best_heading(views: list[Viewpoint], level_from_world: np.ndarray) -> float:
    """Return where the corner camera that leaves out the fewest points stands, as angle about up from level x."""
    corners = [view for view in views if view.name.startswith("corner")]
    hidden = [0 if view.hidden is None else int(view.hidden.sum()) for view in corners]
    if not corners:
        return 0.0
    forward = level_from_world @ corners[int(np.argmin(hidden))].world_from_cam[:3, 2]
    return float(np.arctan2(-forward[1], -forward[0]))


def camera_viewpoint(name: str, K: np.ndarray, world_from_cam: np.ndarray, frame_size, size) -> Viewpoint:
    """Return the view of a recorded camera, enlarged or shrunk to `size` with its whole picture visible.

    K, world_from_cam  (3, 3), (4, 4) float64 of the frame
    frame_size, size   (H, W) of the frame, of the view
    """
    zoom = min(size[0] / frame_size[0], size[1] / frame_size[1])
    scaled = np.array(K, np.float64)
    scaled[:2] *= zoom
    # the centre of the frame goes to the centre of the view; pixel centres are at whole numbers
    scaled[0, 2] = (K[0, 2] - (frame_size[1] - 1) / 2) * zoom + (size[1] - 1) / 2
    scaled[1, 2] = (K[1, 2] - (frame_size[0] - 1) / 2) * zoom + (size[0] - 1) / 2
    return Viewpoint(name, scaled, np.asarray(world_from_cam, np.float64), size)


def open_height(xyz: np.ndarray, level_from_world: np.ndarray) -> float | None:
    """Return the height (last row of level_from_world @ xyz) above which a room is cut open, None for nothing."""
    if len(xyz) == 0:
        return None
    height = _cut_heights(np.asarray(xyz, np.float64) @ level_from_world.T)[1]
    return float(height) if np.isfinite(height) else None


def upright(up: str) -> np.ndarray:
    """Return the (3, 3) rotation that takes the axis `up` to z.

    raises  ValueError when `up` is not x, y or z with an optional sign
    """
    axis = _AXES.get(up.lstrip("+-"))
    if axis is None or len(up.lstrip("+-")) < len(up) - 1:
        raise ValueError(f"up is {up!r}, expected x, y or z, with - before it when it points down")
    z = np.array(axis, np.float64) * (-1.0 if up.startswith("-") else 1.0)
    x = np.roll(np.abs(z), 1)
    return np.stack((x, np.cross(z, x), z))


def level_rotation(up: str, normal: np.ndarray | None) -> np.ndarray:
    """Return `upright(up)`, tilted so that floors and table tops come out level.

    Video starts with a camera that somebody holds, and its axes are the world's: `up` is then true to some 30 degrees.

    up      see `upright`
    normal  (N, 3) float that face the scanner, or None for no correction
    raises  ValueError for an `up` that is none
    """
    rotation = upright(up)
    if normal is None:
        return rotation
    sample = normal[:: max(1, len(normal) // 50_000)] @ rotation.T
    near = sample[sample[:, 2] > np.cos(np.radians(MAX_TILT_DEG))].astype(np.float64)
    if len(near) < MIN_LEVEL_SHARE * len(sample):
        return rotation
    peak = _densest_direction(near)
    is_level = near @ peak > np.cos(np.radians(8))
    if is_level.sum() < MIN_LEVEL_SHARE * len(sample) or peak[2] > np.cos(np.radians(2)):
        return rotation  # nothing level in sight, or level already
    x = np.cross((0.0, 1.0, 0.0), peak)
    x /= np.linalg.norm(x)
    return np.stack((x, np.cross(peak, x), peak)) @ rotation


def _densest_direction(directions: np.ndarray) -> np.ndarray:
    """Return the (3,) unit direction around which most of the (M, 3) unit vectors lie."""
    cell = np.floor((directions[:, :2] + 1) / 0.1).astype(np.int64)  # 0.1 is about 6 degrees
    key = cell[:, 0] * 32 + cell[:, 1]
    peak = directions[key == np.bincount(key).argmax()].mean(0)
    for _ in range(4):  # mean shift
        peak = directions[directions @ (peak / np.linalg.norm(peak)) > np.cos(np.radians(8))].mean(0)
    return peak / np.linalg.norm(peak)


def ceiling_height(level: np.ndarray) -> float | None:
    """Return the height below which a room is open, or None where no ceiling was scanned.

    level    (N, 3) float, metres, z up
    returns  the lower face of a layer in the top third that covers over a third of the plan's cells
    """
    floor, top = np.percentile(level[:, 2], (0.5, 99.9))
    if not MIN_ROOM_HEIGHT <= top - floor < MAX_ROOM_HEIGHT:
        return None
    cells = np.floor((level[:, :2] - level[:, :2].min(0)) / 0.25).astype(np.int64)
    cell = cells[:, 0] * (int(cells[:, 1].max()) + 1) + cells[:, 1]
    num_cells = len(np.unique(cell))
    for lower in np.arange(top - 0.15, floor + 2 / 3 * (top - floor), -0.05):
        layer = (level[:, 2] >= lower) & (level[:, 2] < lower + 0.2)
        if len(np.unique(cell[layer])) > num_cells / 3:
            return float(lower) - 0.1
    return None


def _cut_heights(level: np.ndarray) -> tuple[float, float]:
    """Return the heights above which the top view and the corner views show nothing, inf where nothing is cut."""
    low, high = np.percentile(level, (0.5, 99.9), axis=0)
    height = high[2] - low[2]
    if height < MIN_ROOM_HEIGHT or (high - low)[:2].min() < MIN_ROOM_WIDTH:
        return np.inf, np.inf
    ceiling = ceiling_height(level)
    # without a whole ceiling there may be a strip of one: the last centimetres of a wall are no loss
    side_cut = high[2] - 0.35 if ceiling is None else ceiling
    return float(min(side_cut, low[2] + max(2.0, 0.75 * height))), float(side_cut)


class _Scene:
    """Level points with what turns a level camera into a `Viewpoint`."""

    def __init__(self, level, size: tuple[int, int], origin, level_from_world, is_object: bool = False):
        self.level, self.size, self.origin, self.level_from_world = level, size, origin, level_from_world
        self.is_object = is_object

    def view(self, name: str, forward, above, field_deg: float, hidden: np.ndarray) -> Viewpoint:
        """Place a camera that looks along `forward` and has every shown point in its picture."""
        level_from_cam = _look(forward, above)
        focal = self.size[0] / 2 / np.tan(np.radians(field_deg) / 2)
        shown = self.level if hidden.all() else self.level[~hidden]
        if self.is_object:
            position = _fit(shown @ level_from_cam, focal, self.size, (OBJECT_FILL - 2 * ASIDE, OBJECT_FILL))
        else:
            position = _fit(_core(shown) @ level_from_cam, focal, self.size, (FILL, FILL))
        view = self.placed(name, level_from_cam, level_from_cam @ position, focal, hidden if hidden.any() else None)
        view.K[0, 2] += self.size[1] * ASIDE * self.is_object
        return view

    def placed(self, name, level_from_cam, position, focal: float, hidden) -> Viewpoint:
        """Return the viewpoint of a camera with this rotation and this position in level coordinates."""
        world_from_cam = np.eye(4)
        world_from_cam[:3, :3] = self.level_from_world.T @ level_from_cam
        world_from_cam[:3, 3] = self.level_from_world.T @ position + self.origin
        height, width = self.size
        K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], np.float64)
        return Viewpoint(name, K, world_from_cam, self.size, hidden)


def _look(forward, above) -> np.ndarray:
    """Return the (3, 3) rotation of a camera (columns x right, y down, z forward) in level coordinates."""
    z = np.asarray(forward, np.float64)
    z = z / np.linalg.norm(z)
    x = np.cross(z, above)
    x = x / np.linalg.norm(x)
    return np.stack((x, np.cross(z, x), z), axis=1)


def _core(points: np.ndarray) -> np.ndarray:
    """Return some thousand of the points, without the outermost percent at each end of each axis."""
    sample = points[:: max(1, len(points) // 20_000)]
    low, high = np.percentile(sample, (1, 99), axis=0)
    core = sample[((sample >= low - 1e-9) & (sample <= high + 1e-9)).all(1)]
    return core if len(core) else sample  # of two or three points each is the outermost


def _fit(points: np.ndarray, focal: float, size: tuple[int, int], fill: tuple[float, float]) -> np.ndarray:
    """Return the camera position, in its own axes, from which the points just take this share (x, y) of the picture."""
    slope_x, slope_y = fill[0] * size[1] / 2 / focal, fill[1] * size[0] / 2 / focal
    position = (points.min(0) + points.max(0)) / 2
    for _ in range(4):  # moving the camera changes which points touch the border; this settles quickly
        side = points - position
        position[2] += (side[:, 2] - np.maximum(np.abs(side[:, 0]) / slope_x, np.abs(side[:, 1]) / slope_y)).min()
        side = points - position
        depth = np.maximum(side[:, 2], 1e-6)
        for axis in (0, 1):
            ratio = side[:, axis] / depth
            position[axis] += (ratio.min() + ratio.max()) / 2 * float(np.median(depth))
    side = points - position
    position[2] += (side[:, 2] - np.maximum(np.abs(side[:, 0]) / slope_x, np.abs(side[:, 1]) / slope_y)).min()
    position[2] -= 0.2 * (1e-3 if len(points) > 1 else 5.0)  # a single point is seen from a metre away
    return position


def _plan_rotation(plan: np.ndarray) -> np.ndarray:
    """Return the (3, 3) turn about z after which the plan's bounding rectangle is smallest and wider than deep."""
    best = (np.inf, 0.0)
    for angle in np.radians(np.arange(0, 90, 2.0)):
        low, high = np.percentile(plan @ _turn(angle)[:2, :2].T, (1, 99), axis=0)
        # a margin keeps the given axes unless turning gains something
        area = float(np.prod(high - low)) * (1.0 if angle else 0.97)
        if area < best[0]:
            best = (area, angle if (high - low)[0] >= (high - low)[1] else angle - np.pi / 2)
    return _turn(best[1])


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def _front_walls(level: np.ndarray, shown: np.ndarray, turn_side: int) -> np.ndarray:
    """Return the points of the two walls between a corner camera and the room.

    turn_side  0 to 3: the camera stands at (-x, -y), (+x, -y), (+x, +y), (-x, +y)
    """
    sign_x, sign_y = ((-1, -1), (1, -1), (1, 1), (-1, 1))[turn_side]
    return _front_wall(level, shown, 0, sign_x) | _front_wall(level, shown, 1, sign_y)


def _front_wall(level: np.ndarray, shown: np.ndarray, axis: int, sign: int) -> np.ndarray:
    """Return the wall points at one end of an axis: within 0.3 m of the outermost tall column of each strip."""
    toward, across = level[:, axis] * sign, level[:, 1 - axis]
    if not shown.any():
        return np.zeros(len(level), bool)
    floor, top = np.percentile(level[shown, 2], (0.5, 99.5))
    back, front = np.percentile(toward, (1, 99))
    # furniture is lower than this; only the near third of the scene can stand in the way
    tall = shown & (level[:, 2] > floor + 0.75 * (top - floor)) & (toward > front - (front - back) / 3)
    strip = np.floor((across - across.min()) / 0.15).astype(np.int64)
    outermost = np.full(int(strip.max()) + 1, np.inf)
    if tall.any():
        reach = np.full(len(outermost), -np.inf)
        np.maximum.at(reach, strip[tall], toward[tall])
        found = np.isfinite(reach)
        outermost[found] = reach[found]
        # windows and doors leave gaps in a wall: bridge them with the nearest strip's wall
        outermost = outermost[_nearest_true(found)]
    low = level[:, 2] < floor + 0.12  # the floor stays
    return (toward > outermost[strip] - 0.3) & ~low


def _nearest_true(found: np.ndarray) -> np.ndarray:
    """Return for each entry the index of the nearest True entry."""
    index = np.flatnonzero(found)
    after = np.searchsorted(index, np.arange(len(found))).clip(0, len(index) - 1)
    before = (after - 1).clip(0)
    place = np.arange(len(found))
    return np.where(np.abs(index[before] - place) <= np.abs(index[after] - place), index[before], index[after])


def _inside(scene: _Scene, ceiling: float) -> Viewpoint | None:
    """Return a view from the freest spot at eye height towards most of the room, None for what is no room."""
    low, high = np.percentile(scene.level, (1, 99), axis=0)
    if (high - low)[2] < 1.2 or (high - low)[:2].min() < 1.5:
        return None
    eye = float(low[2] + min(EYE_HEIGHT, 0.75 * (high - low)[2], ceiling - 0.2 - low[2]))
    spot = _freest_spot(scene.level, eye, low, high)
    others = scene.level[:: max(1, len(scene.level) // 20_000)] - (*spot, eye)
    reach = np.hypot(others[:, 0], others[:, 1])
    heading = np.arctan2(others[:, 1], others[:, 0])
    half = np.radians(INSIDE_FIELD_DEG) / 2 * 1.2
    angles = np.radians(np.arange(0, 360, 10.0))
    weight = np.where(reach > 0.8, np.minimum(reach, 4.0), 0.0)  # far points make a deep picture
    seen = [weight[np.cos(heading - angle) > np.cos(half)].sum() for angle in angles]
    angle = angles[int(np.argmax(seen))]
    lean = np.radians(12)
    forward = (np.cos(angle) * np.cos(lean), np.sin(angle) * np.cos(lean), -np.sin(lean))
    focal = scene.size[0] / 2 / np.tan(np.radians(INSIDE_FIELD_DEG) / 2)
    return scene.placed("inside", _look(forward, (0.0, 0.0, 1.0)), np.array([*spot, eye]), focal, None)


def _freest_spot(level: np.ndarray, eye: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the plan position, over scanned floor, with the most free space around it, rather away from the middle."""
    from scipy.spatial import cKDTree

    grid = np.stack(np.meshgrid(*(np.linspace(low[i], high[i], 25) for i in (0, 1)), indexing="ij"), -1).reshape(-1, 2)
    standing = (level[:, 2] > low[2] + 0.3) & (level[:, 2] < eye + 0.35)  # what a person there would bump into
    at_eye, below = level[standing, :2], level[level[:, 2] < low[2] + 0.3, :2]
    if len(below):
        over_floor = cKDTree(below[:: max(1, len(below) // 20_000)]).query(grid)[0] < 0.25
        grid = grid[over_floor] if over_floor.any() else grid
    if len(at_eye) == 0:
        return grid[int(np.argmin(np.abs(grid - (low + high)[:2] / 2).sum(1)))]
    clearance = cKDTree(at_eye[:: max(1, len(at_eye) // 20_000)]).query(grid)[0]
    # beyond 0.7 m of clearance a spot near an end of the room shows more of it
    offset = np.hypot(*((grid - (low + high)[:2] / 2) / (high - low)[:2]).T)
    return grid[int(np.argmax(np.minimum(clearance, 0.7) + 0.2 * offset))]
