# SPDX-License-Identifier: Apache-2.0
"""The scales of Point-M2AE: grouping, which tokens see the light, packing of visible tokens, local attention.

R. Zhang et al.: Point-M2AE, multi-scale masked autoencoders for hierarchical point cloud pre-training, arXiv
2205.14401, sections 3.1 and 3.2.

*Departures*: the centres of a coarser scale are the first ones of the finer scale, which is what farthest point
sampling of points in that order returns (but where a cloud starts near the origin and has fewer different points than
centres), and saves two of three samplings.  Two mistakes of the released code are made only when asked for
(`as_released`): it takes token 0 of a batch's first cloud for visible whenever a patch is hidden, and pads with zeros
at the origin that tokens nearby attend to.  Its reuse of distances between scales of equal lengths is not repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pc3dcli.nn.point_sampling import farthest_points, gather_points, nearest_points


@dataclass(frozen=True)
class ScaleGroups:
    """Tokens of every scale, fine to coarse; tuples hold one tensor a scale.

    scale_centers  (B, G_i, 3) float32, cloud frame
    scale_points   (B, G_i, S_i, 3) float32, neighbours minus their centre
    neighbors      (B, G_i, S_i) int64, into the cloud for scale 0, into the tokens of scale i - 1 above
    center_index   (B, G) int64, into the cloud, of the coarsest centres
    """

    scale_centers: tuple[Tensor, ...]
    scale_points: tuple[Tensor, ...]
    neighbors: tuple[Tensor, ...]
    center_index: Tensor

    @property
    def centers(self) -> Tensor:
        """Centres of the patches that masks are drawn for, (B, G, 3)."""
        return self.scale_centers[-1]

    @property
    def points(self) -> Tensor:
        """Local points of those patches, (B, G, S, 3): centres of the scale below."""
        return self.scale_points[-1]


@torch.no_grad()
def group_scales(
    clouds: Tensor, counts: tuple[int, ...], sizes: tuple[int, ...], *, skip_near_origin: bool = True
) -> ScaleGroups:
    """Group clouds into tokens, each scale out of the centres of the one before.

    clouds  (B, N, 3) float32, N >= counts[0]
    counts  centres a scale, decreasing; sizes: neighbours a centre
    """
    clouds = clouds.float()
    order = farthest_points(clouds, counts[0], skip_near_origin=skip_near_origin)
    all_centers = gather_points(clouds, order)
    source, scale_centers, scale_points, neighbors = clouds, [], [], []
    for count, size in zip(counts, sizes, strict=True):
        centers = all_centers[:, :count]  # farthest points of farthest points: their first ones
        index = nearest_points(centers, source, size)
        scale_centers.append(centers)
        scale_points.append(gather_points(source, index) - centers.unsqueeze(2))
        neighbors.append(index)
        source = centers
    return ScaleGroups(tuple(scale_centers), tuple(scale_points), tuple(neighbors), order[:, : counts[-1]])


def visible_tokens(groups: ScaleGroups, hidden: Tensor, *, as_released: bool = False) -> tuple[Tensor, ...]:
    """Project the mask of the coarsest scale back: a token is visible when a visible coarser one is made of it.

    hidden       (B, G) bool, True = hidden
    as_released  show token 0 of cloud 0 as soon as anything is hidden: the neighbours of hidden patches become index 0
    returns      (B, G_i) bool a scale, fine to coarse, True = visible
    """
    visible = [~hidden]
    for scale in range(len(groups.neighbors) - 1, 0, -1):
        index = groups.neighbors[scale]
        marks = visible[0].unsqueeze(2).expand_as(index).flatten(1).int()
        num_finer = groups.scale_centers[scale - 1].shape[1]
        counts = marks.new_zeros(len(index), num_finer).scatter_add_(1, index.flatten(1), marks)  # integers: exact
        if as_released:
            counts[0, 0] += (~visible[0]).any()
        visible.insert(0, counts > 0)
    return tuple(visible)


@dataclass(frozen=True)
class Packing:
    """Slots that hold the visible tokens of each cloud, ascending, then padding up to the fullest cloud.

    index     (B, V) int64, the token of a slot; slots of padding name hidden tokens, each at most once
    is_token  (B, V) bool, False for padding; None where no cloud is padded
    """

    index: Tensor
    is_token: Tensor | None

    @property
    def attend(self) -> Tensor | None:
        """Which keys every query may see, (B, 1, 1, V) bool; None: all of them."""
        return None if self.is_token is None else self.is_token[:, None, None]

    def take(self, tokens: Tensor) -> Tensor:
        """Return the tokens of the slots: (B, G, C) -> (B, V, C)."""
        return gather_points(tokens, self.index)

    def put(self, packed: Tensor, tokens: Tensor) -> Tensor:
        """Return tokens (B, G, C) with the packed ones (B, V, C) in their places; padding changes nothing."""
        if self.is_token is not None:
            packed = torch.where(self.is_token.unsqueeze(2), packed, self.take(tokens))
        index = self.index.unsqueeze(2).expand_as(packed)
        return tokens.to(packed.dtype).scatter(1, index, packed)

    def as_released(self, tokens: Tensor, centers: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return packed tokens and centres with padding set to zero, and who attends to whom as released.

        A pair is barred only where it holds padding and is radius or more apart.
        tokens (B, V, C), centers (B, V, 3) -> the same, and (B, 1, V, V) bool, None where no cloud is padded
        """
        if self.is_token is None:
            return tokens, centers, None
        tokens, centers = tokens * self.is_token.unsqueeze(2), centers * self.is_token.unsqueeze(2)
        is_pair = self.is_token[:, None, None] & self.is_token[:, None, :, None]
        return tokens, centers, is_pair | attend_within(centers, radius)


def pack_visible(visible: tuple[Tensor, ...]) -> tuple[Packing, ...]:
    """Pack the visible tokens of every scale; visible as of `visible_tokens`, each cloud with one token or more."""
    counts = [scale.sum(1) for scale in visible]
    extremes = torch.stack([extreme for count in counts for extreme in (count.min(), count.max())])
    extremes = extremes.tolist()  # the one place that waits for the device
    packings = []
    for scale, count, fewest, most in zip(visible, counts, extremes[::2], extremes[1::2], strict=True):
        index = torch.sort(scale, dim=1, descending=True, stable=True).indices[:, :most]
        slot = torch.arange(most, device=index.device)
        packings.append(Packing(index, None if fewest == most else slot < count.unsqueeze(1)))
    return tuple(packings)


@torch.no_grad()
def attend_within(centers: Tensor, radius: float) -> Tensor:
    """Let a token see the tokens nearer than a radius: centers (B, G, 3) -> (B, 1, G, G) bool."""
    exact = "donot_use_mm_for_euclid_dist"  # the product form is wrong by 1e-3 near zero
    return (torch.cdist(centers.float(), centers.float(), compute_mode=exact) < radius).unsqueeze(1)
