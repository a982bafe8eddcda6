# SPDX-License-Identifier: Apache-2.0
"""Parts of every point of a cloud by a network that takes a fixed number of points.

The cloud is cut at random into rows of so many points, filled up with others of it; a point gets the mean of what the
rows say that hold it.  Published figures are of one row drawn with replacement, which is what `distill` writes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pc3dcli.commands.shape_network import smallest_cloud, usable_device
from pc3dcli.commands.weights import downstream_model
from pc3dcli.datasets.shape_batches import normalize_clouds
from pc3dcli.datasets.shape_set import ShapeSet
from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.metrics.parts import CATEGORIES
from pc3dcli.papers.geomask3d.finetune import predict_parts

ROWS = 8  # at a time; ours


class PartSegmenter:
    """A part model on its device, with the categories and parts that it knows."""

    def __init__(self, weights: Path, device: str) -> None:
        """Load it; raises UsageError for a device that is not there, WeightsError for other weights."""
        self.device = usable_device(device)
        model, about = downstream_model(weights, "parts", "--parts")
        self.model = model.to(self.device)
        self.is_raw = bool(about.get("is_raw"))
        ranges = {name: tuple(parts) for name, parts in CATEGORIES.items()}
        self.categories: list[str] = list(about.get("classes") or ranges)
        self.category_parts = about.get("category_parts") or list(ranges.values())
        num_parts = 1 + max(max(parts) for parts in self.category_parts)
        self.part_names: list[str] = list(about.get("parts") or map(str, range(num_parts)))

    def category(self, name: str | None, is_asked: bool, shapes: ShapeSet) -> int:
        """Return which category a name is, case aside.

        is_asked  by --category: a name that is not known is the user's mistake then, else that of the input
        """
        known = [category.lower() for category in self.categories]
        if name is not None and name.lower() in known:
            return known.index(name.lower())
        shown = f"{', '.join(self.categories[:8])}{', ...' if len(known) > 8 else ''}"
        if is_asked:
            raise UsageError(f"--category {name}: the weights know {shown}")
        problem = "its shapes have no class" if name is None else f"found class {name}, the weights know {shown}"
        raise InputError(problem, file=shapes.root, hint="--category NAME says what the objects are")

    def parts(self, xyz: np.ndarray, category: int, seed: int) -> np.ndarray:
        """Return the part (n,) int32 of each point of a cloud (n, 3); raises FormatError for fewer than a patch."""
        config = self.model.config
        if len(xyz) < smallest_cloud(config):
            raise FormatError(f"{len(xyz)} points, a patch has {smallest_cloud(config)}")
        cloud = xyz.astype(np.float32) if self.is_raw else normalize_clouds(xyz[None])[0]
        rows = _rows(len(cloud), config.num_points, seed)
        choice = np.asarray(self.category_parts[category])
        total = np.zeros((len(cloud), len(choice)))
        for start in range(0, len(rows), ROWS):
            chosen = rows[start : start + ROWS]
            batch = torch.from_numpy(cloud[chosen]).to(self.device)
            label = torch.full((len(chosen),), category, device=self.device)
            logits = predict_parts(self.model, batch, label)[:, :, choice].cpu().numpy()
            np.add.at(total, chosen, logits)
        count = np.bincount(rows.ravel(), minlength=len(cloud))
        return choice[(total / count[:, None]).argmax(axis=1)].astype(np.int32)


def _rows(count: int, size: int, seed: int) -> np.ndarray:
    """Return (R, size) indices below `count`, every one at least once, as few rows as that takes."""
    rng = np.random.default_rng((seed, count))
    order = rng.permutation(count)
    missing = -count % size
    more = rng.permutation(count)[:missing] if missing <= count else np.resize(order, missing)
    return np.concatenate((order, more)).reshape(-1, size)
