# SPDX-License-Identifier: Apache-2.0
"""The embedded mask source: class-agnostic regions from colour, depth and surface normals, no network, no download.

Superpixels are joined weakest border first. A border is strong where depth steps or the surface folds inwards (things
that touch meet in a concave crease); colour decides where depth is missing and says little elsewhere, so that print
does not split a box. Large planes (floor, wall, table top) are found first and kept apart from what stands on them.
The cut of the tree at `region_object_strength` gives whole objects, nodes below it their parts; pieces of one surface
behind an occluder are joined. Score: how strong the border around minus how strong those inside, parts times 0.7. All
values are ours; the features follow work on convexity (Richtsfeld et al. 2012, Stein et al. 2014), the tree that on
contours (Arbelaez et al. 2011).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pc3dcli.errors import check_ranges
from pc3dcli.geometry.cameras import scale_intrinsics
from pc3dcli.geometry.normals import SurfaceFit, fit_surface
from pc3dcli.masks2d.mask2d import Mask2d
from pc3dcli.masks2d.region_link import LinkLimits, link_pieces, region_moments, superpixel_moments, trusted_depth
from pc3dcli.masks2d.region_planes import PlaneLimits, structure_planes
from pc3dcli.masks2d.region_superpixels import Borders, describe_borders, edge_maps, superpixels
from pc3dcli.masks2d.region_tree import MergeTree, TreeBorders, merge_tree


@dataclass(frozen=True)
class RegionsConfig:
    """Settings of the region source; every value is ours."""

    region_max_pixels: int = 640 * 480  # pixels; larger images are segmented at a smaller size
    region_spacing: int = 14  # pixels between superpixel seeds in an image of region_max_pixels, fewer in smaller ones
    region_noise: float = 0.0025  # 1/metres, expected error of inverse depth
    region_window: int = 4  # pixels of the same image, half width of the plane fitting window
    region_plane_area: float = 0.15  # square metres, smallest structure plane
    region_plane_share: float = 0.01  # share of the image, smallest structure plane
    region_plane_angle_deg: float = 25.0  # degrees, normal to plane normal
    region_max_planes: int = 8  # planes searched for
    region_object_strength: float = 0.5  # border strength in [0, 1] at which whole objects are cut
    region_patch_crease: float = 0.35  # radians between superpixels at which faces of an object end, to compare pieces
    region_part_gap: float = 0.05  # rise of border strength that makes a node worth keeping
    region_min_share: float = 0.0005  # share of the image, smallest mask
    region_speck: float = 60.0  # pixels of the same image, regions well below this join whatever their border
    region_bridge: float = 0.6  # border strength of two surfaces that meet only across missing depth
    region_link_misfit: float = 3.0  # in region_noise, joint residual of two pieces of one surface
    region_link_colour: float = 0.25  # least overlap in [0, 1] of their colour histograms
    region_seen_share: float = 0.8  # masks with depth on more than this share keep only pixels with depth
    region_overlap: float = 0.9  # intersection over union above which two masks are duplicates
    region_max_masks: int = 100  # masks per frame

    def __post_init__(self) -> None:
        shares = "plane_share object_strength part_gap min_share bridge link_colour seen_share overlap"
        check_ranges(
            self,
            region_max_pixels=(1000, 1e9),
            region_spacing=(1, 1000),
            region_noise=(1e-6, 1),
            region_window=(1, 100),
            region_plane_area=(0, 1e6),
            region_plane_angle_deg=(0, 180),
            region_max_planes=(0, 1000),
            region_patch_crease=(0, 3.2),
            region_speck=(0, 1e6),
            region_link_misfit=(0, 1000),
            region_max_masks=(0, 10_000),
            **{f"region_{name}": (0, 1) for name in shares.split()},
        )


class Regions:
    """Mask source over one view at a time; holds no state between views."""

    def __init__(self, config: RegionsConfig | None = None) -> None:
        self.config = config or RegionsConfig()

    def masks(self, view) -> list[Mask2d]:
        """Return the masks of one view, best score first.

        view     has .rgb (H, W, 3) uint8, .K (3, 3) pixels and .depth (H, W) float32 metres (0 missing) or None
        returns  at most region_max_masks masks of size (H, W), whole objects and parts
        """
        rgb, depth, K = _working_grid(view, self.config.region_max_pixels)
        partition = _Partition.of(rgb, depth, K, self.config)
        nodes = _select_nodes(partition, self.config)
        size = view.rgb.shape[:2]
        return [Mask2d(_at_size(partition.mask(node), size), score) for node, score in nodes]


def _working_grid(view, max_pixels: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Colour, depth and camera matrix of a view, shrunk when the image is large."""
    rgb, depth, K = view.rgb, view.depth, np.asarray(view.K, np.float64)
    H, W = rgb.shape[:2]
    factor = min(1.0, (max_pixels / max(1, H * W)) ** 0.5)
    if factor < 1.0:
        size = max(1, round(W * factor)), max(1, round(H * factor))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        K = scale_intrinsics(K, (H, W), size[::-1])
        if depth is not None:
            depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
    if depth is not None:
        depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)
        if not depth.any():
            depth = None
    return rgb, depth, K


