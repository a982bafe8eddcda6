# SPDX-License-Identifier: Apache-2.0
"""The pictures and the page of one scene, made from what `view_scene` found."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pc3dcli.commands.view_scene import SceneContent, ShownCloud, spread, usable_frames
from pc3dcli.commands.view_shapes import heat_colors, heat_picture
from pc3dcli.datasets.scene import RgbdFrame
from pc3dcli.errors import FormatError
from pc3dcli.formats import overlay, web_page
from pc3dcli.formats.coco_rle import decode_mask
from pc3dcli.geometry import colors, render, viewpoints
from pc3dcli.stream.records import TRACK_LIMIT, is_track_id

RAMP_STEPS = 32
NONE_TEXT, PALE_TEXT = "grey: no instance (unlabelled)", "pale: wall, floor or other large plane"
PAGE_FRAMES = 48  # at most, in a page; ours
PAGE_FRAME_SIDE = 640  # pixels; 48 pictures are some 4 MB.  Ours


def scene_views(cloud: ShownCloud, content: SceneContent, size: tuple[int, int]) -> list[render.Viewpoint]:
    """Return the standard views and that of the camera in the middle of the video, size (H, W)."""
    views = viewpoints.choose_viewpoints(cloud.xyz, size, _level_from_world(cloud, content), cloud.normal)
    if cloud.heat is not None:  # an object, which nobody stands in
        views = [view for view in views if view.name != "inside"]
    frames = usable_frames(content)
    if frames:
        frame = frames[len(frames) // 2]
        views.append(viewpoints.camera_viewpoint("camera", frame.K, frame.world_from_cam, frame.size, size))
    return views


def cloud_pictures(
    cloud: ShownCloud, views: list[render.Viewpoint], radius: np.ndarray, palette: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, (H, W, 3) uint8 RGB) of every view in recorded and in instance colours, and an overview.

    radius   (N,) float, metres, of the points' discs
    palette  (M, 3) uint8, from `instance_palette`
    """
    top = _top_instance(cloud)
    overviews = {}
    for view in views:
        visible = render.visible_points(cloud.xyz, radius, view)
        shade = render.edge_shading(visible.depth)
        if cloud.heat is not None:
            overviews[view.name] = heat_picture(cloud.heat, cloud.xyz, view, visible, shade)
            yield f"{view.name}_heat", overviews[view.name]
            continue
        if cloud.rgb is not None:
            overviews[view.name] = render.paint(visible, shade, cloud.rgb)
            yield f"{view.name}_rgb", overviews[view.name]
        if cloud.instances or cloud.rgb is None:
            overviews[view.name] = _instance_picture(cloud, top, palette, visible, shade)
            yield f"{view.name}_instances", overviews[view.name]
    if overviews:
        columns = 3 if len(overviews) <= 6 else 4
        yield "overview", overlay.contact_sheet(list(overviews.values()), list(overviews), columns=columns)


def frame_pictures(content: SceneContent, num_frames: int) -> list[tuple[str, np.ndarray]]:
    """Return (caption, (H, W, 3) uint8 RGB) of at most `num_frames` evenly spaced frames, their masks drawn over them.

    returns  an empty list for a scene without masks
    raises   FormatError for a mask that does not fit its frame
    """
    frames = [frame for frame in usable_frames(content) if content.masks.get(frame.frame)]
    pictures = []
    for index in spread(len(frames), num_frames) if num_frames else ():
        frame = frames[index]
        records = content.masks[frame.frame]
        tracks = np.array([_track(record) for record in records], np.int64)
        masks = [decode_mask(record["rle"]) for record in records]
        if any(mask.shape != tuple(frame.size) for mask in masks):
            raise FormatError(f"a mask of frame {frame.frame} is not of its size {frame.size[0]} x {frame.size[1]}")
        image = RgbdFrame(content.image_root, frame).rgb
        drawn = overlay.overlay_masks(image, masks, [str(t) for t in tracks], colors.instance_colors(tracks))
        pictures.append((f"frame {frame.frame}, {len(masks)} masks", drawn))
    return pictures


def page_frames(content: SceneContent, pictures: list[tuple[str, np.ndarray]]) -> web_page.PageFrames:
    """Return the pictures of `frame_pictures`, evenly thinned and scaled down, for a page."""
    kept = [pictures[index] for index in spread(len(pictures), PAGE_FRAMES)]
    jpegs = [(caption, overlay.jpeg_bytes(picture, max_side=PAGE_FRAME_SIDE)) for caption, picture in kept]
    return web_page.PageFrames(tuple(jpegs), num_frames=len(content.frames))


