# SPDX-License-Identifier: Apache-2.0
"""The pictures and the page of an object cloud: its scores as heat, its parts in one colour each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pc3dcli.commands.view_scene import ShownCloud
from pc3dcli.commands.view_shapes import PointHeat
from pc3dcli.formats import overlay
from pc3dcli.formats.web_page import PageCloud, PageInstance, PagePatches, PageValues
from pc3dcli.geometry import colors, render
from pc3dcli.geometry.heat import heat_bounds, shown_heat
from pc3dcli.geometry.surfels import Surface

PICTURE_DOTS, PAGE_DOTS = 60_000, 30_000  # that stand for the points of an object; ours
BEHIND = 0.05  # of the cloud's size that a center may lie behind what a view shows there; ours
NO_PART = "grey: no part"
SCORE_NOTE = "how hard the network expects it to be to fill in a patch here."
DIFFICULTY_NOTE = "the Chamfer error of patches here when they were hidden and filled in."
Legend = list[tuple[str, "np.ndarray | None"]]


def shape_pictures(
    cloud: ShownCloud, title: str, view: render.Viewpoint, visible: render.Visible, shade: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, (H, W, 3) uint8 RGB) of a view of an object: its scores, its parts, or the bare points.

    visible, shade  from `surfels.see_surface`
    """
    heading: Legend = [(title if cloud.category is None else f"{title}: {cloud.category}", None)]
    if cloud.heat is not None:
        picture = heat_picture(cloud.heat, cloud.xyz, view, visible, shade)
        yield "heat", overlay.draw_legend(picture, heading + heat_legend(cloud.heat))
    if cloud.instances or cloud.heat is None:
        picture = render.paint(visible, shade, part_colors(cloud))
        yield "parts", overlay.draw_legend(picture, heading + part_legend(cloud))


def heat_picture(
    heat: PointHeat, xyz: np.ndarray, view: render.Viewpoint, visible: render.Visible, shade: np.ndarray
) -> np.ndarray:
    """Draw a view of points xyz (N, 3) in the colours of their scores, the ranks of the hardest patches on it.

    returns  (H, W, 3) uint8 RGB
    """
    # dark blue for easy points to light yellow for hard ones
    picture = render.paint(visible, shade, colors.score_colors(shown_heat(heat.values)))
    near = BEHIND * float(np.linalg.norm(np.ptp(xyz, axis=0)))
    cam_from_world = np.linalg.inv(view.world_from_cam)
    in_camera = heat.centers @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    for rank, (x, y, z) in enumerate((in_camera @ view.K.T).tolist(), 1):
        if z > render.NEAR and z <= _depth(visible.depth, round(x / z), round(y / z)) + near:
            picture = overlay.draw_mark(picture, (round(x / z), round(y / z)), str(rank))
    return picture


def heat_legend(heat: PointHeat) -> Legend:
    """Return what the colours of scores and the marks mean."""
    low, high = heat_bounds(heat.values)
    ends = (f"hard to fill in: {high:#.3g}", 1.0), (f"easy: {low:#.3g}", 0.0)
    legend: Legend = [(text, colors.score_colors(np.array(place))) for text, place in ends]
    count = len(heat.centers)
    return legend + [(f"1 ... {count}: hardest patches", None)] * (count > 1)


def part_colors(cloud: ShownCloud) -> np.ndarray:
    """Return the colour (N, 3) uint8 of the part of each point, grey for none."""
    found = np.full(len(cloud.xyz), -1, np.int64)
    for one in cloud.instances:
        found[one.points] = one.instance
    return colors.instance_colors(found)


def part_legend(cloud: ShownCloud) -> Legend:
    """Return the names of the parts with their colours, and what grey means where there is any."""
    legend: Legend = [(str(one.label), colors.instance_colors(one.instance)) for one in cloud.instances]
    has_none = sum(len(one.points) for one in cloud.instances) < len(cloud.xyz)
    return legend + [(NO_PART, np.array(colors.NONE_COLOR))] * (has_none and bool(legend))


def page_cloud(cloud: ShownCloud, surface: Surface, title: str, level_from_world: np.ndarray, heading: float):
    """Return the points of an object's page, which are the dots of its surface, and their parts.

    surface  of PAGE_DOTS
    heading  see PageCloud
    returns  PageCloud, list of PageInstance
    """
    facts = [] if cloud.category is None else [cloud.category]
    patches = None if cloud.heat is None else cloud.heat.patches
    if patches is not None and patches.spearman is not None:
        facts.append(f"Spearman of score and measured difficulty: {patches.spearman:.3f}")
    page = PageCloud(
        title=title,
        xyz=surface.xyz,
        rgb=None,
        level_from_world=level_from_world,
        radius=surface.radius,
        heading=heading,
        num_points=cloud.num_points,
        is_object=True,
        facts=tuple(facts),
    )
    grey, parts = np.array(colors.NONE_COLOR), []
    for one in cloud.instances:
        is_part = np.zeros(len(cloud.xyz), bool)
        is_part[one.points] = True
        dots, color = np.flatnonzero(is_part[surface.source]), colors.instance_colors(one.instance)
        parts.append(PageInstance(one.instance, dots, color, grey, one.label, num_points=one.num_points))
    return page, parts


def page_scores(heat: PointHeat, surface: Surface) -> tuple[list[PageValues], PagePatches | None]:
    """Return the colourings of an object's page: by score and, where it was measured, by difficulty."""
    found = [("heat", "Score", SCORE_NOTE, heat.values, None if heat.patches is None else heat.patches.score)]
    if heat.difficulty is not None:
        found.append(("difficulty", "Measured difficulty", DIFFICULTY_NOTE, heat.difficulty, heat.patches.difficulty))
    values = [
        PageValues(
            name,
            title,
            note,
            points[surface.source],
            heat_bounds(points),
            ("easy", "hard"),
            np.zeros(0) if of_patch is None else of_patch,
        )
        for name, title, note, points, of_patch in found
    ]
    return values, None if heat.patches is None else PagePatches(heat.patch[surface.source], heat.patches.rank)


def _depth(depth: np.ndarray, column: int, row: int) -> float:
    """Return the depth at a pixel of (H, W), -inf outside."""
    is_inside = 0 <= row < depth.shape[0] and 0 <= column < depth.shape[1]
    return float(depth[row, column]) if is_inside else -np.inf