def _at_size(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if mask.shape == size:
        return mask
    return cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0


@dataclass(frozen=True, eq=False)
class _Partition:
    """Superpixels of a view and the tree over them."""

    labels: np.ndarray  # (H, W) int32 superpixels
    size: np.ndarray  # (S,) float32 pixels
    seen: np.ndarray  # (S,) bool, mostly with depth
    borders: Borders
    strength: np.ndarray  # (E,) float32
    tree: MergeTree
    fit: SurfaceFit | None
    lab: np.ndarray  # (H, W, 3) float32, smoothed
    geometry_edges: np.ndarray  # (H, W) uint8
    seen_share: float  # see region_seen_share

    @staticmethod
    def of(rgb: np.ndarray, depth: np.ndarray | None, K: np.ndarray, config: RegionsConfig) -> "_Partition":
        # Windows and spacings are meant for the full working size; a thumbnail needs smaller ones.
        scale = min(1.0, (rgb.shape[0] * rgb.shape[1] / config.region_max_pixels) ** 0.5)
        lab = cv2.cvtColor(rgb.astype(np.float32) / 255.0, cv2.COLOR_RGB2Lab)
        lab = cv2.GaussianBlur(lab, (0, 0), max(0.6, 1.2 * scale))
        fit, planes = None, np.full(rgb.shape[:2], -1, np.int32)
        if depth is not None:
            fit = fit_surface(depth, K, _window_radius(depth, config.region_window * scale))
            limits = PlaneLimits(
                config.region_noise,
                config.region_plane_area,
                config.region_plane_share,
                config.region_plane_angle_deg,
                config.region_max_planes,
            )
            planes = structure_planes(depth, K, fit, limits)
        edges, geometry_edges = edge_maps(lab, fit, planes, config.region_noise)
        labels = superpixels(edges, max(5, round(config.region_spacing * scale)))
        borders = describe_borders(labels, lab, fit, config.region_noise, reach=max(1, round(3 * scale)))
        size = np.bincount(labels.ravel()).astype(np.float32)
        plane = _majority_plane(labels, planes, size)
        strength = border_strength(borders, plane)
        valid = np.zeros(labels.shape, bool) if fit is None else fit.valid
        seen = np.bincount(labels.ravel(), valid.ravel(), len(size)) > 0.5 * size
        tree = merge_tree(
            TreeBorders(borders.pairs, borders.length, strength),
            size,
            seen,
            config.region_speck * scale * scale,
            config.region_bridge,
        )
        return _Partition(
            labels, size, seen, borders, strength, tree, fit, lab, geometry_edges, config.region_seen_share
        )

    def mask(self, members: np.ndarray) -> np.ndarray:
        """(H, W) bool from (S,) bool; a mask with depth almost everywhere ends where the depth does."""
        mask = members[self.labels]
        if self.fit is None:
            return mask
        with_depth = mask & self.fit.valid
        return with_depth if with_depth.sum() > self.seen_share * mask.sum() else mask


def _window_radius(depth: np.ndarray, radius: float) -> int:
    """Widen the fitting window where depth warped from another camera leaves a grid of gaps."""
    has_depth = (depth > 0).astype(np.uint8)
    bridged = cv2.morphologyEx(has_depth, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    density = has_depth.sum() / max(1, int(bridged.sum()))
    return int(np.clip(round(radius / max(density, 0.1) ** 0.5), 3, 9))


def _majority_plane(labels: np.ndarray, planes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Structure plane that holds more than half of each superpixel, else -1."""
    result = np.full(len(size), -1, np.int32)
    for number in range(planes.max() + 1):
        share = np.bincount(labels.ravel(), (planes == number).ravel(), len(size)) / size
        result[share > 0.5] = number
    return result


def border_strength(borders: Borders, plane: np.ndarray) -> np.ndarray:
    """Probability in [0, 1] that a border separates two things, (E,) float32.

    plane  (S,) structure plane of each superpixel, -1 for none
    """
    known, step, concave, convex, lightness, chroma = borders.features.T
    # Rounded from logistic fits to labelled borders of real frames, the same on either half of them; there lightness
    # carries no weight beside geometry, and chroma little: print on a box is as strong as its outline.
    on_surface = -4.0 + 3.0 * step + 6.0 * np.minimum(concave, 0.8) - 0.5 * np.minimum(convex, 0.8) + 1.5 * chroma
    unseen = -2.0 + 2.0 * lightness + 5.0 * chroma
    logit = known * on_surface + (1.0 - known) * unseen
    strength = 1.0 / (1.0 + np.exp(-logit))
    first, second = plane[borders.pairs[:, 0]], plane[borders.pairs[:, 1]]
    strength = np.where((first == second) & (first >= 0), 0.02 * strength, strength)
    # What stands on a plane meets it in a step or a concave crease; an outer edge is the plane's own object going on.
    apart = ((first < 0) != (second < 0)) & (known > 0.3) & ~((convex > 0.5) & (step < 0.25) & (concave < 0.1))
    return np.where(apart, np.maximum(strength, 0.95), strength).astype(np.float32)


def _select_nodes(partition: _Partition, config: RegionsConfig) -> list[tuple[np.ndarray, float]]:
    """Choose tree nodes worth a mask; return their superpixels (S,) bool and scores, best first."""
    tree, num_leaves = partition.tree, partition.tree.num_leaves
    formed = np.concatenate([np.zeros(num_leaves, np.float32), tree.height])
    joined = np.where(tree.parent >= 0, formed[np.maximum(tree.parent, 0)], 1.0)
    size = np.concatenate([partition.size, np.zeros(len(tree.height), np.float32)])
    for j, (a, b) in enumerate(tree.children.tolist()):
        size[num_leaves + j] = size[a] + size[b]
    whole = (formed < config.region_object_strength) & (joined >= config.region_object_strength)
    # A lone superpixel is no part, only grain.
    part = (np.arange(len(formed)) >= num_leaves) & (joined < config.region_object_strength)
    part &= joined - formed >= config.region_part_gap
    keep = np.nonzero((whole | part) & (size >= config.region_min_share * partition.labels.size))[0]
    score = np.clip(0.5 * joined + 0.5 * (1.0 - formed), 0, 1)[keep] * np.where(whole[keep], 1.0, 0.7)
    members = _node_members(tree)[keep]
    if partition.fit is not None:
        extra, extra_score = _linked(partition, members[whole[keep]], score[whole[keep]], config)
        members, score = np.concatenate([extra, members]), np.concatenate([extra_score, score])
    order = np.argsort(-score, kind="stable")[: 4 * config.region_max_masks]
    members, score = members[order], score[order]
    selected = _suppress(members, partition.size, config)
    return [(members[i], float(score[i])) for i in selected]


def _linked(partition: _Partition, members: np.ndarray, score: np.ndarray, config: RegionsConfig) -> tuple:
    """Unions (G, S) of whole objects cut apart by an occluder, with scores (G,)."""
    fit = partition.fit
    trusted = trusted_depth(fit, partition.geometry_edges, config.region_noise)
    moments, colour = superpixel_moments(partition.labels, fit, partition.lab, trusted)
    limits = LinkLimits(
        config.region_noise,
        config.region_link_misfit,
        config.region_link_colour,
        0.5 * config.region_min_share * partition.labels.size,
    )
    number = np.full(len(partition.size), -1, np.int32)
    for index, region in enumerate(members):
        number[region] = index
    group = np.arange(len(members))
    for patch in (np.unique(number, return_inverse=True)[1], _smooth_faces(partition.borders, number, config)):
        owner = np.full(patch.max() + 1, -1, np.int32)
        owner[patch] = number
        regions = region_moments(np.arange(len(owner))[:, None] == patch[None], moments, colour)
        regions.moments[owner < 0] = 0.0
        for a, b in link_pieces(regions, owner, patch[partition.labels], fit, limits):
            group[group == max(group[a], group[b])] = min(group[a], group[b])
    groups = [np.nonzero(group == g)[0] for g in np.unique(group) if (group == g).sum() > 1]
    unions = np.array([members[g].any(0) for g in groups], bool).reshape(len(groups), members.shape[1])
    return unions, np.array([score[g].mean() for g in groups])


def _smooth_faces(borders: Borders, number: np.ndarray, config: RegionsConfig) -> np.ndarray:
    """(S,) int32 faces: superpixels of one object joined where neither step nor crease parts them."""
    known, step, concave, convex = borders.features.T[:4]
    first, second = borders.pairs.T
    smooth = (number[first] == number[second]) & (known > 0.5) & (step < 0.5)
    smooth &= concave + convex < config.region_patch_crease
    links = coo_matrix((np.ones(smooth.sum()), (first[smooth], second[smooth])), (len(number), len(number)))
    return connected_components(links, directed=False)[1]


def _node_members(tree: MergeTree) -> np.ndarray:
    """(S + J, S) bool, leaves below every node."""
    members = np.zeros((len(tree.parent), tree.num_leaves), bool)
    np.fill_diagonal(members[: tree.num_leaves], True)
    for j, (a, b) in enumerate(tree.children.tolist()):
        np.logical_or(members[a], members[b], out=members[tree.num_leaves + j])
    return members


def _suppress(members: np.ndarray, size: np.ndarray, config: RegionsConfig) -> list[int]:
    """Indices kept by non-maximum suppression, in order."""
    weighted = members * size
    inter = weighted @ members.T.astype(np.float32)
    area = np.diag(inter)
    overlap = inter / np.maximum(area[:, None] + area[None] - inter, 1.0)
    kept: list[int] = []
    for i in range(len(members)):
        if len(kept) < config.region_max_masks and not (overlap[i, kept] > config.region_overlap).any():
            kept.append(i)
    return kept
