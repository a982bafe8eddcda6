# SPDX-License-Identifier: Apache-2.0
"""The mini-PointNet of `patch_embed.py` for processors: the same mathematics in pieces that stay in the cache.

Forward and backward run over chunks of patches, so that the elementwise steps between two products touch no memory
outside the cache, and a single activation is kept; the first layer, BatchNorm and ReLU are computed again in the
backward.  Nothing but the maximum stands between the second and the third layer, so that the local half of the third
reads a product of both: 128 -> 512 in place of 128 -> 256 -> 512.  The statistics of the first BatchNorm follow from
mean and covariance of the points.  What flows back through a maximum over points is as sparse as the maximum, one point
a channel, and is summed as weighted bags of rows.  No departures: sums are taken in another order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK_ROWS = 1024  # points at once and thread: 2 MB of 512 channels; ours


class Weights(NamedTuple):
    """Layers in order; the weights of the third are (512, 256) each for [global, local]."""

    weight1: Tensor
    bias1: Tensor
    gamma1: Tensor
    beta1: Tensor
    weight2: Tensor
    bias2: Tensor
    weight3: Tensor
    bias3: Tensor
    gamma3: Tensor
    beta3: Tensor
    weight4: Tensor
    bias4: Tensor


class Norm(NamedTuple):
    """What a BatchNorm subtracts and multiplies with, (C,) each, and whether they are the batch's own statistics."""

    mean: Tensor
    rstd: Tensor
    is_batch: bool


def embed_patches(points: Tensor, first: nn.Sequential, second: nn.Sequential) -> Tensor:
    """Embed patches (P, S, 3) float32 as `PatchEmbed` does, (P, out_dim); in training running statistics move."""
    layers = (first[0], first[1], first[3], second[0], second[1], second[3])
    weights = Weights(*(value for layer in layers for value in (layer.weight, layer.bias)))
    return _EmbedPatches.apply(points.detach(), first[1], second[1], *weights)


class _EmbedPatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points: Tensor, norm1: nn.BatchNorm1d, norm3: nn.BatchNorm1d, *weights: Tensor) -> Tensor:
        w = Weights(*weights)
        rows = points.flatten(0, 1)
        center, covariance = _moments(rows)
        stats1 = _norm_of_first(w, center, covariance, norm1, len(rows))
        widest, arg, mixed, stats3 = _mix(points, w, stats1, norm3)
        tokens, winner = _last(mixed, w, stats3, points.shape[1])
        ctx.save_for_backward(points, widest, arg, mixed, winner, center, covariance, *stats1[:2], *stats3[:2], *w)
        ctx.is_batch = (stats1.is_batch, stats3.is_batch)
        return tokens

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        points, widest, arg, mixed, winner, center, covariance, mean1, rstd1, mean3, rstd3, *w = ctx.saved_tensors
        w, is_batch = Weights(*w), ctx.is_batch
        stats1, stats3 = Norm(mean1, rstd1, is_batch[0]), Norm(mean3, rstd3, is_batch[1])
        grad = grad.contiguous()
        grad_weight4, flow, grad_beta3, dot3 = _last_backward(grad, mixed, winner, w, stats3, points.shape[1])
        factors = _norm_backward(w.gamma3, stats3, grad_beta3, dot3, len(mixed))
        sums = _mix_backward((points, widest, arg, mixed), w, stats1, flow, factors, center)
        layer1 = _first_backward(w, stats1, sums.first, center, covariance)
        layer2, layer3 = _second_and_third(w, sums)
        layer3 = (*layer3, stats3.rstd * dot3, grad_beta3)
        return (None, None, None, *layer1, *layer2, *layer3, grad_weight4, grad.sum(0))


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (3,) and covariance (3, 3) of rows (R, 3), in float64."""
    rows = rows.double()
    center = rows.mean(0)
    rows = rows - center
    return center, rows.T @ rows / len(rows)


def _norm_of_first(w: Weights, center: Tensor, covariance: Tensor, norm: nn.BatchNorm1d, count: int) -> Norm:
    """Statistics of the first layer's output: linear in the points, so their moments are enough."""
    if not norm.training:
        return _running(norm)
    weight = w.weight1.double()
    mean = weight @ center + w.bias1
    variance = ((weight @ covariance) * weight).sum(1)
    return _batch(norm, mean, variance, count)


def _running(norm: nn.BatchNorm1d) -> Norm:
    return Norm(norm.running_mean.clone(), torch.rsqrt(norm.running_var + norm.eps), False)


def _batch(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, count: int) -> Norm:
    """Take the batch's statistics (float64, variance biased) and move the running ones."""
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean.float(), norm.momentum)
    norm.running_var.lerp_((variance * (count / max(count - 1, 1))).float(), norm.momentum)
    return Norm(mean.float(), torch.rsqrt(variance + norm.eps).float(), True)


