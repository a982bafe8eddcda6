# SPDX-License-Identifier: Apache-2.0
"""A learner and data as small as can be, with all that makes a run hard to repeat: dropout, EMA, batch statistics.

Run as a script it trains into a folder:  python tests/train/tiny.py OUT [--die-at STEP] [--nan-at STEP] [--plain]
"""

from __future__ import annotations

import argparse
import copy
import os
import signal
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from pc3dcli.stream.provenance import Program
from pc3dcli.stream.run_folder import RunFolder
from pc3dcli.train import Position, Run, TrainConfig, train

DESCRIPTION = {"method": "tiny", "kind": "pretrain", "base": "tiny", "config": {}}


class TinyBatch(NamedTuple):
    clouds: torch.Tensor
    index: torch.Tensor
    ids: tuple[str, ...]


class TinyData:
    """Samples of four numbers, noise of (seed, epoch, index) added."""

    def __init__(self, count: int = 12) -> None:
        self.values = np.random.default_rng(5).normal(size=(count, 4)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.values)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(len(self))

    def batch(self, indices, *, seed: int, epoch: int) -> TinyBatch:
        noise = [np.random.default_rng((seed, epoch, int(i))).normal(size=4) for i in indices]
        values = torch.from_numpy((self.values[indices] + 0.1 * np.array(noise)).astype(np.float32))
        return TinyBatch(values, torch.from_numpy(np.asarray(indices)), tuple(f"s{i}" for i in indices))


class TinyLearner(nn.Module):
    """Predict the sum of four numbers."""

    def __init__(self, *, nan_at: int | None = None, die_at: int | None = None, is_plain: bool = False) -> None:
        """is_plain: nothing that differs between one process and two; one layer never gets a gradient."""
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
            self.student = nn.Sequential(layers[0], *(layers[2:3] if is_plain else layers[1:4]), layers[4])
            self.unused = nn.Linear(2, 2)
        self.average = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.int64))
        self.nan_at, self.die_at, self.noise = nan_at, die_at, 0.0 if is_plain else 0.1

    def training_loss(self, batch: TinyBatch, at: Position) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if at.step == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        noise = self.noise * torch.randn(batch.clouds.shape, generator=at.generator)
        error = self.student(batch.clouds + noise)[:, 0] - batch.clouds.sum(1)
        loss = error.square().mean()
        if at.step == self.nan_at:
            loss = loss * float("nan")
        return loss, {"error": error.detach().abs().mean()}

    def after_step(self, at: Position) -> None:
        self.steps_seen += 1
        with torch.no_grad():
            for mine, theirs in zip(self.average.parameters(), self.student.parameters(), strict=True):
                mine.lerp_(theirs, 0.1)

    def exported(self) -> dict[str, torch.Tensor]:
        return self.state_dict()


def tiny_run(out: Path, config: TrainConfig, *, force: bool = False) -> Run:
    """Return the run that a config identifies."""
    program = Program("pc3d tiny", [], {"epochs": config.epochs, "lr": config.lr}, config.seed).record()
    return Run(RunFolder(out, program, force), DESCRIPTION, "cpu")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    for name in ("--die-at", "--nan-at"):
        parser.add_argument(name, type=int)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    config = TrainConfig(epochs=3, batch_size=4, lr=1e-2, checkpoint_every=1)
    learner = TinyLearner(die_at=options.die_at, nan_at=options.nan_at, is_plain=options.plain)
    train(learner, TinyData(), config, tiny_run(options.out, config))


if __name__ == "__main__":
    main()
