# SPDX-License-Identifier: Apache-2.0
"""A training command's last part: train, show how it goes, say where the weights are; or say what it would take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from pc3dcli.commands.training_progress import TrainingReporter, duration
from pc3dcli.train import Measured, Result, Run, measure_step, train

if TYPE_CHECKING:
    from torch import nn

    from pc3dcli.stream.run_folder import RunFolder
    from pc3dcli.train import TrainConfig


def train_and_report(
    ctx: typer.Context, learner: nn.Module, data: Any, config: TrainConfig, run: Run, *, after_epoch: Any = None
) -> None:
    """Train, from where an earlier call was stopped, and print the path of the weights."""
    report_training(
        ctx, run.folder, lambda report: train(learner, data, config, run, report=report, after_epoch=after_epoch)
    )


def report_training(ctx: typer.Context, folder: RunFolder, training: Callable[[TrainingReporter], Result]) -> None:
    """Show how `training` goes, and print the path of the weights that it leaves in a folder."""
    with reporter(ctx, folder.program) as report:
        try:
            result = training(report)
        except KeyboardInterrupt:
            report.interrupted()
            raise
    if result.is_main:
        report.finished(result.steps, result.new_steps, folder.path)
        if not ctx.params["json"]:
            print(folder.path / "model.safetensors")


def reporter(ctx: typer.Context, program: dict) -> TrainingReporter:
    """Return what shows how a training goes, as the command line asks."""
    shown = {name: ctx.params[name] for name in ("json", "quiet", "verbose", "progress")}
    return TrainingReporter(ctx.info_name, program, **shown)


def print_estimate(learner: nn.Module, data: Any, source: str, config: TrainConfig, device: str) -> None:
    """Print what a run would take, measured on its first batch; `source` says what it learns from."""
    measured = measure_step(learner, data, config, device)
    trained = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in learner.parameters())
    print(f"parameters  {trained:,} trained{f', {whole:,} with teachers' if whole != trained else ''}")
    print(f"data        {source}, {measured.batch_size} a step")
    print(f"steps       {measured.steps:,} in {config.epochs} epochs")
    print_cost(measured, 1)


def print_cost(measured: Measured, num_runs: int) -> None:
    """Print the time and memory of some runs of one kind."""
    total = duration(measured.seconds * measured.steps * num_runs)
    print(f"time        {total}, at {measured.seconds:.3g} s a step on {measured.device} (measured, without reading)")
    print(f"memory      {measured.num_bytes / 2**30:.2g} GiB on {measured.device} (measured)")
