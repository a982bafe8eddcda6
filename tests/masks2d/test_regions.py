# SPDX-License-Identifier: Apache-2.0
"""Regions on rendered boxes: whole objects, parts, support planes, and inputs that are barely images."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pc3dcli.geometry.normals import fit_surface
from pc3dcli.masks2d.region_link import LinkLimits, RegionMoments, link_pieces
from pc3dcli.masks2d.region_planes import PlaneLimits, structure_planes
from pc3dcli.masks2d.region_superpixels import superpixels
from pc3dcli.masks2d.region_tree import TreeBorders, merge_tree
from pc3dcli.masks2d.regions import Regions, RegionsConfig

H, W = 240, 320
K = np.array([[270.0, 0, (W - 1) / 2], [0, 270.0, (H - 1) / 2], [0, 0, 1]])


def rays() -> np.ndarray:
    y, x = np.mgrid[:H, :W]
    return np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones((H, W))], -1)


def camera_down(angle: float) -> np.ndarray:
    """Rotation (world from camera) of a camera one metre above the table that looks down by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, -s, c], [0, -c, -s]])


def render_boxes(boxes: list[tuple], texture: bool = False) -> SimpleNamespace:
    """A table z = 0 seen from (0, 0, 1), with boxes (low xyz, high xyz, colour); ids from 1 in `instance`."""
    world_from_cam = camera_down(0.75)
    direction = rays() @ world_from_cam.T
    origin = np.array([0.0, 0.0, 1.0])
    depth = np.where(direction[..., 2] < -0.05, -1.0 / np.minimum(direction[..., 2], -0.05), 0.0)
    depth[depth > 4] = 0
    instance, rgb = np.zeros((H, W), int), np.full((H, W, 3), (180, 160, 130), np.uint8)
    for number, (low, high, colour) in enumerate(boxes, 1):
        with np.errstate(divide="ignore", invalid="ignore"):
            near, far = (np.array(low) - origin) / direction, (np.array(high) - origin) / direction
        enter, leave = np.minimum(near, far).max(-1), np.maximum(near, far).min(-1)
        hit = (enter < leave) & (enter > 0) & ((enter < depth) | (depth == 0))
        depth[hit], instance[hit], rgb[hit] = enter[hit], number, colour
        if texture:
            y, x = np.nonzero(hit)
            dark = ((y // 9 + x // 7) % 2).astype(bool)
            rgb[y[dark], x[dark]] = 255 - np.array(colour)
    return SimpleNamespace(
        rgb=rgb,
        depth=depth.astype(np.float32),
        K=K,
        size=(H, W),
        world_from_cam=np.eye(4),
        frame=SimpleNamespace(frame="0"),
        instance=instance,
    )


BOXES = [
    ((-0.35, 0.75, 0.0), (-0.17, 0.9, 0.25), (200, 40, 40)),
    ((0.05, 0.7, 0.0), (0.3, 0.95, 0.12), (40, 40, 200)),
    ((-0.12, 1.3, 0.0), (0.02, 1.45, 0.2), (40, 160, 60)),
]


def best_iou(masks: list, target: np.ndarray) -> float:
    return max(((m.mask & target).sum() / (m.mask | target).sum() for m in masks), default=0.0)


def keep_larger(masks: list, contained: float = 0.8) -> list:
    """The containment filter of the tracking policy: large to small, unless inside a kept one."""
    kept: list = []
    for m in sorted(masks, key=lambda m: -m.mask.sum()):
        if all((m.mask & k.mask).sum() <= contained * m.mask.sum() for k in kept):
            kept.append(m)
    return kept


@pytest.mark.parametrize("texture", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.0015])
def test_boxes_come_out_whole_after_the_containment_filter(texture, noise):
    view = render_boxes(BOXES, texture)
    inverse_noise = np.random.default_rng(0).normal(0, noise, (H, W))
    view.depth = np.where(view.depth > 0, 1 / (1 / np.maximum(view.depth, 1e-3) + inverse_noise), 0).astype(np.float32)
    masks = keep_larger(Regions().masks(view))
    for number in (1, 2, 3):
        # The smallest box is four checks wide: at its rim print and shape fall into one superpixel.
        assert best_iou(masks, view.instance == number) > (0.65 if texture and number == 3 else 0.8), number
    assert best_iou(masks, (view.instance == 0) & (view.depth > 0)) > 0.9


def test_no_mask_joins_an_object_with_its_support():
    view = render_boxes(BOXES)
    table = (view.instance == 0) & (view.depth > 0)
    for m in Regions().masks(view):
        for number in (1, 2, 3):
            box = view.instance == number
            both = (m.mask & box).sum() > 0.5 * box.sum() and (m.mask & table).sum() > 0.2 * box.sum()
            assert not both, number


def test_touching_boxes_of_one_colour_are_split_by_shape():
    grey = (120, 120, 120)
    view = render_boxes([((-0.5, 0.8, 0.0), (-0.3, 1.0, 0.25), grey), ((-0.3, 0.75, 0.0), (-0.1, 0.95, 0.1), grey)])
    masks = Regions().masks(view)
    assert best_iou(masks, view.instance == 1) > 0.75
    assert best_iou(masks, view.instance == 2) > 0.75


def test_box_cut_by_an_occluder_is_one_mask():
    view = render_boxes(
        [((-0.3, 1.1, 0.0), (0.3, 1.2, 0.25), (200, 40, 40)), ((-0.06, 0.8, 0.0), (0.06, 0.9, 0.5), (40, 160, 60))]
    )
    back = view.instance == 1
    assert not back[:, W // 2].all() and best_iou(keep_larger(Regions().masks(view)), back) > 0.8


def test_colour_alone_finds_regions_without_depth():
    view = render_boxes(BOXES)
    for view.depth in (None, np.zeros((H, W), np.float32), np.full((H, W), np.nan, np.float32)):
        masks = Regions().masks(view)
        assert all(best_iou(masks, view.instance == number) > 0.7 for number in (1, 2, 3))


def test_contract_of_the_masks():
    view = render_boxes(BOXES)
    masks = Regions().masks(view)
    assert 4 <= len(masks) <= RegionsConfig().region_max_masks
    for m in masks:
        assert m.mask.shape == (H, W) and m.mask.dtype == bool and m.mask.any()
        assert isinstance(m.score, float) and 0.0 <= m.score <= 1.0
    assert [m.score for m in masks] == sorted((m.score for m in masks), reverse=True)
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert (a.mask & b.mask).sum() <= 0.93 * (a.mask | b.mask).sum()


def test_two_runs_are_identical_and_leave_the_view_alone():
    view = render_boxes(BOXES)
    rgb, depth = view.rgb.copy(), view.depth.copy()
    source = Regions()
    first, second = source.masks(view), source.masks(view)
    assert [m.score for m in first] == [m.score for m in second]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first, second, strict=True))
    assert np.array_equal(rgb, view.rgb) and np.array_equal(depth, view.depth)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 5), (16, 16)])
