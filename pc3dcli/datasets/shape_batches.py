# SPDX-License-Identifier: Apache-2.0
"""Batches of shapes: N points of each, normalised, augmented.

Every random number of a shape comes from (seed, epoch, index of the shape), so a batch depends neither on what was
drawn before, nor on its other shapes or the number of processes.  *Departures* from the released loaders, which draw
from the global generator: farthest points start at the first point of the file, not at a random one, and are found
once a shape; a shape of fewer than N points gives each of them about equally often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch

from pc3dcli.datasets.shape import Shape, ShapeSet
from pc3dcli.errors import FormatError, check_choices
from pc3dcli.geometry.farthest import farthest_order

Sampling = Literal["random", "farthest-random", "farthest", "replacement", "first"]
OVERSAMPLING = 75 / 64  # 1,200 farthest points from which 1,024 are drawn, 2,400 for 2,048: released Point-MAE
_MANY = 3  # times as many points as are wanted: a draw of some is faster than a shuffle of all


@dataclass(frozen=True)
class Augment:
    """Random scale, shift and rotation of a shape, in this order: rotate, scale, shift.

    scale   (lowest, highest) factor, of each axis unless `isotropic`
    shift   largest shift of each axis, both ways
    rotate  axis of a uniform rotation: "x", "y", "z" or "" for none
    """

    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    isotropic: bool = False
    rotate: str = ""


NO_AUGMENT = Augment()
SCALE_SHIFT = Augment(scale=(2 / 3, 3 / 2), shift=0.2)  # released: pretraining and classification
PARTS_AUGMENT = Augment(scale=(0.8, 1.25), shift=0.1, isotropic=True)  # released: parts
SCALE_ROTATE = Augment(scale=(0.9, 1.1), rotate="y")  # the later habit on ScanObjectNN


@dataclass(frozen=True)
class BatchConfig:
    """How points become a row of a batch.

    sampling   random: N of a shuffle (pretraining); farthest-random: N of 75/64 N farthest points (training a
               classifier); farthest: the N farthest in their order (testing); replacement: N draws (parts, in training
               and testing); first: the first N of the file
    normalize  "sample": centre and scale the N points; "cloud": do so by all points, before sampling; "none"
    """

    num_points: int = 1024
    sampling: Sampling = "random"
    normalize: Literal["sample", "cloud", "none"] = "sample"
    augment: Augment = NO_AUGMENT
    min_points: int = 1  # a shape of fewer is refused; the points of a patch
    cache_bytes: int = 2 << 30  # of decoded shapes that are kept; ours

    def __post_init__(self) -> None:
        check_choices(self)


class Batch(NamedTuple):
    """Tensors of B shapes, on the CPU until `to` is called.

    clouds  (B, N, 3) float32, augmented; `plain` the same points before augmentation
    label   (B,) int64, None without classes
    part    (B, N) int64, None without parts
    index   (B,) int64 into the ShapeSet; `ids` the names
    chosen  (B, N) int64, which point of the file each one is
    """

    clouds: torch.Tensor
    plain: torch.Tensor
    label: torch.Tensor | None
    part: torch.Tensor | None
    index: torch.Tensor
    ids: tuple[str, ...]
    chosen: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on `device`."""
        return Batch(*(value.to(device) if isinstance(value, torch.Tensor) else value for value in self))


