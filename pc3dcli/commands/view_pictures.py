# SPDX-License-Identifier: Apache-2.0
"""The pictures and the page of one scene, made from what `view_scene` found."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pc3dcli.commands.view_scene import SceneContent, ShownCloud, spread, usable_frames
from pc3dcli.commands.view_shape_pictures import PAGE_DOTS, PICTURE_DOTS, page_cloud, page_scores, shape_pictures
from pc3dcli.commands.view_shapes import up_axis
from pc3dcli.datasets.scene import RgbdFrame
from pc3dcli.errors import FormatError
from pc3dcli.formats import overlay, web_page
from pc3dcli.formats.coco_rle import decode_mask
from pc3dcli.geometry import colors, render, surfels, viewpoints
from pc3dcli.stream.records import TRACK_LIMIT, is_track_id

RAMP_STEPS = 64
NONE_TEXT, PALE_TEXT = "grey: no instance (unlabelled)", "pale: wall, floor or other large plane"
PAGE_FRAMES = 48  # at most, in a page; ours
PAGE_FRAME_SIDE = 640  # pixels; 48 pictures are some 4 MB.  Ours


def scene_views(
    cloud: ShownCloud, content: SceneContent, surface: surfels.Surface, size: tuple[int, int]
) -> list[render.Viewpoint]:
    """Return the standard views and that of the camera in the middle of the video, size (H, W).

    surface  from `picture_surface`; of an object all of it is in the picture
    """
    level_from_world = _level_from_world(cloud, content)
    if cloud.is_object:
        return viewpoints.choose_viewpoints(surface.xyz, size, level_from_world, is_object=True)
    views = viewpoints.choose_viewpoints(cloud.xyz, size, level_from_world, cloud.normal)
    frames = usable_frames(content)
    if frames:
        frame = frames[len(frames) // 2]
        views.append(viewpoints.camera_viewpoint("camera", frame.K, frame.world_from_cam, frame.size, size))
    return views


def picture_surface(cloud: ShownCloud) -> surfels.Surface:
    """Return the discs that are drawn: those of an object close its surface, as its points are few."""
    if cloud.is_object:
        return surfels.close_surface(cloud.xyz, PICTURE_DOTS)
    return surfels.Surface(cloud.xyz, render.splat_radii(cloud.xyz), np.arange(len(cloud.xyz)))


def cloud_pictures(
    cloud: ShownCloud, title: str, views: list[render.Viewpoint], surface: surfels.Surface, palette: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, (H, W, 3) uint8 RGB) of every view in recorded and in instance colours, and an overview.

    surface  from `picture_surface`
    palette  (M, 3) uint8, from `instance_palette`
    """
    top = _top_instance(cloud)
    overviews = {}
    for view in views:
        if cloud.is_object:
            visible, shade = surfels.see_surface(surface, cloud.xyz, view)
            for name, picture in shape_pictures(cloud, title, view, visible, shade):
                overviews.setdefault(view.name, picture)
                yield f"{view.name}_{name}", picture
            continue
        visible = render.visible_points(cloud.xyz, surface.radius, view)
        shade = render.edge_shading(visible.depth)
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
    surface: surfels.Surface,
    palette: np.ndarray,
    *,
    frames: web_page.PageFrames,
    origin: list[str],
) -> str:
    """Return the text of the scene's HTML page; it starts at the best of the views.

    surface  from `picture_surface`
    palette  (M, 3) uint8, from `instance_palette`
    origin   lines that say how the data were made
    """
    level_from_world = _level_from_world(cloud, content)
    heading, title = viewpoints.best_heading(views, level_from_world), content.record["scene"]
    values, patches = [], None
    if cloud.is_object:
        dots = surfels.close_surface(cloud.xyz, PAGE_DOTS)
        page, instances = page_cloud(cloud, dots, title, level_from_world, heading)
        if cloud.heat is not None:
            values, patches = page_scores(cloud.heat, dots)
    else:
        instances = _page_instances(cloud, palette)
        page = web_page.PageCloud(
            title=title,
            xyz=cloud.xyz,
            rgb=cloud.rgb,
            level_from_world=level_from_world,
            radius=surface.radius,
            normal=cloud.normal,
            heading=heading,
            num_points=cloud.num_points,
            cut_height=viewpoints.open_height(cloud.xyz, level_from_world),
        )
    ramp = colors.score_colors(np.linspace(0, 1, RAMP_STEPS))
    look = {"none_color": colors.NONE_COLOR, "ramp": ramp, "frames": frames, "origin": origin}
    return web_page.build_page(page, instances, **look, values=values, patches=patches)


def _page_instances(cloud: ShownCloud, palette: np.ndarray) -> list[web_page.PageInstance]:
    is_pale = (palette != _strong_colors(cloud)).any(axis=1)
    return [
        web_page.PageInstance(
            instance=one.instance,
            points=one.points,
            color=color,
            score_color=colors.score_colors(np.array(np.nan if one.score is None else one.score)),
            label=one.label,
            score=one.score,
            num_points=one.num_points,
            is_pale=bool(pale),
        )
        for one, color, pale in zip(cloud.instances, palette, is_pale, strict=True)
    ]


def _strong_colors(cloud: ShownCloud) -> np.ndarray:
    """Return the (M, 3) uint8 colours that the instances have if none is pale."""
    return colors.instance_colors(np.array([one.instance for one in cloud.instances], np.int64))


def instance_palette(cloud: ShownCloud, content: SceneContent) -> np.ndarray:
    """Return the (M, 3) uint8 colours of the instances; strong ones are left for things, walls and floors get pale."""
    palette = _strong_colors(cloud)
    if cloud.is_object:
        return palette
    level = cloud.xyz @ _level_from_world(cloud, content).T
    for index, one in enumerate(cloud.instances):
        if colors.is_large_plane(level[one.points], level):
            palette[index] = colors.pale(palette[index])
    return palette


def _level_from_world(cloud: ShownCloud, content: SceneContent) -> np.ndarray:
    try:
        return viewpoints.level_rotation(up_axis(content), cloud.normal)
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
    legend += [(PALE_TEXT, colors.PALE)] if (palette != _strong_colors(cloud))[present].any() else []
    return overlay.draw_legend(picture, legend)


def _track(record: dict) -> int:
    if not is_track_id(record["track"]):
        problem = f'"track" is {record["track"]!r} in frame {record["frame"]}'
        raise FormatError(f"{problem}, expected a whole number from 0 to {TRACK_LIMIT - 1}")
    return record["track"]
