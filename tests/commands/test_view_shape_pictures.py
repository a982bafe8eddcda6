# SPDX-License-Identifier: Apache-2.0
import numpy as np

from pc3dcli.commands.view_scene import ShownCloud, ShownInstance
from pc3dcli.commands.view_shape_pictures import (
    NO_PART,
    heat_legend,
    heat_picture,
    page_cloud,
    part_colors,
    part_legend,
    shape_pictures,
)
from pc3dcli.commands.view_shapes import PointHeat
from pc3dcli.formats import overlay
from pc3dcli.geometry import render
from pc3dcli.geometry.colors import NONE_COLOR, instance_colors
from pc3dcli.geometry.surfels import close_surface

XYZ = np.random.default_rng(0).uniform(-1, 1, (60, 3)).astype(np.float32)


def shape(heat=None, count: int = 60) -> ShownCloud:
    """A shape whose first 20 points are a seat and next 30 a leg; the rest, if any, has no part."""
    parts = ShownInstance(1, np.arange(20), 20, "seat"), ShownInstance(4, np.arange(20, 50), 30, "leg")
    return ShownCloud(XYZ[:count], None, None, count, parts, heat, is_object=True, category="chair")


def test_marks_are_on_what_the_view_shows():
    """Two walls, one behind the other: of the two hardest patches that on the front wall is marked."""
    side = np.stack(np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40)), -1).reshape(-1, 2)
    xyz = np.concatenate([np.insert(side, 2, depth, axis=1) for depth in (0.0, 2.0)])
    K = np.array([[100.0, 0, 100], [0, 100, 80], [0, 0, 1]])
    world_from_cam = np.eye(4)
    world_from_cam[2, 3] = -3
    view = render.Viewpoint("front", K, world_from_cam, (160, 200))
    visible = render.visible_points(xyz, np.full(len(xyz), 0.05), view)
    values = np.zeros(len(xyz), np.float32)

    def picture(*centers) -> np.ndarray:
        return heat_picture(PointHeat(values, np.array(centers, np.float32)), xyz, view, visible, np.ones((160, 200)))

    hidden, seen, outside = (0.2, 0.0, 2.0), (-0.3, 0.1, 0.0), (9.0, 0.0, 0.0)
    plain = picture(outside)
    assert np.array_equal(picture(hidden), plain)
    changed = np.argwhere((picture(seen) != plain).any(axis=2))
    assert np.abs(changed.mean(axis=0) - (80 + 0.1 * 100 / 3, 100 - 0.3 * 100 / 3)).max() < 2


def test_the_legend_of_scores_has_their_numbers_and_explains_the_marks():
    heat = PointHeat(np.linspace(-1, 1, 101, dtype=np.float32), np.zeros((10, 3), np.float32))
    texts = [text for text, _ in heat_legend(heat)]
    assert texts == ["hard to fill in: 0.960", "easy: -0.960", "1 ... 10: hardest patches"]
    assert len(heat_legend(PointHeat(heat.values))) == 2  # no marks, nothing to explain


def test_the_legend_of_parts_has_their_names_and_grey_where_it_occurs():
    assert [text for text, _ in part_legend(shape())] == ["seat", "leg", NO_PART]
    assert [text for text, _ in part_legend(shape(count=50))] == ["seat", "leg"]
    colors = part_colors(shape())
    assert (colors[:20] == instance_colors(1)).all() and (colors[50:] == NONE_COLOR).all()


def test_pictures_bear_name_and_category(monkeypatch):
    drawn = []
    monkeypatch.setattr(overlay, "draw_legend", lambda picture, entries: drawn.append(entries[0]) or picture)
    view = render.Viewpoint("top", np.diag([100.0, 100, 1]), np.eye(4), (40, 40))
    nothing = render.Visible(np.full((40, 40), -1, np.int32), np.full((40, 40), np.inf, np.float32))
    names = [name for name, _ in shape_pictures(shape(PointHeat(XYZ[:, 2])), "a_1", view, nothing, np.ones((40, 40)))]
    assert names == ["heat", "parts"] and drawn == [("a_1: chair", None)] * 2


def test_dots_of_the_page_belong_to_the_part_of_their_point():
    cloud = shape()
    surface = close_surface(cloud.xyz, 60 * 10)
    page, parts = page_cloud(cloud, surface, "a_1", np.eye(3), 0.0)
    assert len(page.xyz) == len(surface.xyz) > 60 and page.num_points == 60 and page.facts == ("chair",)
    assert [set(surface.source[one.points]) for one in parts] == [set(range(20)), set(range(20, 50))]