def _first(rows: Tensor, w: Weights, stats: Norm) -> Tensor:
    """First layer, BatchNorm and ReLU as one product: (R, 3) -> (R, 128)."""
    scale = w.gamma1 * stats.rstd
    shift = scale * (w.bias1 - stats.mean) + w.beta1
    return torch.addmm(shift, rows, (w.weight1 * scale.unsqueeze(1)).T).relu_()


def _chunks(num_patches: int, S: int) -> list[tuple[slice, slice]]:
    """Divide the patches; return slices of patches and of their rows."""
    size = max(1, CHUNK_ROWS * torch.get_num_threads() // S)
    starts = range(0, num_patches, size)
    return [(slice(i, i + size), slice(i * S, (i + size) * S)) for i in starts]


def _mix(points: Tensor, w: Weights, stats1: Norm, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor, Tensor, Norm]:
    """Run the layers up to the second BatchNorm: maxima (P, 256) and their points, mixed (R, 512), its statistics."""
    (P, S, _), rows = points.shape, points.flatten(0, 1)
    weight_global, weight_local = w.weight3.chunk(2, dim=1)
    weight_first, bias_first = weight_local @ w.weight2, torch.addmv(w.bias3, weight_local, w.bias2)
    mixed, widest = rows.new_empty(P * S, len(w.weight3)), rows.new_empty(P, len(w.weight2))
    arg = torch.empty_like(widest, dtype=torch.int64)
    sums = torch.zeros(2, len(w.weight3), dtype=torch.float64)
    pivot = None  # near the mean: sums of squares about it lose no digits
    for patches, part in _chunks(P, S):
        first = _first(rows[part], w, stats1)
        local = torch.addmm(w.bias2, first, w.weight2.T)
        torch.max(local.view(-1, S, len(w.weight2)), 1, out=(widest[patches], arg[patches]))
        of_patch = torch.addmm(bias_first, widest[patches], weight_global.T)  # once a patch
        torch.mm(first, weight_first.T, out=mixed[part])
        mixed[part].view(-1, S, len(w.weight3)).add_(of_patch.unsqueeze(1))
        if norm.training:
            pivot = mixed[part].mean(0) if pivot is None else pivot
            gap = mixed[part] - pivot
            sums[0] += gap.sum(0)
            sums[1] += gap.square_().sum(0)
    if not norm.training:
        return widest, arg, mixed, _running(norm)
    offset, square = sums / (P * S)
    stats = _batch(norm, offset + pivot, (square - offset.square()).clamp(min=0), P * S)
    return widest, arg, mixed, stats


def _activated(mixed: Tensor, w: Weights, stats: Norm) -> Tensor:
    """BatchNorm and ReLU, (R, 512)."""
    scale = w.gamma3 * stats.rstd
    return torch.addcmul(w.beta3 - scale * stats.mean, mixed, scale).relu_()


def _last(mixed: Tensor, w: Weights, stats: Norm, S: int) -> tuple[Tensor, Tensor]:
    """BatchNorm, ReLU, last layer and maximum: tokens (P, C) and the winning point of each channel."""
    P = len(mixed) // S
    tokens = mixed.new_empty(P, len(w.weight4))
    winner = torch.empty_like(tokens, dtype=torch.int64)
    for patches, part in _chunks(P, S):
        out = torch.addmm(w.bias4, _activated(mixed[part], w, stats), w.weight4.T)
        torch.max(out.view(-1, S, len(w.weight4)), 1, out=(tokens[patches], winner[patches]))
    return tokens, winner


def _last_backward(
    grad: Tensor, mixed: Tensor, winner: Tensor, w: Weights, stats: Norm, S: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Go back to the second BatchNorm's output.

    returns  gradient of the last weight; flow (R, 512) into that output; its sum, and its product with the centred
             input of the BatchNorm, summed over rows
    """
    P = len(grad)
    grad_weight = torch.zeros_like(w.weight4)
    flow = torch.empty_like(mixed)
    total, dot = torch.zeros_like(w.beta3), torch.zeros_like(w.beta3)
    for patches, part in _chunks(P, S):
        active = _activated(mixed[part], w, stats)
        weight_bags, row_bags = _bags(grad[patches], winner[patches], S)
        grad_weight += F.embedding_bag(weight_bags[0], active, mode="sum", per_sample_weights=weight_bags[1])
        back = F.embedding_bag(row_bags[0], w.weight4, row_bags[1], mode="sum", per_sample_weights=row_bags[2])
        torch.mul(back, active.sign_(), out=flow[part])  # a product with booleans would convert them first
        total += flow[part].sum(0)
        dot += (mixed[part] - stats.mean).mul_(flow[part]).sum(0)
    return grad_weight, flow, total, dot


def _bags(grad: Tensor, winner: Tensor, S: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Write the sparse gradient of the last layer's output (P S, C) as bags.

    grad, winner  (P, C): gradient of each maximum, and its point
    returns       for every channel its rows and their weights, (C, P) each; for every row, flat, the channels that it
                  won, where its own start (P S,), and their weights
    """
    P = len(grad)
    row = winner + S * torch.arange(P).unsqueeze(1)
    order = winner.argsort(dim=1, stable=True)
    start = torch.bincount(row.flatten(), minlength=P * S).cumsum(0)
    start = torch.cat((start.new_zeros(1), start[:-1]))
    return (row.T.contiguous(), grad.T.contiguous()), (order.flatten(), start, grad.gather(1, order).flatten())


class Sums(NamedTuple):
    """What the backward adds up over all points.

    of_patch  (512,) flow into the third layer; outer (512, 128) its products with the second layer's input
    bags      (256, 128) products of the flow into the maxima with that input, and its sum widest (256,)
    grad3     (512, 256) gradient of the third layer's global half
    first     (128, 4) products of the flow into the first BatchNorm's output with the centred points, and its sum
    """

    of_patch: Tensor
    outer: Tensor
    bags: Tensor
    widest: Tensor
    grad3: Tensor
    first: Tensor


def _mix_backward(
    saved: tuple[Tensor, ...],
    w: Weights,
    stats1: Norm,
    flow: Tensor,
    factors: tuple[Tensor, Tensor, Tensor],
    center: Tensor,
) -> Sums:
    """Go back through the second BatchNorm, with the factors of `_norm_backward`, and the layers below it."""
    points, widest, arg, mixed = saved
    (P, S, _), rows = points.shape, points.flatten(0, 1)
    centred = torch.cat((rows - center.float(), rows.new_ones(len(rows), 1)), dim=1)
    weight_global, weight_local = w.weight3.chunk(2, dim=1)
    weight_first = weight_local @ w.weight2
    outer, bags, first_sum = (
        torch.zeros_like(weight_first),
        torch.zeros_like(w.weight2),
        centred.new_zeros(len(w.weight1), 4),
    )
    of_patch, to_widest = flow.new_empty(P, len(w.weight3)), torch.empty_like(widest)
    for patches, part in _chunks(P, S):
        back, first = _through_norm(flow[part], mixed[part], factors), _first(rows[part], w, stats1)
        outer.addmm_(back.T, first)
        torch.sum(back.view(-1, S, len(w.weight3)), 1, out=of_patch[patches])
        torch.mm(of_patch[patches], weight_global, out=to_widest[patches])
        weight_bags, row_bags = _bags(to_widest[patches], arg[patches], S)
        bags += F.embedding_bag(weight_bags[0], first, mode="sum", per_sample_weights=weight_bags[1])
        below = F.embedding_bag(row_bags[0], w.weight2, row_bags[1], mode="sum", per_sample_weights=row_bags[2])
        below.addmm_(back, weight_first).mul_(first.sign_())
        first_sum.addmm_(below.T, centred[part])
    return Sums(of_patch.sum(0), outer, bags, to_widest.sum(0), of_patch.T @ widest, first_sum)


def _second_and_third(w: Weights, sums: Sums) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the gradients of weight and bias of the second layer, and of the third."""
    weight_local = w.weight3.chunk(2, dim=1)[1]
    grad_local = torch.addmm(torch.outer(sums.of_patch, w.bias2), sums.outer, w.weight2.T)
    second = torch.addmm(sums.bags, weight_local.T, sums.outer), sums.widest + sums.of_patch @ weight_local
    return second, (torch.cat((sums.grad3, grad_local), dim=1), sums.of_patch)


def _norm_backward(gamma: Tensor, stats: Norm, total: Tensor, dot: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a, b, c such that the gradient before a BatchNorm is a * gradient after + b * its input + c.

    total, dot  (C,) sums over `count` rows of the gradient after, and of its product with the centred input
    """
    scale = gamma * stats.rstd
    if not stats.is_batch:
        return scale, torch.zeros_like(scale), torch.zeros_like(scale)
    of_input = -scale * stats.rstd.square() * dot / count
    return scale, of_input, -scale * total / count - of_input * stats.mean


def _through_norm(flow: Tensor, before: Tensor, factors: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the gradient before a BatchNorm: flow (R, C) after it, its input (R, C), factors of `_norm_backward`."""
    scale, of_input, constant = factors
    return torch.addcmul(constant, before, of_input).addcmul_(flow, scale)


def _first_backward(
    w: Weights, stats: Norm, products: Tensor, center: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the first layer's weight and bias, and of its BatchNorm's: from sums alone."""
    products, total = products.double().split((3, 1), dim=1)  # (128, 3) and (128, 1)
    weight, scale = w.weight1.double(), (w.gamma1 * stats.rstd).unsqueeze(1).double()
    dot = (products * weight).sum(1, keepdim=True)
    if stats.is_batch:
        grad_weight = scale * (products - stats.rstd.unsqueeze(1).square() * dot * (weight @ covariance))
        grad_bias = torch.zeros_like(total)  # BatchNorm takes any bias away
    else:
        grad_weight, grad_bias = scale * (products + total * center), scale * total
        dot = dot + total * (weight @ center + w.bias1 - stats.mean).unsqueeze(1)
    gradients = (grad_weight, grad_bias.squeeze(1), stats.rstd * dot.squeeze(1), total.squeeze(1))
    return tuple(gradient.float() for gradient in gradients)
