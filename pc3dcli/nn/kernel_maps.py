# SPDX-License-Identifier: Apache-2.0
"""Occupied voxels of a batch, and which of them meet under each offset of a convolution's kernel.

Voxels stand in the order of batch, x, y, z, which is the order of one integer key each.  Adding the same offset to all
keys keeps that order, so that all neighbours along z of a shifted voxel follow on one search, and what a kernel map
reads and writes runs through memory from front to back.  Maps are built once for a set of voxels and shared by all
layers on it, forward and backward.  Ours; the definition is that of Choy et al., "4D Spatio-Temporal ConvNets", 2019.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

MAX_KEY = 1 << 62  # keys of a batch stay below
Block = tuple[int, int, list[tuple[int, Tensor, Tensor]]]  # first output, one past the last, (offset, inputs, outputs)


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Pairs of input and output voxels for each offset of a kernel, in the order of x, y, z offsets, z fastest.

    pairs       K index tensors (P_k,) int64 each for input and output; both ascend, neither holds an index twice
    num_inputs, num_outputs  voxels on either side
    same        offset under which every voxel meets itself, None where there is none
    """

    pairs: tuple[tuple[Tensor, Tensor], ...]
    num_inputs: int
    num_outputs: int
    same: int | None = None
    _blocks: dict[int, list[Block]] = field(default_factory=dict, repr=False)

    @cached_property
    def transposed(self) -> KernelMap:
        """The map of the transposed convolution: inputs and outputs change places."""
        return KernelMap(tuple((o, i) for i, o in self.pairs), self.num_outputs, self.num_inputs, self.same)

    @cached_property
    def packed(self) -> tuple[Tensor, Tensor]:
        """Pairs (2, K, P) int32 of inputs and outputs, filled up with -1, and the number (K,) int32 of each offset."""
        counts = [len(inputs) for inputs, _ in self.pairs]
        table = self.pairs[0][0].new_full((2, len(counts), max(counts)), -1, dtype=torch.int32)
        for k, (inputs, outputs) in enumerate(self.pairs):
            table[0, k, : counts[k]], table[1, k, : counts[k]] = inputs, outputs
        return table, table.new_tensor(counts)

    def blocks(self, num_rows: int) -> list[Block]:
        """Return the pairs of `num_rows` outputs at a time; offsets without a pair in a block are left out."""
        if num_rows not in self._blocks:
            edges = torch.arange(0, self.num_outputs + num_rows, num_rows, device=self.pairs[0][0].device)
            cuts = [torch.searchsorted(outputs, edges).tolist() for _, outputs in self.pairs]
            self._blocks[num_rows] = [
                (start, min(start + num_rows, self.num_outputs), self._between([cut[i : i + 2] for cut in cuts]))
                for i, start in enumerate(range(0, self.num_outputs, num_rows))
            ]
        return self._blocks[num_rows]

    def _between(self, cuts: list[list[int]]) -> list[tuple[int, Tensor, Tensor]]:
        found = [(k, slice(first, last)) for k, (first, last) in enumerate(cuts) if first < last]
        return [(k, self.pairs[k][0][cut], self.pairs[k][1][cut]) for k, cut in found]


