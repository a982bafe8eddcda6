# SPDX-License-Identifier: Apache-2.0
"""`pc3d eval`: predictions and ground truth -> a score that names its rule (evaluation.md)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pc3dcli.commands import options
from pc3dcli.commands.options import advanced
from pc3dcli.errors import InputError, UsageError

if TYPE_CHECKING:
    from pc3dcli.commands.eval_instance import Evaluation, InstanceOptions

EXAMPLES = "  pc3d lift3d tracks.ndjson | pc3d eval --gt scans/ --class-agnostic\n  pc3d eval pred/ --gt gt/"
PRESET_HELP = "Rule of the numbers: scannet (default), scannet200, scannetpp, agnostic-valid and others; see man."
NOT_REACHED = 5  # exit code of --fail-under
Preset = Literal[
    "scannet", "scannet200", "scannetpp", "agnostic-segment3d", "agnostic-maskclustering", "agnostic-valid"
]  # fmt: skip


def evaluate(
    ctx: typer.Context,
    predictions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PREDICTIONS...", help="Streams, @list.txt, -, or a folder of masks.", show_default=False
        ),
    ] = None,
    task: Annotated[Literal["instance"], typer.Option("--task", metavar="TASK", help="instance.")] = "instance",
    gt: Annotated[
        Path | None,
        typer.Option("--gt", metavar="DIR", help="Ground truth: <scene>.txt files or scans.", show_default=False),
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option("--preset", metavar="NAME", help=PRESET_HELP),
    ] = None,
    class_agnostic: Annotated[bool, typer.Option("--class-agnostic", help="As --preset agnostic-valid.")] = False,
    scores: Annotated[
        Literal["model", "uniform"], typer.Option("--scores", metavar="WHICH", help="model, or uniform: all 1.")
    ] = "model",
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write result.json and result.csv there.")
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option("--fail-under", metavar="METRIC=VALUE", help="Exit 5 when a metric is lower, as AP50=0.4."),
    ] = None,
    json: options.Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of the table.")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score missing scenes as scenes without predictions.")
    ] = False,
    strict: Annotated[bool, advanced("--strict", help="Exit 4 when there are warnings.")] = False,
    classes: Annotated[
        str | None, advanced("--classes", metavar="LIST", help="scannet, scannet200 or a file of classes.")
    ] = None,
    instance_classes: Annotated[
        Path | None, advanced("--instance-classes", metavar="FILE", help="Which of --classes are instances.")
    ] = None,
    vertex_masks: Annotated[
        Path | None, advanced("--vertex-masks", metavar="DIR", help="ScanNet++: lists of vertices not scored.")
    ] = None,
    label_void: Annotated[
        str | None, advanced("--label-void", metavar="1,3", help="Agnostic presets: labels that become void.")
    ] = None,
    min_region: Annotated[
        int, advanced("--min-region", min=1, metavar="N", help="Vertices below which nothing counts.")
    ] = 100,
    recall: Annotated[bool, advanced("--recall", help="Add recall at the lowest score.")] = False,
    per_scene: Annotated[bool, advanced("--per-scene", help="Add the numbers of each scene.")] = False,
    size_bins: Annotated[bool, advanced("--size-bins", help="Add recall by size of instance.")] = False,
    confusion: Annotated[bool, advanced("--confusion", help="Add which classes were taken for which.")] = False,
    matches: Annotated[
        Path | None, advanced("--matches", metavar="FILE", help="Write every match and miss as JSON lines.")
    ] = None,
    bootstrap: Annotated[
        int, advanced("--bootstrap", min=0, metavar="N", help="Add 95 % intervals over N resamples; wants 10 scenes.")
    ] = 0,
    seed: options.Seed = 0,
    allow_truncated: options.AllowTruncated = False,
    config: options.Config = None,
    print_config: options.PrintConfig = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.Progress = None,
    no_provenance: options.NoProvenance = False,
    debug: options.Debug = False,
) -> None:
    """Score predictions against ground truth; every number carries its preset.

    \b
    Examples:
      pc3d lift3d tracks.ndjson | pc3d eval --gt scans/ --class-agnostic
      pc3d eval pred/ --gt gt/ --preset scannet200 --fail-under AP50=0.4
    """
    from pc3dcli.commands.eval_instance import InstanceOptions, evaluate_instances, metric_names, preset_rule
    from pc3dcli.commands.inputs import expand_names
    from pc3dcli.commands.progress import ProgressReporter

    if print_config:
        from pc3dcli.commands import settings

        settings.print_config(ctx, [])
    chosen = InstanceOptions(
        preset=_preset(preset, class_agnostic),
        classes=classes,
        instance_classes=instance_classes,
        vertex_masks=vertex_masks,
        label_void=_labels(label_void),
        scores=scores,
        min_region=min_region,
        recall=recall,
        per_scene=per_scene,
        size_bins=size_bins,
        confusion=confusion,
        bootstrap=bootstrap,
        seed=seed,
        allow_missing=allow_missing,
        allow_truncated=allow_truncated,
        keeps_matches=matches is not None,
        has_digest=report is not None,
    )
    if json and csv:
        raise UsageError("--json and --csv exclude each other")
    limits = _limits(fail_under or [], metric_names(preset_rule(chosen)[0], recall))
    if gt is None:
        raise UsageError("no ground truth: pass --gt DIR")
    names = expand_names(ctx, predictions, EXAMPLES)
    with ProgressReporter("eval", quiet=quiet, verbose=verbose, progress=progress) as reporter:

        def report(scene: str, number: int, count: int) -> None:
            reporter.scene_progress(scene, number, count)
            reporter.scene_finished(scene, "read", None)

        evaluation = evaluate_instances(names, gt, chosen, report)
    _write(ctx, evaluation, chosen)
    _finish(evaluation, limits, ctx.params)


def _preset(preset: str | None, class_agnostic: bool) -> str:
    if not class_agnostic:
        return preset or "scannet"
    if preset is not None and not preset.startswith("agnostic-"):
        raise UsageError(f"--class-agnostic contradicts --preset {preset}")
    return preset or "agnostic-valid"


def _labels(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")})) if text else ()
    except ValueError:
        raise UsageError(f"--label-void {text}: expected label ids separated by commas") from None


def _limits(texts: list[str], known: list[str]) -> dict[str, float]:
    """Parse METRIC=VALUE; names are compared without case."""
    limits = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name.lower() not in known:
            raise UsageError(f"--fail-under {text}: no metric {name!r}", hint=f"metrics: {', '.join(known)}")
        try:
            limits[name.lower()] = float(value)
        except ValueError:
            raise UsageError(f"--fail-under {text}: expected METRIC=VALUE") from None
        if not 0 <= limits[name.lower()] <= 1:
            raise UsageError(f"--fail-under {text}: values are in [0, 1], never percent")
    return limits


def _write(ctx: typer.Context, evaluation: Evaluation, chosen: InstanceOptions) -> None:
    """Write the files that were asked for, then print."""
    from pc3dcli.commands import eval_output

    params = ctx.params
    if params["report"] is not None:
        eval_output.write_report(params["report"], evaluation.result)
    if params["matches"] is not None:
        eval_output.write_lines(params["matches"], evaluation.matches)
    if params["json"]:
        eval_output.print_records(
            [*_chain(ctx, evaluation), *eval_output.metric_records(evaluation.result)],
            evaluation.result["inputs"]["scenes"],
        )
    elif params["csv"]:
        print(eval_output.csv_text(evaluation.result), end="")
    else:
        eval_output.print_tables(evaluation.result, evaluation.num_scored)


def _chain(ctx: typer.Context, evaluation: Evaluation) -> list[dict]:
    """Return the header and the program records of the metric stream."""
    from pc3dcli.commands import settings
    from pc3dcli.stream.provenance import heads
    from pc3dcli.stream.records import header

    if ctx.params["no_provenance"]:
        return [header()]
    outputs = ("predictions", "gt", "report", "matches", "csv", "strict", "fail_under")
    program = settings.program(ctx, [], weights={}, exclude=(*outputs, "instance_classes", "vertex_masks"))
    return [header(), *evaluation.programs, program.record(heads(evaluation.programs))]


def _finish(evaluation: Evaluation, limits: dict[str, float], params: dict) -> None:
    """Say what to know on stderr and leave with the exit code."""
    for warning in evaluation.warnings if not params["quiet"] else ():
        place = f"{warning['file']}: " if warning["file"] else ""
        print(f"pc3d eval: warning: {place}{warning['detail']} ({warning['code']})", file=sys.stderr)
    if params["strict"] and evaluation.warnings:
        raise InputError(f"{len(evaluation.warnings)} warnings, which --strict does not accept")
    metrics = evaluation.result["metrics"]
    missed = [name for name, limit in limits.items() if metrics[name] is None or metrics[name] < limit]
    for name in missed:
        print(f"pc3d eval: {name} is {metrics[name]}, below {limits[name]}", file=sys.stderr)
    if missed:
        raise typer.Exit(NOT_REACHED)
