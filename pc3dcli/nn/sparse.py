# SPDX-License-Identifier: Apache-2.0
"""Sparse tensors of voxels and their convolutions: submanifold, strided and inverse.

What one offset of a kernel does is a product of matrices: gather the rows that it meets, multiply, add to the rows
where they go (Choy et al., "4D Spatio-Temporal ConvNets", 2019; Graham et al., "3D Semantic Segmentation with
Submanifold Sparse Convolutional Networks", 2018).  Kernels are cross-correlations in the offset order of
`torch.nn.Conv3d`.  The backward gathers again, so that a layer keeps its input and nothing else.

Two implementations with equal results: `torch` here, on any device, and `spconv` (sparse_spconv.py).  No departures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pc3dcli.errors import UsageError
from pc3dcli.nn.kernel_maps import KernelMap, Sites
from pc3dcli.nn.worker_threads import in_parallel, num_workers

Backend = Literal["torch", "spconv"]
BLOCK_BYTES = 1 << 20  # of outputs that a processor core works on at a time, to stay in its cache; ours


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """Features (N, C) of the voxels of `sites`, and which implementation convolves them."""

    features: Tensor
    sites: Sites
    backend: Backend = "torch"

    def replace(self, features: Tensor) -> SparseTensor:
        """Return other features at the same voxels."""
        return SparseTensor(features, self.sites, self.backend)


def chosen_backend(wanted: Literal["auto", "torch", "spconv"], device: torch.device) -> Backend:
    """Return the implementation for a device: with auto spconv on a GPU where it is installed, else torch.

    raises  UsageError when spconv is wanted and not there, or there as the wheel that gives wrong results
    """
    from pc3dcli.nn.sparse_spconv import has_spconv

    if wanted == "spconv" and not has_spconv():
        hint = "pip install 'pc3d[sparse]'; the wheel named just spconv gives wrong results"
        raise UsageError("sparse = spconv: no spconv-cu wheel is installed", hint=hint)
    if wanted == "auto":
        return "spconv" if device.type == "cuda" and has_spconv() else "torch"
    return wanted


class _Conv(nn.Module):
    """A weight (K^3, in, out) and what maps voxels to voxels; no bias, as BatchNorm follows everywhere."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.weight = nn.Parameter(torch.empty(kernel_size**3, in_channels, out_channels))
        bound = (kernel_size**3 * (out_channels if isinstance(self, InverseConv) else in_channels)) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)  # as MinkowskiEngine

    def extra_repr(self) -> str:
        _, num_in, num_out = self.weight.shape
        return f"{num_in}, {num_out}, kernel_size={self.kernel_size}"


class SubmanifoldConv(_Conv):
    """Convolution whose outputs are the voxels of its inputs; odd kernels."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.replace(convolve(x.features, self.weight, x.sites.submanifold(self.kernel_size), x.backend))


class StridedConv(_Conv):
    """Convolution to coarser voxels: all that an input reaches."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int = 0) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.stride, self.padding = stride, padding

    def forward(self, x: SparseTensor) -> SparseTensor:
        sites, to_coarse = x.sites.strided(self.kernel_size, self.stride, self.padding)
        return SparseTensor(convolve(x.features, self.weight, to_coarse, x.backend), sites, x.backend)


class InverseConv(_Conv):
    """Transposed convolution back to the voxels that a strided one came from."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int = 0) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.stride, self.padding = stride, padding

    def forward(self, x: SparseTensor, fine: Sites) -> SparseTensor:
        """Return features at the voxels `fine`, of which those of `x` are the coarser ones."""
        coarse, to_coarse = fine.strided(self.kernel_size, self.stride, self.padding)
        assert coarse is x.sites, "these voxels were not made from the fine ones"
        return SparseTensor(convolve(x.features, self.weight, to_coarse.transposed, x.backend), fine, x.backend)


def convolve(features: Tensor, weight: Tensor, kernel_map: KernelMap, backend: Backend = "torch") -> Tensor:
    """Return sums over offsets k of features[inputs of k] @ weight[k], at the outputs of k.

    features  (N, C) float
    weight    (K, C, D)
    returns   (M, D); zeros where nothing is met
    """
    assert features.shape == (kernel_map.num_inputs, weight.shape[1]), (features.shape, weight.shape)
    if backend == "spconv":
        from pc3dcli.nn.sparse_spconv import convolve_spconv

        return convolve_spconv(features, weight, kernel_map)
    if torch.is_autocast_enabled(features.device.type):
        dtype = torch.get_autocast_dtype(features.device.type)
        features, weight = features.to(dtype), weight.to(dtype)
    return _Convolve.apply(features, weight, kernel_map)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        out = _sums(features, (kernel_map.num_outputs, weight.shape[2]))
        kernels = weight.unbind()

        def add(start: int, end: int, pairs: list[tuple[int, Tensor, Tensor]]) -> None:
            for k, inputs, outputs in pairs:
                if k == kernel_map.same:
                    out[start:end] += features[start:end] @ kernels[k]
                else:
                    met = features.index_select(0, inputs)
                    out.index_add_(0, outputs, (met @ kernels[k]).to(out.dtype))

        in_parallel(add, kernel_map.blocks(_block_rows(weight, kernel_map.num_outputs)), features.device)
        return out.to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        need_features, need_weight, _ = ctx.needs_input_grad
        back, num = ctx.kernel_map.transposed, num_workers(grad.device)
        blocks, kernels = back.blocks(_block_rows(weight, back.num_outputs)), weight.transpose(1, 2).unbind()
        grad_features = _sums(features, features.shape) if need_features else None
        parts = _sums(weight, (num, *weight.shape)) if need_weight else None

        def add(part: int) -> None:
            grad_kernels = parts[part].unbind() if need_weight else ()
            for start, end, pairs in blocks[part::num]:
                for k, outputs, inputs in pairs:
                    is_same = k == back.same
                    met = grad[start:end] if is_same else grad.index_select(0, outputs)
                    if need_weight:
                        own = features[start:end] if is_same else features.index_select(0, inputs)
                        grad_kernels[k].add_(own.T @ met)
                    if need_features and is_same:
                        grad_features[start:end] += met @ kernels[k]
                    elif need_features:
                        grad_features.index_add_(0, inputs, (met @ kernels[k]).to(grad_features.dtype))

        in_parallel(add, [(part,) for part in range(num)], grad.device)
        return grad_features, parts.sum(dim=0) if need_weight else None, None


def _sums(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return zeros to sum into; half precision would lose what 27 products add."""
    return like.new_zeros(shape, dtype=torch.promote_types(like.dtype, torch.float32))


def _block_rows(weight: Tensor, num_rows: int) -> int:
    """Return how many outputs to work on at a time."""
    if weight.device.type != "cpu":
        return num_rows  # one product an offset: launches are what costs there
    in_cache = BLOCK_BYTES // (4 * max(weight.shape[1:]))
    return max(64, min(in_cache, -(-num_rows // num_workers(weight.device))))
