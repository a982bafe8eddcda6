# SPDX-License-Identifier: Apache-2.0
"""What a run writes while it trains: log, checkpoints and at the end the weights; and how it finds its checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from pc3dcli.errors import Pc3dError, WeightsError
from pc3dcli.nn.model_files import read_tensors, write_model, write_tensors
from pc3dcli.nn.training_state import unpack_state
from pc3dcli.stream.run_folder import RunFolder, RunLog
from pc3dcli.stream.writer import atomic_file
from pc3dcli.train.config import Position, TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOG_DELAY = 16  # steps between looks at the losses of an accelerator, each of which waits for it; ours
CHECKPOINT_S = 300.0  # seconds between checkpoints by the clock, and at least this many times what one takes; ours
CHECKPOINT_COST = 50.0
NAMED_IDS = 8  # samples that a message names


class TrainingError(Pc3dError):
    """Training cannot go on; the last good checkpoint is kept."""


@dataclass(frozen=True)
class Run:
    """Where a run writes and what its weights are.

    description  of the weights, for `write_model`
    device       auto, cpu, cuda or cuda:N
    rate_scale   parameter name -> factor on the learning rate (layer decay)
    """

    folder: RunFolder
    description: dict
    device: str = "auto"
    rate_scale: Callable[[str], float] | None = None


class Reporter(Protocol):
    """Told about a run by its first process."""

    def started(self, step: int, steps: int, records: bytes) -> None:
        """Training goes on at `step` of `steps`; `records` is the log so far."""

    def logged(self, record: dict) -> None:
        """A record was added to the log."""


class Journal:
    """Log and checkpoints of a run; only the first process writes them."""

    def __init__(self, fabric: Fabric, run: Run, log_bytes: int, report: Reporter | None) -> None:
        self.fabric, self.run, self.log_bytes = fabric, run, log_bytes
        self.report = report if fabric.is_global_zero else None
        self.log: RunLog | None = None
        self.delay = 1 if fabric.device.type == "cpu" else LOG_DELAY
        self.pending: list[tuple] = []
        self.saved_step = None
        self.started, self.saved, self.cost = time.time(), time.monotonic(), 0.0

    def __enter__(self) -> Journal:
        if self.fabric.is_global_zero:
            self.log = self.run.folder.open_log(self.log_bytes)
        return self

    def __exit__(self, *_: object) -> None:
        if self.log:
            self.log.close()

    def start(self, step: int, steps: int) -> None:
        self.saved_step = step or None
        if self.report:
            self.report.started(step, steps, self.log.kept)

    def add(self, at: Position, ids: Sequence[str], lr: float, loss: torch.Tensor, scalars: dict) -> None:
        """Take the numbers of a step, on their device; they are looked at later."""
        names = ["loss", *scalars]
        values = torch.stack([value.detach().float().to(loss.device) for value in (loss, *scalars.values())])
        mean = self.fabric.all_reduce(values, reduce_op="mean") if self.fabric.world_size > 1 else values
        self.pending.append((at, ids, lr, names, mean, loss))
        if len(self.pending) >= self.delay:
            self.flush()

    def flush(self) -> None:
        """Write what was taken; raises TrainingError for the first step whose loss or gradient is not finite."""
        pending, self.pending = self.pending, []
        for at, ids, lr, names, mean, loss in pending:
            values = dict(zip(names, mean.tolist(), strict=True))
            if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
                raise self._not_finite(at, ids if self.fabric.world_size == 1 or not loss.isfinite() else ())
            plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
            self.extend([{"type": "step", "step": at.step + 1, "epoch": at.epoch, "lr": lr, **plain}])

    def extend(self, records: list[dict] | None) -> None:
        if self.log and records:
            self.log.write(records)
            for record in records:
                if self.report:
                    self.report.logged(record)

    def is_checkpoint_due(self, at: Position, config: TrainConfig) -> bool:
        if not self.fabric.is_global_zero or at.step + 1 == at.epochs * at.steps_per_epoch:
            return False
        every = config.checkpoint_every
        if every and at.is_epoch_end and (at.epoch + 1) % every == 0:
            return True
        return time.monotonic() - self.saved > max(CHECKPOINT_S, CHECKPOINT_COST * self.cost)

    def save_checkpoint(self, at: Position, tensors: dict[str, torch.Tensor]) -> None:
        self.flush()
        begin = time.monotonic()
        position = {"step": at.step + 1, "log_bytes": self.log.sync(), "program": self.run.folder.program}
        with atomic_file(self.run.folder.checkpoint) as file:
            write_tensors(file, tensors, {"format": "pc3d", "checkpoint": json.dumps(position, sort_keys=True)})
        self.saved_step, self.saved = at.step + 1, time.monotonic()
        self.cost = self.saved - begin

    def finish(self, tensors: dict[str, torch.Tensor], *, steps: int, new_steps: int) -> None:
        """Write the weights, then what says that the run is done."""
        self.flush()
        if not self.log:
            return
        self.log.sync()
        folder = self.run.folder
        write_model(folder.path, tensors, self.run.description, [folder.program])
        facts = {"device": str(self.fabric.device), "processes": self.fabric.world_size, "torch": torch.__version__}
        folder.finish(self.started, steps=steps, new_steps=new_steps, threads=torch.get_num_threads(), **facts)

    def _not_finite(self, at: Position, ids: Sequence[str]) -> TrainingError:
        more = f" and {len(ids) - NAMED_IDS} more" if len(ids) > NAMED_IDS else ""
        of = f"of {', '.join(ids[:NAMED_IDS])}{more}" if ids else "in another process"
        on = f"repair a cloud that is at fault and go on from step {self.saved_step}; or " if self.saved_step else ""
        message = f"step {at.step + 1}: the loss or its gradient is not finite, in the batch {of}"
        return TrainingError(
            message,
            file=self.run.folder.path,
            hint=f"{on}start again in another --out with -D clip=5 or a lower -D lr=...",
        )


def restore(folder: RunFolder, learner: nn.Module, adam: torch.optim.Optimizer) -> tuple[int, int]:
    """Put the checkpoint of a folder into learner and optimiser; returns the steps done and the bytes of the log.

    raises  UsageError when it is of other settings, WeightsError when it is damaged
    """
    path = folder.checkpoint
    if folder.force or not path.exists():
        return 0, 0
    try:
        tensors, metadata = read_tensors(path)
        position = json.loads(metadata.get("checkpoint", "null"))
        step, log_bytes, program = (position[name] for name in ("step", "log_bytes", "program"))
        if type(step) is not int or type(log_bytes) is not int or min(step, log_bytes) < 0:
            raise ValueError
        folder.check_same(program, path)
        unpack_state(tensors, learner, adam, file=path)
    except (WeightsError, ValueError, LookupError, TypeError) as error:
        message = error.message if isinstance(error, WeightsError) else "says nothing of a run"
        raise WeightsError(message, file=path, hint="pass --force to start again") from None
    return step, log_bytes
