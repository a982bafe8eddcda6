# SPDX-License-Identifier: Apache-2.0
"""`pc3d eval`: predictions and ground truth -> a score that names its rule (evaluation.md)."""

# without `from __future__ import annotations`: Typer would compile the text of 50 annotations at every start, 10 ms

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pc3dcli.commands import options
from pc3dcli.commands.options import advanced
from pc3dcli.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from pc3dcli.commands.evaluation import Evaluation, Request

EXAMPLES = "  pc3d lift3d tracks.ndjson | pc3d eval --gt scans/ --class-agnostic\n  pc3d eval pred/ --gt gt/"
PRESET_HELP = "Rule of the numbers; the man page lists those of every task."
NOT_REACHED = 5  # exit code of --fail-under
Task = Literal[
    "instance", "semantic", "nuscenes", "kitti", "semantickitti", "classify", "fewshot", "svm", "parts", "track2d"
]  # fmt: skip
Preset = Literal[
    "scannet", "scannet200", "scannetpp", "agnostic-segment3d", "agnostic-maskclustering", "agnostic-valid",
    "nuscenes", "nuscenes-present", "kitti", "kitti-py", "semkitti", "semkitti-present", "semkitti-multi",
    "classify", "fewshot", "svm", "parts", "davis", "davis-unsupervised",
]  # fmt: skip
# parameters that every task takes; those of one task are in the OPTIONS of its module
COMMON = frozenset(
    ("predictions", "task", "gt", "preset", "report", "fail_under", "json", "csv", "strict", "config",
     "print_config", "quiet", "verbose", "progress", "no_provenance", "debug")
)  # fmt: skip


