# SPDX-License-Identifier: Apache-2.0
"""What `pc3d view` shows of an object cloud that `pc3d mask-score` scored: its points, and heat on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pc3dcli.commands.patch_score_file import parse_patch_score
from pc3dcli.errors import FormatError
from pc3dcli.formats import overlay
from pc3dcli.formats.cloud import Cloud, xyz_sha256
from pc3dcli.geometry import colors, render
from pc3dcli.geometry.heat import interpolate_heat, shown_heat

if TYPE_CHECKING:
    from pc3dcli.datasets.shape import ShapeSet

MARKED = 10  # patches of highest score whose centers bear their rank; ours
FRONT_REACH = 0.03  # of a picture's height, around a mark; ours
BEHIND = 0.05  # of the cloud's size that a center may lie behind what a view shows there; ours
LEGEND = (("hard to fill in", 1.0), ("easy", 0.0))


@dataclass(frozen=True)
class PointHeat:
    """Scores of a cloud.

    values   (N,) float32, score of each point shown
    centers  (n, 3) float32, centers of the patches of highest score, highest first, at most MARKED
    """

    values: np.ndarray
    centers: np.ndarray


def read_shape_points(record: dict) -> Cloud:
    """Return the points of a shape that a `scene` record of mask-score names.

    raises  InputError, FormatError when they are not there or not those that were scored
    """
    shapes = _open(record["root"], str(record.get("dataset", "auto")), str(record.get("split", "all")))
    xyz = shapes.read(int(shapes.find([record["scene"]])[0])).xyz
    expected = record.get("xyz_sha256")
    if expected is not None and xyz_sha256(xyz) != expected:
        message = f"the points of {record['scene']} are not those that were scored (xyz_sha256 differs)"
        raise FormatError(message, file=record["root"])
    return Cloud(xyz)


@lru_cache(maxsize=4)
def _open(root: str, dataset: str, split: str) -> ShapeSet:
    from pc3dcli.datasets.shape_set import open_shapes

    return open_shapes(Path(root), dataset=dataset, split=split)


def point_heat(record: dict, xyz: np.ndarray) -> PointHeat:
    """Return the scores of a `patch_score` record at points xyz (N, 3); raises FormatError for a damaged record."""
    patches = parse_patch_score(record, f"scene {record['scene']}")
    hardest = np.argsort(-patches.score, kind="stable")[:MARKED]
    return PointHeat(interpolate_heat(xyz, patches.center, patches.score), patches.center[hardest])


def heat_colors(heat: PointHeat) -> np.ndarray:
    """Return (N, 3) uint8 RGB, from dark blue for easy points to light yellow for hard ones."""
    return colors.score_colors(shown_heat(heat.values))


def heat_picture(
    heat: PointHeat, xyz: np.ndarray, view: render.Viewpoint, visible: render.Visible, shade: np.ndarray
) -> np.ndarray:
    """Draw a view of points xyz (N, 3) in the colours of their scores, the ranks of the hardest patches on it.

    returns  (H, W, 3) uint8 RGB
    """
    picture = render.paint(visible, shade, heat_colors(heat))
    near = BEHIND * float(np.linalg.norm(np.ptp(xyz, axis=0)))
    cam_from_world = np.linalg.inv(view.world_from_cam)
    in_camera = heat.centers @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    for rank, (x, y, z) in enumerate((in_camera @ view.K.T).tolist(), 1):
        if z > render.NEAR and z <= _front(visible.depth, round(x / z), round(y / z)) + near:
            picture = overlay.draw_mark(picture, (round(x / z), round(y / z)), str(rank))
    legend = [(text, colors.score_colors(np.array(value))) for text, value in LEGEND]
    return overlay.draw_legend(picture, legend)


def _front(depth: np.ndarray, column: int, row: int) -> float:
    """Return the depth nearest to the camera around a pixel of (H, W), -inf outside: sparse points show through."""
    reach = round(FRONT_REACH * depth.shape[0])
    if not (0 <= row < depth.shape[0] and 0 <= column < depth.shape[1]):
        return -np.inf
    around = depth[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
    return float(around.min())