class Sites:
    """The occupied voxels of a batch at one level of resolution, with the kernel maps that were built on them."""

    def __init__(self, coords: Tensor) -> None:
        """Take voxels in order.

        coords  (N, 4) int64: scene of the batch, x, y, z; N >= 1, in the order of these, none twice
        raises  ValueError for another order, or voxels that spread so far that no key holds them
        """
        assert coords.ndim == 2 and coords.shape[1] == 4 and coords.dtype == torch.int64 and len(coords)
        self.coords = coords
        keys = self._keys(0)
        if not bool((keys[1:] > keys[:-1]).all()):
            raise ValueError("voxels must be in the order of scene, x, y, z, none twice")
        self._submanifold: dict[int, KernelMap] = {}
        self._strided: dict[tuple[int, int, int], tuple[Sites, KernelMap]] = {}

    def __len__(self) -> int:
        return len(self.coords)

    def submanifold(self, kernel_size: int) -> KernelMap:
        """Return the map of a convolution whose outputs are the inputs' voxels; kernels are odd, centred."""
        if kernel_size not in self._submanifold:
            self._submanifold[kernel_size] = self._neighbours(kernel_size)
        return self._submanifold[kernel_size]

    def strided(self, kernel_size: int, stride: int, padding: int = 0) -> tuple[Sites, KernelMap]:
        """Return the coarser voxels o for which an input at o stride - padding + offset exists, and the map to them."""
        wanted = (kernel_size, stride, padding)
        if wanted not in self._strided:
            self._strided[wanted] = self._coarser(*wanted)
        return self._strided[wanted]

    def _keys(self, margin: int) -> Tensor:
        """Return (N,) int64 keys that stay apart when an axis is moved by up to `margin` voxels."""
        low = self.coords.amin(dim=0)
        return _pack(self.coords - low, _extent(self.coords, low, margin), margin)

    def _neighbours(self, kernel_size: int) -> KernelMap:
        assert kernel_size % 2 == 1, kernel_size
        reach, everyone = kernel_size // 2, torch.arange(len(self), device=self.coords.device)
        low = self.coords.amin(dim=0)
        extent = _extent(self.coords, low, reach)
        keys = _pack(self.coords - low, extent, reach)
        beyond = torch.cat((keys, keys.new_full((kernel_size + 1,), -1)))  # what follows the last voxel matches nothing
        centre = kernel_size**3 // 2
        pairs: list = [None] * kernel_size**3
        pairs[centre] = (everyone, everyone)
        for dx, dy in itertools.product(range(reach + 1), range(-reach, reach + 1)):
            if (dx, dy) < (0, 0):
                continue  # the mirror image of one that is looked at
            first = 1 if (dx, dy) == (0, 0) else -reach
            wanted = keys + ((dx * extent[2] + dy) * extent[3] + first)
            position = torch.searchsorted(keys, wanted) if (dx, dy) != (0, 0) else everyone + 1
            for dz in range(first, reach + 1):
                is_there = beyond[position] == wanted
                outputs = is_there.nonzero()[:, 0]
                inputs = position[outputs]
                shift = (dx * kernel_size + dy) * kernel_size + dz
                pairs[centre + shift], pairs[centre - shift] = (inputs, outputs), (outputs, inputs)
                position, wanted = position + is_there, wanted + 1
        return KernelMap(tuple(pairs), len(self), len(self), same=centre)

    def _coarser(self, kernel_size: int, stride: int, padding: int) -> tuple[Sites, KernelMap]:
        assert kernel_size >= stride, (kernel_size, stride)  # else voxels would be lost
        xyz = self.coords[:, 1:] + padding
        found, inputs = [], []
        for offset in itertools.product(range(kernel_size), repeat=3):
            moved = xyz - xyz.new_tensor(offset)
            index = (moved % stride == 0).all(dim=1).nonzero()[:, 0]
            outputs = torch.div(moved[index], stride, rounding_mode="floor")
            found.append(torch.cat((self.coords[index, :1], outputs), dim=1))
            inputs.append(index)
        every = torch.cat(found)
        low = every.amin(dim=0)
        extent = _extent(every, low, 0)
        keys, outputs = torch.unique(_pack(every - low, extent, 0), return_inverse=True)
        sites = Sites(_unpack(keys, extent) + low)
        pairs = zip(inputs, outputs.split([len(index) for index in inputs]), strict=True)
        return sites, KernelMap(tuple(pairs), len(self), len(sites))


def _extent(coords: Tensor, low: Tensor, margin: int) -> list[int]:
    """Return how many voxels each column spans, with a margin on both sides of x, y and z."""
    spans = (coords.amax(dim=0) - low + 1).tolist()
    extent = [spans[0], *(span + 2 * margin for span in spans[1:])]
    total = 1
    for span in extent:
        total *= span
    if total >= MAX_KEY:
        raise ValueError(f"voxels spread over {' x '.join(str(span) for span in spans[1:])} cells, too many to number")
    return extent


def _pack(offsets: Tensor, extent: list[int], margin: int) -> Tensor:
    """Return (N,) int64 keys of offsets (N, 4) from the lowest voxel."""
    b, x, y, z = offsets.unbind(dim=1)
    return ((b * extent[1] + x + margin) * extent[2] + y + margin) * extent[3] + z + margin


def _unpack(keys: Tensor, extent: list[int]) -> Tensor:
    """Return the (N, 4) offsets of keys that were packed without a margin."""
    columns = []
    for span in reversed(extent[1:]):
        columns.append(keys % span)
        keys = torch.div(keys, span, rounding_mode="floor")
    return torch.stack((keys, *reversed(columns)), dim=1)
