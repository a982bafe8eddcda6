# SPDX-License-Identifier: Apache-2.0
"""How a learner is trained, and what a learner and its data are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from pc3dcli.errors import check_choices, check_ranges
from pc3dcli.nn.schedules import epoch_rate, iteration_rate, one_cycle_rate


@dataclass(frozen=True)
class TrainConfig:
    """How a learner is trained."""

    epochs: int = 300
    batch_size: int = 128  # samples of one step, over all processes
    lr: float = 1e-3  # highest learning rate (AdamW)
    weight_decay: float = 0.05  # of matrices; biases, norms and what is named token have none
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    warmup_epochs: float = 10.0  # of linear rise; at most a fifth of the epochs, ours
    schedule: Literal["epoch", "iteration", "one-cycle"] = "iteration"  # when the learning rate changes, and how
    min_lr: float = 0.0  # at the end; the schedule by epochs also begins there
    period: float | None = None  # epochs of the cosine where it changes by epochs; none: those of the run
    clip: float = 0.0  # largest norm of the gradient, 0 for any
    double_step: bool = False  # step before clipping too, as the released part segmentation does
    decay_tokens: bool = False  # weight decay on parameters named token too (GM3D's released code)
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast
    compile: bool = False  # torch.compile of the transformers and patch embeddings
    checkpoint_every: int = 0  # epochs between checkpoints, besides those by the clock (every 5 minutes); ours
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        check_ranges(self, epochs=(1, 1_000_000), batch_size=(1, 1_000_000), lr=(0, 1e3), weight_decay=(0, 10))
        check_ranges(self, warmup_epochs=(0, 1e6), min_lr=(0, 1e3), period=(1e-3, 1e7), clip=(0, 1e9))
        check_ranges(self, checkpoint_every=(0, 1_000_000), seed=(0, 2**63))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {self.betas}: expected two numbers from 0 to below 1")

    def rate(self, at: Position) -> float:
        """Return the learning rate of a step."""
        warmup = min(self.warmup_epochs, self.epochs / 5)
        if self.schedule == "epoch":
            period = self.period or self.epochs
            return epoch_rate(at.epoch, peak=self.lr, period=period, warmup=warmup, floor=self.min_lr)
        if self.schedule == "one-cycle":
            return one_cycle_rate(at.step, self.epochs * at.steps_per_epoch, peak=self.lr)
        now = at.step / at.steps_per_epoch
        return iteration_rate(now, peak=self.lr, epochs=self.epochs, warmup=warmup, floor=self.min_lr)


@dataclass(frozen=True)
class Position:
    """Where training is.

    epoch, step      0, 1, ...; `step` counts over all epochs
    generator        on the CPU, seeded from the seed of the run, the step and the rank
    rank             of this process; 0 writes the files
    """

    epoch: int
    epochs: int
    step: int
    steps_per_epoch: int
    generator: torch.Generator
    rank: int = 0

    @property
    def is_epoch_end(self) -> bool:
        return (self.step + 1) % self.steps_per_epoch == 0


class Learner(Protocol):
    """An nn.Module that can be trained; what must survive an interruption is in its state_dict."""

    def training_loss(self, batch: Any, at: Position) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss and named scalars for the log, detached."""

    def after_step(self, at: Position) -> None:
        """Follow a step of the optimiser, for example with a moving average."""

    def exported(self) -> dict[str, torch.Tensor]:
        """Return the tensors that users get."""


class Data(Protocol):
    """Samples by index; `batch` gives a NamedTuple of CPU tensors and other things, the names of its samples in `ids`.

    A batch must follow from its arguments alone, and each sample of it from the seed, the epoch and its index.
    """

    def __len__(self) -> int: ...
    def order(self, seed: int, epoch: int) -> np.ndarray: ...
    def batch(self, indices: Sequence[int] | np.ndarray, *, seed: int, epoch: int) -> Any: ...
