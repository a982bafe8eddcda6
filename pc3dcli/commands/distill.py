# SPDX-License-Identifier: Apache-2.0
"""`pc3d distill`: labels -> weights: classifiers and part models of shapes, segmenters of scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pc3dcli.commands import options
from pc3dcli.commands.options import advanced

if TYPE_CHECKING:
    from pc3dcli.commands.finetune_plan import Job

FEW_CLOUDS, NUM_ANSWERS = 12, 3  # clouds of which --predict says what they are, and how many classes of each; ours


def configs() -> list[Any]:
    """Return the configs whose fields -D reaches."""
    from pc3dcli.commands.instance_plan import SceneConfig
    from pc3dcli.papers.geomask3d.finetune import BASELINE, FinetuneConfig
    from pc3dcli.papers.geomask3d.point_m2ae import PointM2aeConfig
    from pc3dcli.papers.geomask3d.point_mae import PointMaeConfig
    from pc3dcli.papers.granularity.mask_loss import LossConfig
    from pc3dcli.papers.granularity.segmenter import SegmenterConfig
    from pc3dcli.train import TrainConfig

    bases = [PointMaeConfig(), PointM2aeConfig()]
    return [TrainConfig(**BASELINE), FinetuneConfig(), *bases, SegmenterConfig(), LossConfig(), SceneConfig()]


def distill(
    ctx: typer.Context,
    shapes: Annotated[Path, typer.Argument(metavar="DATA", help="Object clouds; for instances scenes, or labels.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of weights, log and predictions.")
    ] = None,
    method: Annotated[
        Literal["classify", "parts", "instances"],
        typer.Option("--method", metavar="NAME", help="What is learned: classify, parts or instances."),
    ] = "classify",
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="LABELS", help="Of scenes: a stream, --out folder, ground truth.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="WEIGHTS", help="Pretrained weights; without them from scratch.")
    ] = None,
    few_shot: Annotated[
        str | None, typer.Option("--few-shot", metavar="WAYxSHOT", help="Draw ten folds such as 5x10, train on each.")
    ] = None,
    folds: Annotated[Path | None, advanced("--folds", metavar="FILE", help="Few-shot folds of a file instead.")] = None,
    protocol: Annotated[
        Literal["fair", "official"],
        typer.Option("--protocol", metavar="WHICH", help="fair: predict last; official: every epoch."),
    ] = "fair",
    votes: Annotated[int, advanced("--votes", min=0, metavar="N", help="Repeat the vote over ten views N times.")] = 0,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, metavar="N", help="Times through the data.")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, metavar="N", help="Samples a step, over all processes."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say how long and how large; touch nothing.")
    ] = False,
    base: Annotated[
        Literal["point-mae", "point-m2ae"] | None,
        advanced("--base", metavar="NAME", help="Network without --init: point-mae or point-m2ae."),
    ] = None,
    scratch: Annotated[
        bool, advanced("--scratch", help="Take the network of --init but not its weights: the baseline.")
    ] = False,
    predict: Annotated[
        bool, advanced("--predict", help="Train nothing, ask the weights of --init about SHAPES.")
    ] = False,
    recipe: Annotated[
        Literal["baseline", "gm3d"],
        advanced("--recipe", metavar="NAME", help="Settings of the base model's code, or of GeoMask3D's: gm3d."),
    ] = "baseline",
    split: Annotated[
        str | None, advanced("--split", metavar="A,B", help="Splits to learn from and to predict; train,test.")
    ] = None,
    hold_out: Annotated[
        float | None,
        advanced(
            "--hold-out", min=0.01, max=0.99, metavar="SHARE", help="Predict a share of each class, learn the rest."
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"] | None, advanced("--precision", metavar="TYPE", help="fp32 or bf16 (autocast).")
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
    """Learn from labels: classes or parts of shapes, instances of scenes.

    \b
    Examples:
      pc3d distill shapes/ --init runs/s3 --out runs/cls
      pc3d distill labels/ --method instances --out runs/seg
    """
    from pc3dcli.commands.settings import print_config as print_settings
    from pc3dcli.errors import UsageError

    if out is not None and out.resolve() == Path(ctx.params["shapes"]).resolve():
        raise UsageError("--out is the folder of the data", file=out, hint="--out runs/name")
    if method == "instances":
        _instances(ctx, out)
        return
    from pc3dcli.commands.finetune_plan import job

    if labels is not None:
        raise UsageError(f"--labels: not with --method {method}, whose shapes carry their classes")
    found = job(ctx)
    if print_config:
        print_settings(ctx, found.configs)
    if out is None and not dry_run:
        raise UsageError("distill needs a place for weights and predictions", hint="add --out runs/name")
    for text in () if quiet else found.warnings:
        typer.echo(f"pc3d distill: {text}", err=True)
    if dry_run:
        _estimate(found)
    elif predict:
        _predict(ctx, found, out)
    elif found.folds is not None:
        _run_folds(ctx, found, out)
    else:
        _run(ctx, found, out)


def _instances(ctx: typer.Context, out: Path | None) -> None:
    """Train the segmenter and print where its weights are."""
    from pc3dcli.commands.instance_plan import plan
    from pc3dcli.commands.settings import print_config as print_settings
    from pc3dcli.commands.training_run import print_estimate, train_and_report
    from pc3dcli.errors import UsageError
    from pc3dcli.formats.result_names import counted
    from pc3dcli.stream.run_folder import RunFolder
    from pc3dcli.train import Run

    found, params = plan(ctx), ctx.params
    if params["print_config"]:
        print_settings(ctx, found.configs)
    if out is None and not params["dry_run"]:
        raise UsageError("distill needs a place for weights", hint="add --out runs/name")
    labelled = found.labelled()
    labelled.check_targets(found.scenes.min_points)
    learner, data = found.learner(), found.data(labelled)
    source = counted(len(labelled.clouds.names), "scene")
    if params["dry_run"]:
        print_estimate(learner, data, source, found.training, params["device"])
        return
    if not params["quiet"]:
        left_out = f", {len(labelled.unlabelled)} without labels left out" if labelled.unlabelled else ""
        typer.echo(f"pc3d distill: {source} with labels{left_out}", err=True)
        if labelled.failed:
            named = ", ".join(labelled.failed[:5]) + (", ..." if len(labelled.failed) > 5 else "")
            typer.echo(f"pc3d distill: {len(labelled.failed)} failed before and are left out: {named}", err=True)
        if labelled.is_truth and found.scenes.skip_labels:
            skipped = ", ".join(map(str, found.scenes.skip_labels))
            typer.echo(f"pc3d distill: ground truth with the labels {skipped} is left out (skip_labels)", err=True)
    folder = RunFolder(out, found.program(ctx, labelled).record(), params["force"])
    run = Run(folder, found.description, params["device"])
    train_and_report(ctx, learner, data, found.training, run)
    if labelled.failed:
        raise typer.Exit(3)


def _run(ctx: typer.Context, found: Job, out: Path) -> None:
    """Train once and print where the weights are."""
    from pc3dcli.commands import finetune_run
    from pc3dcli.commands.training_run import report_training
    from pc3dcli.stream.run_folder import RunFolder

    _leave_folds(ctx, out)
    folder = RunFolder(out, found.program.record(), ctx.params["force"])
    report_training(ctx, folder, lambda report: finetune_run.run(found.plan, folder, report))


def _predict(ctx: typer.Context, found: Job, out: Path) -> None:
    """Write predictions of weights that are trained, and print where they are."""
    from pc3dcli.commands import finetune_run
    from pc3dcli.errors import UsageError

    path = out / finetune_run.PREDICTIONS
    if path.exists() and not ctx.params["force"]:
        raise UsageError("exists", file=path, hint="pass --force to redo it, or name another --out")
    _leave_folds(ctx, out)
    arrays = finetune_run.predict(found.plan, path)
    if not ctx.params["quiet"]:
        for line in _answers(arrays, path):
            typer.echo(f"pc3d distill: {line}", err=True)
    print(path)


def _leave_folds(ctx: typer.Context, out: Path) -> None:
    """Refuse a folder of few-shot folds for another kind of run, or with --force remove them."""
    from pc3dcli.commands import fewshot_runs
    from pc3dcli.errors import UsageError

    if not fewshot_runs.has_folds(out):
        return
    if not ctx.params["force"]:
        hint = "pass --force to remove them, or name another --out"
        raise UsageError("exists, few-shot folds", file=out / fewshot_runs.FOLDS, hint=hint)
    fewshot_runs.remove_folds(out)


def _answers(arrays: dict[str, Any], path: Path) -> list[str]:
    """Return a line for each of few clouds: its likeliest classes; of many, or of parts, how the file is read."""
    import numpy as np

    task = "classify" if "logits" in arrays else "parts"
    if "label" in arrays and (task == "parts" or len(arrays["id"]) > FEW_CLOUDS):
        return [f"{len(arrays['id'])} shapes; pc3d eval {path} --task {task} scores them"]
    if len(arrays["id"]) > FEW_CLOUDS:
        return [f"{len(arrays['id'])} shapes; class_names[logits.argmax(1)] in {path} is the class of each id"]
    lines, names = [], arrays["class_names"]
    for name, logits in zip(arrays["id"], arrays["logits"].astype(np.float64), strict=True):
        share = np.exp(logits - logits.max())
        share /= share.sum()
        best = np.argsort(-share, kind="stable")[:NUM_ANSWERS]
        lines.append(f"{name}: {', '.join(f'{names[index]} {share[index]:.2f}' for index in best)}")
    return lines


def _run_folds(ctx: typer.Context, found: Job, out: Path) -> None:
    """Train on every fold and print where the predictions are."""
    from pc3dcli.commands import fewshot_runs
    from pc3dcli.commands.finetune_plan import program_of_fold, program_of_folds
    from pc3dcli.commands.training_run import reporter
    from pc3dcli.stream.run_folder import RunFolder

    is_main = fewshot_runs.run_folds(
        found.plan,
        found.folds,
        RunFolder(out, program_of_folds(found), ctx.params["force"]),
        lambda index: program_of_fold(found, index),
        reporter_of=lambda index: reporter(ctx, program_of_fold(found, index)),
    )
    if is_main and not ctx.params["json"]:
        print(out / fewshot_runs.FOLDER)


def _estimate(found: Job) -> None:
    """Print what a run would take, measured on its first batch."""
    from pc3dcli.commands import finetune_run
    from pc3dcli.commands.training_run import print_cost

    measured, num_parameters = finetune_run.measure(found.plan, found.folds)
    num_runs = len(found.folds.folds) if found.folds else 1
    print(f"parameters  {num_parameters:,}")
    print(f"runs        {num_runs}")
    print(f"steps       {measured.steps:,} a run, in {found.plan.training.epochs} epochs")
    print_cost(measured, num_runs)