def evaluate(
    ctx: typer.Context,
    predictions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PREDICTIONS...", help="Streams, @list.txt, -, or a folder of masks.", show_default=False
        ),
    ] = None,
    task: Annotated[
        Task, typer.Option("--task", metavar="TASK", help="instance, semantic, nuscenes, kitti, ...; see man.")
    ] = "instance",
    gt: Annotated[
        Path | None,
        typer.Option("--gt", metavar="PATH", help="Ground truth, as its data set is distributed.", show_default=False),
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
        Path | None,
        typer.Option("--report", metavar="DIR", help="Write result.json, .csv and a page there."),
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
    groups: Annotated[
        Path | None, advanced("--groups", metavar="FILE", help="Lines of class, tab, group: means over each group.")
    ] = None,
    split: Annotated[
        str | None, advanced("--split", metavar="NAME|FILE", help="Which scenes, frames or sequences are scored.")
    ] = None,
    ranges: Annotated[
        str | None, advanced("--ranges", metavar="0-20,20-50", help="Metres: the numbers again for boxes so far away.")
    ] = None,
    pseudo: Annotated[bool, advanced("--pseudo", help="nuScenes: the boxes are labels, not detections.")] = False,
    min_score: Annotated[
        float | None, advanced("--min-score", metavar="X", help="With --pseudo: boxes below X are no labels.")
    ] = None,
    loose: Annotated[bool, advanced("--loose", help="KITTI: the lower overlaps 0.5 and 0.25 in bev and 3d.")] = False,
    train: Annotated[
        Path | None, advanced("--train", metavar="FILE", help="svm: features and labels to train on.")
    ] = None,
    pooling: Annotated[
        Literal["max", "mean", "max+mean", "max;mean"],
        advanced("--pooling", metavar="HOW", help="svm: max, mean, max+mean or max;mean over tokens."),
    ] = "max+mean",
    svm_c: Annotated[float, advanced("--svm-c", min=1e-6, max=1e6, metavar="C", help="svm: weight of the loss.")] = 1.0,
    weights: Annotated[
        Path | None, advanced("--weights", metavar="FILE", help="svm: a pretrained network, inputs are shapes then.")
    ] = None,
    device: options.Device = "auto",
    protocol: Annotated[
        Literal["fair", "official"],
        advanced("--protocol", metavar="WHICH", help="Shapes: fair, or official: the best on the test set first."),
    ] = "fair",
    compare: Annotated[
        bool, advanced("--compare", help="PREDICTIONS are result.json files or reports: put them side by side.")
    ] = False,
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
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: nothing here multiplies matrices
    import numpy as np

    from pc3dcli.commands import eval_output
    from pc3dcli.commands.inputs import expand_names
    from pc3dcli.commands.progress import ProgressReporter

    if print_config:
        from pc3dcli.commands import settings

        settings.print_config(ctx, [])
    if json and csv:
        raise UsageError("--json and --csv exclude each other")
    if compare:
        from pc3dcli.commands import eval_compare

        eval_compare.run(ctx, expand_names(ctx, predictions, EXAMPLES))
        return
    module = task_module(task)
    _check_options(ctx, task, module)
    if gt is None and getattr(module, "NEEDS_GT", True):
        raise UsageError("no ground truth: pass --gt PATH")
    names = expand_names(ctx, predictions, EXAMPLES)
    if report is not None:
        eval_output.check_report(report)
    with ProgressReporter("eval", quiet=quiet, verbose=verbose, progress=progress) as reporter:

        def read(scene: str, number: int, count: int) -> None:
            reporter.scene_progress(scene, number, count)
            reporter.scene_finished(scene, "read", None)

        request = _request(ctx, module, names, gt, read)
        limits = _limits(fail_under or [], module.metric_names(request))
        with np.errstate(all="ignore"):  # numbers of 1e308 overflow to infinity and then match nothing
            evaluation = module.run(request)
    _write(ctx, evaluation)
    _finish(evaluation, limits, ctx.params)


def task_module(task: str) -> "ModuleType":
    """Return the module of a task: PRESETS, OPTIONS, MANUAL, metric_names(request), run(request), maybe NEEDS_GT."""
    return importlib.import_module(f"pc3dcli.commands.eval_{task}")


def _check_options(ctx: typer.Context, task: str, module: "ModuleType") -> None:
    """Refuse options that the task does not have, instead of ignoring them."""
    for param in ctx.command.params:
        is_given = ctx.get_parameter_source(param.name).name in ("COMMANDLINE", "ENVIRONMENT")
        if is_given and param.name not in COMMON | module.OPTIONS:
            raise UsageError(f"{param.opts[0]} does not apply to --task {task}")


def _request(
    ctx: typer.Context, module: "ModuleType", names: list[str], gt: Path | None, progress: Callable
) -> "Request":
    from pc3dcli.commands.evaluation import Request

    params = ctx.params
    options = {name: params[name] for name in sorted(module.OPTIONS)}
    return Request(names, gt, _preset(module, params), options, params["report"] is not None, progress)


def _preset(module: "ModuleType", params: dict) -> str:
    """Return the preset: the first of the task unless one is named; raises UsageError for one of another task."""
    preset, known = params["preset"], module.PRESETS
    if preset is not None and preset not in known:
        raise UsageError(f"--preset {preset}: not of --task {params['task']}", hint=f"its presets: {', '.join(known)}")
    if not params["class_agnostic"]:
        return preset or next(iter(known))
    if preset is not None and not preset.startswith("agnostic-"):
        raise UsageError(f"--class-agnostic contradicts --preset {preset}")
    return preset or "agnostic-valid"


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


def _write(ctx: typer.Context, evaluation: "Evaluation") -> None:
    """Write the files that were asked for, then print."""
    from pc3dcli.commands import eval_output

    params = ctx.params
    if params["report"] is not None:
        rule = task_module(params["task"]).PRESETS[evaluation.result["preset"]]
        eval_output.write_report(params["report"], evaluation, rule)
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
        eval_output.print_tables(evaluation, params)


def _chain(ctx: typer.Context, evaluation: "Evaluation") -> list[dict]:
    """Return the header and the program records of the metric stream."""
    from pc3dcli.commands import settings
    from pc3dcli.stream.provenance import heads
    from pc3dcli.stream.records import header

    if ctx.params["no_provenance"]:
        return [header()]
    outputs = ("predictions", "gt", "report", "matches", "csv", "strict", "fail_under")
    weights = {} if ctx.params["weights"] is None else {"weights": evaluation.result["options"]["weights"]}
    left_out = (*outputs, "instance_classes", "vertex_masks", "weights")
    program = settings.program(ctx, [], weights=weights, exclude=left_out)
    return [header(), *evaluation.programs, program.record(heads(evaluation.programs))]


def _finish(evaluation: "Evaluation", limits: dict[str, float], params: dict) -> None:
    """Say what to know on stderr and leave with the exit code."""
    from pc3dcli.commands import eval_output

    eval_output.say_warnings(evaluation.warnings, params)
    metrics = evaluation.result["metrics"]
    missed = [name for name, limit in limits.items() if metrics[name] is None or metrics[name] < limit]
    for name in missed:
        print(f"pc3d eval: {name} is {metrics[name]}, below {limits[name]}", file=sys.stderr)
    if missed:
        raise typer.Exit(NOT_REACHED)