@dataclass
class ShapeData:
    """Batches of the shapes of a set; decoded shapes are kept while they fit `config.cache_bytes`."""

    shapes: ShapeSet
    config: BatchConfig = BatchConfig()
    _kept: dict[int, tuple[Shape, np.ndarray | None]] = field(default_factory=dict, repr=False)
    _num_kept_bytes: int = field(default=0, repr=False)

    def __len__(self) -> int:
        return len(self.shapes)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the indices (len,) int64 of all shapes in the order of an epoch."""
        return _generator(seed, epoch).permutation(len(self.shapes))

    def batch(self, indices: Sequence[int] | np.ndarray, *, seed: int = 0, epoch: int = 0) -> Batch:
        """Read, sample, normalise and augment shapes by their indices.

        raises  FormatError or InputError for a shape that cannot be used or has fewer than `min_points`
        """
        indices = np.asarray(indices, np.int64)
        N, augment = self.config.num_points, self.config.augment
        plain, parts = np.empty((len(indices), N, 3), np.float32), np.empty((len(indices), N), np.int64)
        chosen, draws = np.empty((len(indices), N), np.int64), np.empty((len(indices), 7))
        has_parts = bool(len(indices))
        for row, index in enumerate(indices):
            rng = _generator(seed, epoch, int(index))
            draws[row] = rng.random(7)
            shape, candidates = self._shape(int(index))
            drawn = _sample(len(shape.xyz), N, self.config.sampling, rng)
            chosen[row] = drawn if candidates is None else candidates[drawn]
            plain[row] = shape.xyz.take(drawn, axis=0)
            has_parts = has_parts and shape.part is not None
            if has_parts:
                parts[row] = shape.part[drawn]
        if self.config.normalize == "sample":
            plain = normalize_clouds(plain)
        label = None if self.shapes.label is None else torch.from_numpy(self.shapes.label[indices])
        clouds = torch.from_numpy(_augmented(plain, augment, draws))
        ids = tuple(self.shapes.names[index] for index in indices)
        part = torch.from_numpy(parts) if has_parts else None
        return Batch(
            clouds, torch.from_numpy(plain), label, part, torch.from_numpy(indices), ids, torch.from_numpy(chosen)
        )

    def _shape(self, index: int) -> tuple[Shape, np.ndarray | None]:
        """Return the points of a shape to sample from and their indices in it, None for all; keep them if they fit."""
        if index in self._kept:
            return self._kept[index]
        shape, config = self.shapes.read(index), self.config
        if len(shape.xyz) < config.min_points:
            message = f"shape {self.shapes.names[index]} has {len(shape.xyz)} points, a patch has {config.min_points}"
            raise FormatError(message, file=self.shapes.root)
        xyz, part = (normalize_clouds(shape.xyz[None])[0] if config.normalize == "cloud" else shape.xyz), shape.part
        candidates = None
        if config.sampling.startswith("farthest"):
            wanted = int(config.num_points * (OVERSAMPLING if config.sampling == "farthest-random" else 1))
            candidates = farthest_order(xyz, min(wanted, len(xyz)))
            xyz, part = xyz[candidates], None if part is None else part[candidates]  # nothing else is ever drawn
        entry = (Shape(xyz, shape.label, part), candidates)
        size = sum(array.nbytes for array in (xyz, candidates, part) if array is not None)
        if self._num_kept_bytes + size <= config.cache_bytes:
            self._kept[index] = entry
            self._num_kept_bytes += size
        return entry


def normalize_clouds(clouds: np.ndarray) -> np.ndarray:
    """Move clouds (B, N, 3) to centroid 0 and scale them to a largest norm of 1, float32; one place stays a point."""
    columns = np.ascontiguousarray(clouds.transpose(0, 2, 1), np.float32)  # (B, 3, N): sums run along memory
    for _ in range(2):  # the second takes what rounding left of a large offset
        columns = columns - columns.mean(axis=2, keepdims=True)
    radius = np.sqrt(np.einsum("bcn,bcn->bn", columns, columns).max(axis=1))
    columns /= np.maximum(radius, 1e-12)[:, None, None]
    return np.ascontiguousarray(columns.transpose(0, 2, 1))


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def _sample(count: int, num_points: int, sampling: str, rng: np.random.Generator) -> np.ndarray:
    """Return N positions among `count` candidates."""
    if sampling == "replacement":
        return rng.integers(count, size=num_points)
    if sampling == "random" and count > _MANY * num_points:
        return rng.choice(count, num_points, replace=False)  # without shuffling all of them
    order = np.arange(count) if sampling in ("farthest", "first") else rng.permutation(count)
    return order[:num_points] if count >= num_points else np.resize(order, num_points)


def _augmented(plain: np.ndarray, augment: Augment, draws: np.ndarray) -> np.ndarray:
    """Return augmented clouds (B, N, 3) float32; draws (B, 7) uniform numbers: scale, shift, angle."""
    if augment == NO_AUGMENT:
        return plain.copy()
    low, high = augment.scale
    clouds = plain.copy()
    if augment.rotate:
        clouds = _rotated(clouds, "xyz".index(augment.rotate), 2 * np.pi * draws[:, 6])
    scale = low + (high - low) * (draws[:, :1].repeat(3, axis=1) if augment.isotropic else draws[:, :3])
    shift = augment.shift * (2 * draws[:, 3:6] - 1)
    clouds *= scale[:, None].astype(np.float32)
    clouds += shift[:, None].astype(np.float32)
    return clouds


def _rotated(clouds: np.ndarray, axis: int, angle: np.ndarray) -> np.ndarray:
    first, second = (axis + 1) % 3, (axis + 2) % 3
    cos, sin = (values.astype(np.float32)[:, None] for values in (np.cos(angle), np.sin(angle)))
    turned = clouds.copy()
    turned[..., first] = cos * clouds[..., first] - sin * clouds[..., second]
    turned[..., second] = sin * clouds[..., first] + cos * clouds[..., second]
    return turned
