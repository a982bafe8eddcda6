# SPDX-License-Identifier: Apache-2.0
"""Shapes through a network: which splits a path stands for, how clouds are sampled, batches onto the device.

Clouds are normalised whole and sampled farthest-first, as the published test protocols do; those of data sets whose
protocols leave the clouds alone are not normalised, and of ModelNet40 as HDF5 the first points are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pc3dcli.datasets.shape_batches import BatchConfig, ShapeData
from pc3dcli.datasets.shape_set import ShapeSet, open_shapes
from pc3dcli.errors import InputError, UsageError

if TYPE_CHECKING:
    import torch

BATCH = 32  # clouds at a time; ours
FIRST_POINTS = 1024  # of a cloud, in published probes on ModelNet40 as HDF5
Progress = Callable[[str, int, int], None]


def usable_device(name: str) -> torch.device:
    """Return the device of --device; raises UsageError for one that is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name}: {reason}", hint="auto takes a GPU where there is one") from None
    return device


def open_split(path: Path, split: str) -> ShapeSet:
    """Open a split of a folder; a file stands for all shapes in it and no others, whatever its name.

    raises  as `open_shapes`; InputError for shapes without classes
    """
    shapes = open_shapes(path, split="all" if Path(path).is_file() else split)
    if shapes.label is None:
        raise InputError("its shapes have no classes", file=path, hint="a folder for each class, or an array label")
    return shapes


def probe_sampling(shapes: ShapeSet, model: Any) -> BatchConfig:
    """Return how shapes are sampled for a frozen network with the config `model`, as published probes do."""
    num_points, sampling = model.num_points, "farthest"
    if shapes.layout == "modelnet-h5":
        num_points, sampling = min(num_points, FIRST_POINTS), "first"
    return BatchConfig(num_points, sampling, shapes.normalization("cloud"), min_points=smallest_cloud(model))


def run_network(
    network: Callable[[Any], torch.Tensor],
    shapes: ShapeSet,
    config: BatchConfig,
    device: torch.device,
    *,
    seed: int = 0,
    epoch: int = 0,
    data: ShapeData | None = None,
    progress: Progress = lambda name, number, count: None,
) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield batches of shapes in their order, on the CPU, each with what the network says of it.

    network      Batch on the device -> tensor (B, ...)
    seed, epoch  of what is random in sampling; where nothing is, they change nothing
    data         the shapes as they are kept from an earlier call
    """
    import torch

    data = ShapeData(shapes, config) if data is None else data
    for start in range(0, len(shapes), BATCH):
        batch = data.batch(np.arange(start, min(start + BATCH, len(shapes))), seed=seed, epoch=epoch)
        with torch.inference_mode():
            found = network(batch.to(device)).float().cpu().numpy()
        yield batch, found
        progress(batch.ids[-1], start + len(batch.ids), len(shapes))


def cloud_features(model: Any, shapes: ShapeSet, pooling: str, device: torch.device, progress: Progress) -> np.ndarray:
    """Return the features (S, D) float32 of shapes by a frozen pretrained model, nothing hidden.

    pooling  as `pool_tokens`: max, mean, max+mean or max;mean
    """
    import torch

    def network(batch: Any) -> torch.Tensor:
        parts = [model.pooled_features(batch.clouds, part) for part in pooling.split(";")]
        return torch.cat(parts, dim=1)

    batches = run_network(network, shapes, probe_sampling(shapes, model.config), device, progress=progress)
    return np.concatenate([found for _, found in batches])


def smallest_cloud(config: Any) -> int:
    """Return the fewest points of a file that a model accepts: those of one patch."""
    sizes = getattr(config, "patch_size", None) or config.patch_sizes[0]
    return int(sizes)