@pytest.mark.parametrize("with_depth", [False, True])
def test_tiny_and_constant_images(size, with_depth):
    view = SimpleNamespace(
        rgb=np.full((*size, 3), 77, np.uint8),
        K=np.eye(3) * [20, 20, 1],
        size=size,
        depth=np.full(size, 1.5, np.float32) if with_depth else None,
    )
    masks = Regions().masks(view)
    assert all(m.mask.shape == size and m.mask.any() for m in masks)
    assert masks and masks[0].mask.all()


def test_large_images_are_segmented_smaller_and_returned_at_their_size():
    view = render_boxes(BOXES)
    small = Regions(replace(RegionsConfig(), region_max_pixels=160 * 120, region_spacing=7)).masks(view)
    assert all(m.mask.shape == (H, W) for m in small)
    assert best_iou(small, view.instance == 2) > 0.75


def test_many_random_holes_in_depth():
    view = render_boxes(BOXES)
    view.depth[np.random.default_rng(1).random((H, W)) < 0.6] = 0
    masks = keep_larger(Regions().masks(view))
    assert all(best_iou(masks, view.instance == number) > 0.7 for number in (1, 2, 3))


def test_every_setting_is_named_for_its_source():
    assert all(name.startswith("region_") for name in RegionsConfig.__dataclass_fields__)


def test_surface_fit_recovers_a_plane_exactly():
    normal, distance = np.array([0.2, -0.5, -0.8]), -1.2
    normal /= np.linalg.norm(normal)
    depth = (distance / (rays() @ normal)).astype(np.float32)
    fit = fit_surface(depth, K)
    assert fit.valid.all()
    np.testing.assert_allclose(fit.inverse, 1 / depth, rtol=1e-4)
    assert (fit.normal @ normal).min() > 0.9999


