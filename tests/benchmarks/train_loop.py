# SPDX-License-Identifier: Apache-2.0
"""What a step costs beyond its learner: our training loop against a bare loop over the same batches.

    python tests/benchmarks/train_loop.py [--steps N]

Both run a multilayer perceptron of about a million parameters in small batches, so that what the loop itself does
(batches made ahead, seeds, the norm of the gradient, log, checks) can be seen; and the norm alone is timed at the size
of GeoMask3D.  CPU seconds of this process, one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from pc3dcli.stream.provenance import Program
from pc3dcli.stream.run_folder import RunFolder
from pc3dcli.train import Run, TrainConfig, train

WIDTH, BATCH = 512, 32
GEOMASK3D_SHAPES = [(1536, 384), (384, 1536), (1152, 384), (384, 384), (384,), (384,), (384,), (1536,)] * 20


class Batch(NamedTuple):
    values: torch.Tensor
    ids: tuple[str, ...]


class Data:
    """Random vectors."""

    def __init__(self, count: int) -> None:
        self.values = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(0))
        self.ids = np.array([f"s{number}" for number in range(count)])

    def __len__(self) -> int:
        return len(self.values)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(len(self))

    def batch(self, indices: np.ndarray, *, seed: int, epoch: int) -> Batch:
        return Batch(self.values[indices], tuple(self.ids[indices]))


class Perceptron(nn.Module):
    """Predicts its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(4)])

    def training_loss(self, batch: Batch, at: object) -> tuple[torch.Tensor, dict]:
        return (self.layers(batch.values) - batch.values).square().mean(), {}

    def after_step(self, at: object) -> None: ...

    def exported(self) -> dict:
        return self.state_dict()


def bare_loop(data: Data, steps: int) -> float:
    """Return the CPU seconds of a step of the shortest loop."""
    model = Perceptron()
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    order = data.order(0, 0)
    begin = time.process_time()
    for step in range(steps):
        batch = data.batch(order[step * BATCH : (step + 1) * BATCH], seed=0, epoch=0)
        loss, _ = model.training_loss(batch, None)
        loss.backward()
        adam.step()
        adam.zero_grad()
        loss.item()
    return (time.process_time() - begin) / steps


def our_loop(data: Data, steps: int) -> float:
    """Return the CPU seconds of a step of `train`: the difference of two lengths, so that the start is not counted."""
    seconds = []
    for epochs in (1, 3):
        config = TrainConfig(epochs=epochs, batch_size=BATCH)
        with tempfile.TemporaryDirectory() as out:
            program = Program("pc3d benchmark", []).record()
            description = {"method": "none", "kind": "pretrain", "base": "none", "config": {}}
            run = Run(RunFolder(Path(out), program), description, "cpu")
            begin = time.process_time()
            train(Perceptron(), data, config, run)
            seconds.append(time.process_time() - begin)
    return (seconds[1] - seconds[0]) / (2 * steps)


def norm_seconds() -> float:
    """Return the CPU seconds that the norm of a gradient of GeoMask3D's size takes."""
    gradients = [torch.randn(shape) for shape in GEOMASK3D_SHAPES]
    begin = time.process_time()
    for _ in range(20):
        nn.utils.get_total_norm(gradients)
    return (time.process_time() - begin) / 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    data = Data(steps * BATCH)
    train_once = our_loop(Data(4 * BATCH), 4)  # imports
    bare = min(bare_loop(data, steps) for _ in range(3))
    ours = min(our_loop(data, steps) for _ in range(3))
    numel = sum(int(np.prod(shape)) for shape in GEOMASK3D_SHAPES) / 1e6
    print(f"bare loop {bare * 1e3:.2f} ms a step, ours {ours * 1e3:.2f} ms: {(ours - bare) * 1e3:.2f} ms on top")
    print(f"norm of {numel:.0f} M gradients {norm_seconds() * 1e3:.1f} ms")
    assert train_once is not None


if __name__ == "__main__":
    main()
