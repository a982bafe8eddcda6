# SPDX-License-Identifier: Apache-2.0
"""A training command's last part: train, show how it goes, say where the weights are; or say what it would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from pc3dcli.commands.training_progress import TrainingReporter, duration
from pc3dcli.train import Run, measure_step, train

if TYPE_CHECKING:
    from torch import nn

    from pc3dcli.train import TrainConfig


def train_and_report(
    ctx: typer.Context, learner: nn.Module, data: Any, config: TrainConfig, run: Run, *, after_epoch: Any = None
) -> None:
    """Train, from where an earlier call was stopped, and print the path of the weights."""
    params = ctx.params
    shown = {name: params[name] for name in ("json", "quiet", "verbose", "progress")}
    with TrainingReporter(ctx.info_name, run.folder.program, **shown) as reporter:
        try:
            result = train(learner, data, config, run, report=reporter, after_epoch=after_epoch)
        except KeyboardInterrupt:
            reporter.interrupted()
            raise
    if result.is_main:
        reporter.finished(result.steps, result.new_steps, run.folder.path)
        if not params["json"]:
            print(run.folder.path / "model.safetensors")


def print_estimate(learner: nn.Module, data: Any, source: str, config: TrainConfig, device: str) -> None:
    """Print what a run would take, measured on its first batch; `source` says what it learns from."""
    measured = measure_step(learner, data, config, device)
    trained = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in learner.parameters())
    print(f"parameters  {trained:,} trained{f', {whole:,} with teachers' if whole != trained else ''}")
    print(f"data        {source}, {measured.batch_size} a step")
    print(f"steps       {measured.steps:,} in {config.epochs} epochs")
    total = duration(measured.seconds * measured.steps)
    print(f"time        {total}, at {measured.seconds:.3g} s a step on {measured.device} (measured, without reading)")
    print(f"memory      {measured.num_bytes / 2**30:.2g} GiB on {measured.device} (measured)")
