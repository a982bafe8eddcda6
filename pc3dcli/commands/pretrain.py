# SPDX-License-Identifier: Apache-2.0
"""`pc3d pretrain`: unlabelled shapes -> weights of an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pc3dcli.commands import options
from pc3dcli.commands.options import advanced


def configs() -> list[Any]:
    """Return the configs whose fields -D reaches."""
    from pc3dcli.commands.geomask3d_plan import PictureConfig
    from pc3dcli.papers.geomask3d.gm3d import Gm3dConfig
    from pc3dcli.papers.geomask3d.point_m2ae import PointM2aeConfig
    from pc3dcli.papers.geomask3d.point_mae import PointMaeConfig
    from pc3dcli.train import TrainConfig

    return [TrainConfig(), Gm3dConfig(), PictureConfig(), PointMaeConfig(), PointM2aeConfig()]


def pretrain(
    ctx: typer.Context,
    shapes: Annotated[Path, typer.Argument(metavar="SHAPES", help="Folder or file of object clouds.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the weights and the log.")
    ] = None,
    method: Annotated[
        Literal["geomask3d"], typer.Option("--method", metavar="NAME", help="What is learned: geomask3d.")
    ] = "geomask3d",
    base: Annotated[
        Literal["point-mae", "point-m2ae"] | None,
        typer.Option("--base", metavar="NAME", help="Masked autoencoder: point-mae or point-m2ae."),
    ] = None,
    mask: Annotated[
        Literal["random", "block", "radius", "geometric"] | None,
        typer.Option("--mask", metavar="HOW", help="What is hidden: random, block, radius or geometric."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, metavar="N", help="Times through the shapes.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, metavar="N", help="Shapes a step, over all processes.")
    ] = None,
    init: Annotated[Path | None, typer.Option("--init", metavar="WEIGHTS", help="Start from these weights.")] = None,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", metavar="WEIGHTS", help="Distil the features of these frozen weights.")
    ] = None,
    mask_scores: Annotated[
        Path | None, typer.Option("--mask-scores", metavar="FILE", help="Hide what mask-score found hard.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say how long and how large; touch nothing.")
    ] = False,
    split: Annotated[str, advanced("--split", metavar="NAME", help="Split of the data set.")] = "train",
    precision: Annotated[
        Literal["fp32", "bf16"] | None, advanced("--precision", metavar="TYPE", help="fp32 or bf16 (autocast).")
    ] = None,
    parity: Annotated[
        Literal["none", "official"] | None,
        advanced("--parity", metavar="HOW", help="official: do as the released code does."),
    ] = None,
    dataset: Annotated[
        str, advanced("--dataset", metavar="NAME", help="Layout of the shapes; auto detects it.")
    ] = "auto",
    force: options.Force = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    config: options.Config = None,
    define: options.Define = None,
    print_config: options.PrintConfig = False,
    json: Annotated[bool, advanced("--json", help="Write step records to stdout.")] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.Progress = None,
    debug: options.Debug = False,
) -> None:
    """Pretrain an encoder of object clouds without labels.

    \b
    Examples:
      w=$(pc3d pretrain shapes/ --mask random --epochs 50 --out runs/mae)
      pc3d pretrain shapes/ --teacher "$w" --out runs/gm3d
    """
    from pc3dcli.commands.settings import print_config as print_settings
    from pc3dcli.commands.training_run import print_estimate
    from pc3dcli.errors import UsageError
    from pc3dcli.stream.run_folder import RunFolder
    from pc3dcli.train import Run

    plan = METHODS[method](ctx)
    if print_config:
        print_settings(ctx, plan.configs)
    if out is None and not dry_run:
        raise UsageError("pretrain needs a place for the weights", hint="add --out runs/name")
    data = plan.data()
    learner, program = plan.learner(data), plan.program(ctx, data).record()
    if dry_run:
        print_estimate(learner, data, data.shapes.source, plan.training, device)
        if out is not None:
            print(f"out         {out}, {RunFolder(out, program, force).state()}")
        return
    _train(ctx, plan, learner, data, Run(RunFolder(out, program, force), plan.description, device))


def _geomask3d(ctx: typer.Context) -> Any:
    from pc3dcli.commands.geomask3d_plan import plan

    return plan(ctx)


METHODS = {"geomask3d": _geomask3d}


def _train(ctx: typer.Context, plan: Any, learner: Any, data: Any, run: Any) -> None:
    """Train, with pictures; says before what may surprise."""
    from pc3dcli.commands.pretrain_pictures import PictureMaker
    from pc3dcli.commands.training_run import train_and_report

    if len(data.shapes.files) > 1 and not ctx.params["quiet"]:
        typer.echo(f"pc3d pretrain: {data.shapes.source}", err=True)
    if len(data) < plan.training.batch_size and not ctx.params["quiet"]:
        typer.echo(
            f"pc3d pretrain: {len(data)} shapes are one batch, {plan.training.batch_size} were asked for", err=True
        )
    pictures = PictureMaker(data, plan.pictures, run.folder.path / "pictures", plan.training.seed)
    train_and_report(ctx, learner, data, plan.training, run, after_epoch=pictures.after_epoch)