def test_surface_fit_keeps_a_step_sharp():
    depth = np.where(np.arange(W) < W // 2, 1.0, 1.5)[None].repeat(H, 0).astype(np.float32)
    fit = fit_surface(depth, K)
    np.testing.assert_allclose(fit.inverse, 1 / depth, atol=1e-3)
    assert fit.normal[..., 2].max() < -0.999


def test_structure_planes_find_the_table_and_no_box():
    view = render_boxes(BOXES)
    limits = PlaneLimits(noise=0.0025, min_area=0.15, min_share=0.01, max_angle_deg=25.0, max_planes=8)
    label = structure_planes(view.depth, K, fit_surface(view.depth, K), limits)
    table = (view.instance == 0) & (view.depth > 0)
    assert label.max() == 0
    assert ((label == 0) & table).sum() > 0.9 * table.sum()
    assert ((label == 0) & (view.instance > 0)).sum() < 0.1 * (view.instance > 0).sum()


def test_superpixels_cover_the_image_with_every_label():
    edges = np.zeros((40, 60), np.uint8)
    edges[:, 30] = 255
    labels = superpixels(edges, 8)
    assert labels.shape == (40, 60) and np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
    assert not set(np.unique(labels[:, :30])) & set(np.unique(labels[:, 31:]))


def merge_tree_by_loop(pairs: list, strength: list) -> list[float]:
    """Heights of a tree by rescanning all borders at every merge, unit lengths, no damping."""
    group, heights = {i: i for pair in pairs for i in pair}, []
    while True:
        between: dict[tuple, list] = {}
        for (a, b), value in zip(pairs, strength, strict=True):
            if group[a] != group[b]:
                between.setdefault(tuple(sorted((group[a], group[b]))), []).append(value)
        if not between:
            return heights
        value, (a, b) = min((float(np.mean(v)), k) for k, v in between.items())
        heights.append(max([value, *heights[-1:]]))
        group = {i: a if g == b else g for i, g in group.items()}


def test_merge_tree_equals_a_slow_loop():
    rng = np.random.default_rng(5)
    pairs = [(i, j) for i in range(12) for j in range(i + 1, 12) if rng.random() < 0.3] + [(0, 11)]
    pairs = sorted(set(pairs))
    strength = rng.random(len(pairs))
    borders = TreeBorders(np.array(pairs, np.int32), np.ones(len(pairs), np.float32), strength.astype(np.float32))
    tree = merge_tree(borders, np.full(12, 50, np.float32), np.ones(12, bool), shrink=0.0, bridge=0.6)
    np.testing.assert_allclose(tree.height, merge_tree_by_loop(pairs, strength.tolist()), rtol=1e-5)
    cut = tree.cut(0.4)
    assert len(np.unique(cut)) == 12 - (tree.height < 0.4).sum()


def test_unseen_leaf_does_not_bridge_two_seen_regions():
    borders = TreeBorders(np.array([[0, 1], [1, 2]], np.int32), np.ones(2, np.float32), np.zeros(2, np.float32))
    tree = merge_tree(borders, np.full(3, 1e6, np.float32), np.array([True, False, True]), shrink=0.0, bridge=0.6)
    assert len(np.unique(tree.cut(0.5))) == 2
    open_tree = merge_tree(borders, np.full(3, 1e6, np.float32), np.ones(3, bool), shrink=0.0, bridge=0.6)
    assert len(np.unique(open_tree.cut(0.5))) == 1


@pytest.mark.parametrize("gap_depth, expected", [(0.6, 1), (2.0, 0)])
def test_pieces_link_only_behind_something_nearer(gap_depth, expected):
    depth = np.full((60, 90), 1.0, np.float32)
    depth[:, 30:60] = gap_depth
    label = np.repeat([[0, 1, 2]], 30, axis=1).repeat(60, 0).reshape(60, 90)
    label = np.sort(label, axis=1)
    moments, centre = [], []
    for number in range(3):
        y, x = np.nonzero(label == number)
        u, v, w = x / 90, y / 90, 1 / depth[y, x].astype(float)
        one = np.ones_like(u)
        moments.append([c.sum() for c in (one, u, v, w, u * u, u * v, v * v, u * w, v * w, w * w)])
        centre.append([u.mean(), v.mean()])
    regions = RegionMoments(np.array(moments), np.array(centre), np.ones((3, 1)))
    limits = LinkLimits(noise=0.003, misfit=3.0, colour=0.25, min_pixels=20)
    links = link_pieces(regions, np.arange(3), label, fit_surface(depth, K), limits)
    assert links.tolist() == [[0, 2]] * expected
