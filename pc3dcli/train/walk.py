# SPDX-License-Identifier: Apache-2.0
"""The way through the data: which samples a process takes at which step, made ahead by a thread."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pc3dcli.errors import InputError, UsageError
from pc3dcli.train.config import Data, Position, TrainConfig

PREFETCH = 2  # batches made ahead while the device computes; ours


@dataclass(frozen=True)
class Walk:
    """The way through the data: which samples this process takes at which step."""

    data: Data
    config: TrainConfig
    batch_size: int  # of the whole step
    steps_per_epoch: int
    rank: int
    num_ranks: int

    @classmethod
    def over(cls, data: Data, config: TrainConfig, rank: int = 0, num_ranks: int = 1) -> Walk:
        """Plan the walk: an incomplete last batch is dropped; samples fewer than a batch are one batch.

        raises  UsageError when the batch cannot be shared, InputError without a sample for each process
        """
        if config.batch_size % num_ranks:
            raise UsageError(f"a batch of {config.batch_size} cannot be shared by {num_ranks} processes")
        batch_size = min(config.batch_size, len(data) - len(data) % num_ranks)
        if batch_size < 1:
            raise InputError(f"found {len(data)} samples, expected at least one for each of {num_ranks} processes")
        return cls(data, config, batch_size, len(data) // batch_size, rank, num_ranks)

    @property
    def steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    def batches(self, start: int, device: torch.device) -> Iterator[tuple[Any, Position]]:
        """Yield the batches of steps `start` and later on the device; a thread makes the next ones meanwhile."""
        queue: deque[tuple[int, Future]] = deque()
        pending = iter(range(start, self.steps))
        with ThreadPoolExecutor(1, "batches") as pool:
            while True:
                for step in itertools.islice(pending, PREFETCH - len(queue)):
                    queue.append((step, pool.submit(self._batch, step, device)))
                if not queue:
                    return
                step, batch = queue.popleft()
                yield _moved(batch.result(), device), self.position(step)

    def position(self, step: int) -> Position:
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, step, self.rank, 0))
        epoch = step // self.steps_per_epoch
        return Position(epoch, self.config.epochs, step, self.steps_per_epoch, generator, self.rank)

    def indices(self, step: int) -> np.ndarray:
        """Return the indices (b,) int64 of this process's part of the batch of a step."""
        epoch, number = divmod(step, self.steps_per_epoch)
        share = self.batch_size // self.num_ranks
        first = number * self.batch_size + self.rank * share
        return self._order(epoch)[first : first + share]

    def _batch(self, step: int, device: torch.device) -> Any:
        seed, epoch = self.config.seed, step // self.steps_per_epoch
        batch = self.data.batch(self.indices(step), seed=seed, epoch=epoch)
        return batch if device.type == "cpu" else _moved(batch, None)

    @functools.cached_property
    def _orders(self) -> dict[int, np.ndarray]:
        return {}

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = self.data.order(self.config.seed, epoch)
        return self._orders[epoch]


def _moved(batch: Any, device: torch.device | None) -> Any:
    """Return a batch on a device, or with None in memory from which the copy to one need not wait."""
    values = [
        value if not isinstance(value, torch.Tensor) else
        value.pin_memory() if device is None else value.to(device, non_blocking=True)
        for value in batch
    ]  # fmt: skip
    return type(batch)(*values)


def step_seed(*key: int) -> int:
    """Return a seed of torch's generators that follows from integers, well mixed."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
