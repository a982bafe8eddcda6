# SPDX-License-Identifier: Apache-2.0
"""Batches of labelled scenes as voxels: what the segmenter learns from, and what it is asked about.

Every random number of a scene comes from (seed, epoch, its index), as in `shape_batches.py`.  A voxel is the first of
its points in file order: it has that point's place, colour and instances (Mask3D keeps an arbitrary one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch

from pc3dcli.datasets.scene_augment import augmented_colors, augmented_points, normalized_colors
from pc3dcli.errors import FormatError, InputError, Pc3dError
from pc3dcli.geometry.voxels import voxel_groups, voxel_reach


class Views(Protocol):
    """Frames of a video, in order: `seen(first, last)` gives the points (N,) bool that some of them see."""

    nbytes: int

    def __len__(self) -> int: ...

    def seen(self, first: int, last: int) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class LabelledCloud:
    """A cloud with its instances.

    xyz        (N, 3) float, metres; rgb (N, 3) uint8, None without colour
    instances  int arrays, the points of each instance; they may overlap
    ignored    as many, the points that are neither in nor out of each
    views      which of its points the frames of a video see; None without
    """

    xyz: np.ndarray
    rgb: np.ndarray | None
    instances: tuple[np.ndarray, ...] = ()
    ignored: tuple[np.ndarray, ...] = ()
    views: Views | None = None

    def part(self, is_in: np.ndarray) -> LabelledCloud:
        """Return the points for which (N,) bool is true, as a cloud of their own without views."""
        row = np.full(len(self.xyz), -1)
        row[is_in] = np.arange(np.count_nonzero(is_in))

        def moved(arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
            return tuple(rows[rows >= 0] for rows in (row[index] for index in arrays))

        rgb = None if self.rgb is None else self.rgb[is_in]
        return LabelledCloud(self.xyz[is_in], rgb, moved(self.instances), moved(self.ignored))


@dataclass(frozen=True)
class LabelledClouds:
    """Scenes by name; `load` reads one, and raises FormatError or InputError."""

    names: tuple[str, ...]
    load: Callable[[int], LabelledCloud]


class Voxels(NamedTuple):
    """The voxels of one cloud, in the order of x, y, z.

    coords     (n, 3) int64, none below 0
    point      (n,) int64, the point that stands for each; of_point (N,) int64, the voxel of each, -1 for none
    """

    coords: np.ndarray
    point: np.ndarray
    of_point: np.ndarray


class VoxelBatch(NamedTuple):
    """Voxels of B scenes, in the order of scene, x, y, z, and the instances that they are to become.

    coords      (n, 4) int64: scene, x, y, z in voxels
    features    (n, 3) float32 colours, normalised
    xyz         (n, 3) float32 metres
    instances   (2, P) int64: number of an instance, counted over the batch, and a voxel of it
    ignored     (2, P') int64: number of an instance and a voxel that is neither in nor out of it
    scene       (M,) int64, the scene of each instance
    ids         names of the scenes
    """

    coords: torch.Tensor
    features: torch.Tensor
    xyz: torch.Tensor
    instances: torch.Tensor
    ignored: torch.Tensor
    scene: torch.Tensor
    ids: Sequence[str]


@dataclass(frozen=True)
class VoxelConfig:
    """How scenes become voxels in training."""

    voxel: float = 0.02  # metres
    augment: bool = True
    gray_share: float = 0.0  # of the samples lose their colour
    min_points: int = 100  # smaller instances are no targets; spec section 5
    max_voxels: int = 200_000  # a scene of more is cut to those nearest to one of them; spec section 5
    partial_share: float = 0.0  # of the samples are what a few frames see, where a scene has views
    partial_frames: tuple[int, ...] = (1, 5, 10, 20)  # frames after the first of such a sample, one of these
    thin: float = 0.0  # the largest share of the voxels that a sample loses, drawn for each
    cache_bytes: int = 2 << 30  # of clouds that are kept; ours


@dataclass
class VoxelData:
    """Batches of labelled scenes; clouds that were read are kept while they fit `config.cache_bytes`."""

    clouds: LabelledClouds
    config: VoxelConfig = VoxelConfig()
    _kept: dict[int, LabelledCloud] = field(default_factory=dict, repr=False)
    _num_kept_bytes: int = field(default=0, repr=False)

    def __len__(self) -> int:
        return len(self.clouds.names)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the indices (len,) int64 of all scenes in the order of an epoch."""
        return np.random.default_rng((seed, epoch)).permutation(len(self))

    def batch(self, indices: Sequence[int] | np.ndarray, *, seed: int = 0, epoch: int = 0) -> VoxelBatch:
        """Read, change and voxelise scenes by their indices; raises as `LabelledClouds.load` and `voxelized`."""
        scenes = []
        for index in map(int, indices):
            try:
                scenes.append(self._sample(self._cloud(index), np.random.default_rng((seed, epoch, index))))
            except Pc3dError as error:
                error.file = error.file or self.clouds.names[index]
                raise
        return _collated(scenes, [self.clouds.names[index] for index in indices])

    def _cloud(self, index: int) -> LabelledCloud:
        if index in self._kept:
            return self._kept[index]
        cloud = self.clouds.load(index)
        size = cloud.xyz.nbytes + (0 if cloud.rgb is None else cloud.rgb.nbytes)
        size += sum(array.nbytes for array in (*cloud.instances, *cloud.ignored))
        size += 0 if cloud.views is None else cloud.views.nbytes + cloud.xyz.nbytes
        if self._num_kept_bytes + size <= self.config.cache_bytes:
            self._kept[index] = cloud
            self._num_kept_bytes += size
        return cloud

    def _sample(self, cloud: LabelledCloud, rng: np.random.Generator) -> _Scene:
        """Return a cloud as voxels, cut to the size of a batch."""
        config = self.config
        check_spacing(cloud.xyz, config.voxel)
        if cloud.rgb is None and not config.gray_share:
            hint = "-D gray_share=0.5 trains for clouds with and without"
            raise InputError("its cloud has no colour", hint=hint)
        if cloud.views is not None and rng.random() < config.partial_share:
            cloud = _partial_view(cloud, config.partial_frames, rng)
        xyz, rgb = cloud.xyz.astype(np.float64), cloud.rgb
        if config.augment:
            known = np.isfinite(xyz).all(axis=1)
            xyz = np.where(known[:, None], xyz, np.nan)
            xyz[known] = augmented_points(xyz[known], rng)
            rgb = None if rgb is None else augmented_colors(rgb, rng)
        if rng.random() < config.gray_share:
            rgb = None
        voxels = voxelized(xyz, config.voxel)
        if config.thin:
            voxels = _thinned(voxels, rng.uniform(0, config.thin), rng)
        if len(voxels.coords) > config.max_voxels:
            voxels = _cut(voxels, config.max_voxels, rng)
        first = xyz[voxels.point]
        colors = normalized_colors(None if rgb is None else rgb[voxels.point], len(first))
        first = (first - first.min(axis=0)).astype(np.float32)  # far from the origin single precision is coarse
        return _Scene(voxels, colors, first, *_targets(cloud, voxels, config.min_points))


def _partial_view(cloud: LabelledCloud, num_frames: tuple[int, ...], rng: np.random.Generator) -> LabelledCloud:
    """Return what a frame and the next few see of a cloud; the whole where that is nothing."""
    first = int(rng.integers(len(cloud.views)))
    last = first + int(rng.choice(num_frames))
    is_seen = cloud.views.seen(first, last)
    return cloud.part(is_seen) if np.isfinite(cloud.xyz[is_seen]).all(axis=1).any() else cloud


class _Scene(NamedTuple):
    voxels: Voxels
    features: np.ndarray
    xyz: np.ndarray
    instances: list[np.ndarray]
    ignored: list[np.ndarray]


def voxelized(xyz: np.ndarray, voxel: float) -> Voxels:
    """Cut a cloud into voxels.

    xyz     (N, 3) float, metres; points that are not finite are in no voxel
    voxel   edge, metres
    raises  as `check_spacing`, InputError for a cloud that spans more than 2^20 voxels
    """
    check_spacing(xyz, voxel)
    known = np.flatnonzero(np.isfinite(xyz).all(axis=1))
    inside = xyz[known].astype(np.float64)
    moved = inside - inside.min(axis=0) + voxel / 2
    if moved.max() >= voxel_reach(voxel):
        raise InputError(f"its points span {moved.max():.3g} m, more than {voxel_reach(voxel):.3g} m")
    _, group, _ = voxel_groups(moved, voxel)
    _, first = np.unique(group, return_index=True)
    coords = np.floor(moved[first] * (1.0 / voxel)).astype(np.int64)
    of_point = np.full(len(xyz), -1)
    of_point[known] = group
    return Voxels(coords, known[first], of_point)


def check_spacing(xyz: np.ndarray, voxel: float) -> None:
    """Refuse a cloud that voxels of `voxel` metres cannot hold.

    raises  FormatError without a finite point, InputError so far from the origin that its numbers are too coarse
    """
    known = xyz[np.isfinite(xyz).all(axis=1)]
    if not len(known):
        raise FormatError("its cloud has no point with finite coordinates")
    farthest = np.abs(known).max()
    spacing = float(np.spacing(farthest))
    if spacing > voxel / 2:
        found = f"coordinates of {farthest:.3g} m are {spacing:.2g} m apart as {xyz.dtype}"
        hint = "subtract one offset from all points, or store them in double precision"
        raise InputError(f"{found}, too coarse for voxels of {voxel:g} m", hint=hint)


def _cut(voxels: Voxels, num: int, rng: np.random.Generator) -> Voxels:
    """Keep the voxels nearest to one of them, in the plane."""
    center = voxels.coords[rng.integers(len(voxels.coords)), :2]
    distance = np.square(voxels.coords[:, :2] - center).sum(axis=1)
    return _only(voxels, np.sort(np.argpartition(distance, num)[:num]))


def _thinned(voxels: Voxels, share: float, rng: np.random.Generator) -> Voxels:
    """Leave a share of the voxels out, but one: surfaces of coarse meshes have holes at the voxels of a network."""
    keep = np.flatnonzero(rng.random(len(voxels.coords)) >= share)
    return _only(voxels, keep if len(keep) else np.zeros(1, np.int64))


def _only(voxels: Voxels, keep: np.ndarray) -> Voxels:
    moved = np.full(len(voxels.coords) + 1, -1)  # the last stands for no voxel
    moved[keep] = np.arange(len(keep))
    return Voxels(voxels.coords[keep], voxels.point[keep], moved[voxels.of_point])


def _targets(cloud: LabelledCloud, voxels: Voxels, min_points: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the voxels of the instances that are large enough, and those that do not count for each."""
    row = np.full(len(cloud.xyz), -1)
    row[voxels.point] = np.arange(len(voxels.point))
    instances, ignored = [], []
    for number, index in enumerate(cloud.instances):
        inside = row[index]
        inside = inside[inside >= 0]
        if np.count_nonzero(voxels.of_point[index] >= 0) >= min_points and len(inside):
            instances.append(inside)
            unsure = row[cloud.ignored[number]] if cloud.ignored else np.zeros(0, np.int64)
            ignored.append(unsure[unsure >= 0])
    return instances, ignored


def _collated(scenes: list[_Scene], names: list[str]) -> VoxelBatch:
    coords, pairs, unsure, of_scene, start = [], [], [], [], 0
    for number, scene in enumerate(scenes):
        count = len(scene.voxels.coords)
        coords.append(np.concatenate((np.full((count, 1), number), scene.voxels.coords), axis=1))
        for inside, left_out in zip(scene.instances, scene.ignored, strict=True):
            for rows, found in ((inside, pairs), (left_out, unsure)):
                found.append(np.stack((np.full(len(rows), len(of_scene)), rows + start)))
            of_scene.append(number)
        start += count
    none = np.zeros((2, 0), np.int64)
    arrays = (
        np.concatenate(coords),
        np.concatenate([scene.features for scene in scenes]),
        np.concatenate([scene.xyz for scene in scenes]),
        np.concatenate((none, *pairs), axis=1),
        np.concatenate((none, *unsure), axis=1),
        np.array(of_scene, np.int64),
    )
    return VoxelBatch(*(torch.from_numpy(array) for array in arrays), names)
