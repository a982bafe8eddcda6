# SPDX-License-Identifier: Apache-2.0
"""Scores of the patches of shapes by a pretrained network, a batch at a time, the same whatever else is in the batch.

Random numbers of a shape follow from the seed and its index.  Every batch has the same number of rows (the last one is
filled up), as sums in another order would change the last digit of a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pc3dcli.commands.patch_score_file import ScoredPatches
from pc3dcli.commands.shape_network import smallest_cloud
from pc3dcli.commands.weights import base_config, base_model, need_kind, open_weights
from pc3dcli.datasets.shape_batches import BatchConfig, ShapeData
from pc3dcli.errors import FormatError, Pc3dError, WeightsError
from pc3dcli.nn.weights import load_exactly
from pc3dcli.papers.geomask3d.gc_head import GcHead
from pc3dcli.papers.geomask3d.gm3d import HEAD_PREFIX
from pc3dcli.papers.geomask3d.masking import random_orders
from pc3dcli.papers.geomask3d.scoring import (
    PatchScorer,
    difficulty_ratio,
    measured_difficulty,
    patch_scores,
    spearman,
)

if TYPE_CHECKING:
    from pc3dcli.datasets.shape import ShapeSet

BATCH = 16  # shapes at a time; ours
HEAD_BLOCK = HEAD_PREFIX + "blocks.blocks."
SELECTED = 0.5  # share of the hidden patches that count as found hard in the difficulty ratio: that of training


def open_scorer(path: Path) -> PatchScorer:
    """Read a base model with its complexity head, in eval mode on the CPU.

    raises  InputError, WeightsError; also for weights without such a head, or of another kind
    """
    description, tensors = open_weights(path)
    need_kind(description, ("pretrain",), path, "mask-score")
    blocks = {int(name[len(HEAD_BLOCK) :].split(".")[0]) for name in tensors if name.startswith(HEAD_BLOCK)}
    if not blocks:
        hint = "pc3d pretrain trains one unless -D gc_depth=0 or --init without it says otherwise"
        raise WeightsError("holds no complexity head, which scores patches", file=path, hint=hint)
    config = base_config(description["base"], description["config"], path)
    base = base_model(description["base"], config)
    scorer = PatchScorer(base, GcHead(config.dim, len(blocks), config.heads))
    named = {name if name.startswith(HEAD_PREFIX) else f"base.{name}": value for name, value in tensors.items()}
    load_exactly(scorer, named, file=path, kind=f"a {description['base']} with its complexity head")
    return scorer.eval()


@dataclass
class ShapeScorer:
    """Scores shapes one after another; a batch of the next ones is computed when the first of them is asked for.

    shapes   the shapes, of which `indices` are going to be asked for, in this order
    view     "kfold" or "full"
    rounds   of measuring how hard patches are, 0 for none
    """

    scorer: PatchScorer
    shapes: ShapeSet
    indices: Sequence[int]
    view: str = "kfold"
    rounds: int = 0
    seed: int = 0
    _results: dict[int, ScoredPatches | Pc3dError] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        config = self.scorer.base.config
        normalize = self.shapes.normalization("sample")  # as in pretraining
        sampling = BatchConfig(config.num_points, normalize=normalize, min_points=smallest_cloud(config))
        self._data = ShapeData(self.shapes, sampling)
        self._place = {int(index): place for place, index in enumerate(self.indices)}
        self._device = next(self.scorer.parameters()).device

    def scored(self, index: int) -> ScoredPatches:
        """Return the patches of a shape; raises what is wrong with it."""
        if index not in self._results:
            start = self._place[index] - self._place[index] % BATCH
            self._results = self._score([int(one) for one in self.indices[start : start + BATCH]])
        result = self._results.pop(index)
        if isinstance(result, Pc3dError):
            raise result
        return result

    def _score(self, indices: list[int]) -> dict[int, ScoredPatches | Pc3dError]:
        results: dict[int, ScoredPatches | Pc3dError] = {}
        batches = []
        for index in indices:
            try:
                batches.append(self._data.batch([index], seed=self.seed))
            except Pc3dError as error:
                results[index] = error
        if batches:
            filled = batches + batches[-1:] * (BATCH - len(batches))
            clouds = torch.cat([batch.clouds for batch in filled])
            rows = self._network(clouds, [int(batch.index[0]) for batch in filled])
            for row, batch in enumerate(batches):
                results[int(batch.index[0])] = self._scored_patches(row, batch, rows)
        return results

    @torch.inference_mode()
    def _network(self, clouds: torch.Tensor, indices: list[int]) -> dict[str, np.ndarray]:
        """Return scores, centers in the cloud and, where asked for, difficulty and its agreement with the scores."""
        base, G = self.scorer.base, self.scorer.base.num_patches
        groups = base.group(clouds.to(self._device))
        # each shape its own folds: (1 + rounds, B, G)
        orders = torch.stack([random_orders(1 + self.rounds, G, self._generator(index)) for index in indices], dim=1)
        scores = patch_scores(self.scorer, groups, view=self.view, orders=orders[0])
        found = {"score": scores, "center_index": groups.center_index}
        if self.rounds:
            difficulty = measured_difficulty(base, groups, self.rounds, orders=orders[1:])
            found["difficulty"] = difficulty
            found["spearman"] = spearman(scores, difficulty)
            found["ratio"] = difficulty_ratio(scores, difficulty, max(1, int(SELECTED * base.num_hidden)))
        return {name: values.cpu().numpy() for name, values in found.items()}

    def _generator(self, index: int) -> torch.Generator:
        state = np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(state >> np.uint64(1)))

    def _scored_patches(self, row: int, batch: Any, rows: dict[str, np.ndarray]) -> ScoredPatches:
        chosen = batch.chosen[0].numpy()
        xyz = self.shapes.read(int(batch.index[0])).xyz[chosen]
        offset, scale = _frame(xyz, batch.plain[0].numpy())
        score = rows["score"][row].astype(np.float32)
        if not np.isfinite(score).all():
            raise FormatError(f"shape {batch.ids[0]}: the network's scores are not finite", file=self.shapes.root)
        center = xyz[rows["center_index"][row]].astype(np.float32)
        if "difficulty" not in rows:
            return ScoredPatches(center, score, offset, scale)
        agreement = [float(rows[name][row]) for name in ("spearman", "ratio")]
        known = [value if np.isfinite(value) else None for value in agreement]
        return ScoredPatches(center, score, offset, scale, rows["difficulty"][row], *known)


def _frame(xyz: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, float]:
    """Return offset (3,) and scale with (xyz - offset) * scale = seen, for (N, 3) points before and after."""
    xyz, seen = xyz.astype(np.float64), seen.astype(np.float64)
    middle, seen_middle = xyz.mean(axis=0), seen.mean(axis=0)
    scale = float(np.sqrt(((seen - seen_middle) ** 2).sum() / max(((xyz - middle) ** 2).sum(), 1e-300)))
    return middle - seen_middle / scale, scale