def scene_page(
    cloud: ShownCloud,
    content: SceneContent,
    views: list[render.Viewpoint],
    radius: np.ndarray,
    palette: np.ndarray,
    *,
    frames: web_page.PageFrames,
    origin: list[str],
) -> str:
    """Return the text of the scene's HTML page; it starts at the best of the views.

    palette  (M, 3) uint8, from `instance_palette`
    origin   lines that say how the data were made
    """
    level_from_world = _level_from_world(cloud, content)
    instances = [
        web_page.PageInstance(
            instance=one.instance,
            points=one.points,
            color=color,
            score_color=colors.score_colors(np.array(np.nan if one.score is None else one.score)),
            label=one.label,
            score=one.score,
            num_points=one.num_points,
        )
        for one, color in zip(cloud.instances, palette, strict=True)
    ]
    title, is_heat = content.record["scene"], cloud.heat is not None
    page = web_page.PageCloud(
        title=f"{title}: yellow is hard to fill in, blue easy" if is_heat else title,
        xyz=cloud.xyz,
        rgb=heat_colors(cloud.heat) if is_heat else cloud.rgb,
        level_from_world=level_from_world,
        radius=radius,
        normal=cloud.normal,
        heading=viewpoints.best_heading(views, level_from_world),
        num_points=cloud.num_points,
        cut_height=None if is_heat else viewpoints.open_height(cloud.xyz, level_from_world),
    )
    ramp = colors.score_colors(np.linspace(0, 1, RAMP_STEPS))
    return web_page.build_page(page, instances, none_color=colors.NONE_COLOR, ramp=ramp, frames=frames, origin=origin)


def instance_palette(cloud: ShownCloud, content: SceneContent) -> np.ndarray:
    """Return the (M, 3) uint8 colours of the instances; strong ones are left for things, walls and floors get pale."""
    palette = colors.instance_colors(np.array([one.instance for one in cloud.instances], np.int64))
    level = cloud.xyz @ _level_from_world(cloud, content).T
    for index, one in enumerate(cloud.instances):
        if colors.is_large_plane(level[one.points], level):
            palette[index] = colors.pale(palette[index])
    return palette


def _level_from_world(cloud: ShownCloud, content: SceneContent) -> np.ndarray:
    try:
        return viewpoints.level_rotation(str(content.record.get("up", "z")), cloud.normal)
    except ValueError as error:
        raise FormatError(f"in the scene record: {error}") from None


def _top_instance(cloud: ShownCloud) -> np.ndarray:
    """Return for each point the smallest instance that it belongs to, as index into the instances, -1 for none."""
    top = np.full(len(cloud.xyz), -1, np.int64)
    for index in sorted(range(len(cloud.instances)), key=lambda i: (-len(cloud.instances[i].points), i)):
        top[cloud.instances[index].points] = index
    return top


def _instance_picture(
    cloud: ShownCloud, top: np.ndarray, palette: np.ndarray, visible: render.Visible, shade: np.ndarray
) -> np.ndarray:
    """Draw a view in the colours `palette` (M, 3) of the instances `top` (N,), with ids and a legend."""
    table = np.concatenate((palette, np.array([colors.NONE_COLOR], np.uint8)))  # -1 picks the last entry
    picture = render.paint(visible, shade, colors.tint(table[top], cloud.rgb))
    shown = np.where(visible.index < 0, -1, top[visible.index])
    present = np.unique(shown[shown >= 0]).tolist()
    names = {index: str(cloud.instances[index].instance) for index in present}
    picture = overlay.label_regions(picture, shown, names, {index: palette[index] for index in present})
    legend = [(NONE_TEXT, colors.NONE_COLOR)] if ((shown < 0) & (visible.index >= 0)).any() else []
    strong = colors.instance_colors(np.array([one.instance for one in cloud.instances], np.int64))
    legend += [(PALE_TEXT, colors.PALE)] if (palette != strong)[present].any() else []
    return overlay.draw_legend(picture, legend)


def _track(record: dict) -> int:
    if not is_track_id(record["track"]):
        problem = f'"track" is {record["track"]!r} in frame {record["frame"]}'
        raise FormatError(f"{problem}, expected a whole number from 0 to {TRACK_LIMIT - 1}")
    return record["track"]
