# SPDX-License-Identifier: Apache-2.0
"""`pc3d pseudo-label`: what a network predicted -> the labels that it is sure of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pc3dcli.commands import options
from pc3dcli.stream.pipeline import Context, SceneTask

EXAMPLES = (
    "  pc3d pseudo-label pred/ --out labels/ # pred/ is of pc3d segment --out\n"
    "  pc3d pseudo-label pred/ --min-score 0.7 --out sure.ndjson"
)


@dataclass(frozen=True)
class Settings:
    """What decides the labels of a scene; picklable."""

    keep: Any


def configs() -> list[Any]:
    """Return the configs whose fields -D reaches."""
    from pc3dcli.papers.granularity.pseudo_labels import PseudoLabelConfig

    return [PseudoLabelConfig()]


def pseudo_label(
    ctx: typer.Context,
    scenes: Annotated[
        list[str] | None,
        typer.Argument(metavar="STREAM...", help="The --out folders of pc3d segment, @list.txt.", show_default=False),
    ] = None,
    method: Annotated[
        Literal["instances"], typer.Option("--method", metavar="NAME", help="What is labelled: instances.")
    ] = "instances",
    min_score: Annotated[
        float | None, typer.Option("--min-score", min=0, max=1, metavar="X", help="Least score of an instance.")
    ] = None,
    min_confidence: Annotated[
        float | None, typer.Option("--min-confidence", min=0, max=1, metavar="X", help="Least probability of a point.")
    ] = None,
    min_points: Annotated[
        int | None, typer.Option("--min-points", min=1, metavar="N", help="Least number of points that are sure.")
    ] = None,
    max_instances: Annotated[
        int | None, typer.Option("--max-instances", min=1, metavar="N", help="Take the N best of a scene at most.")
    ] = None,
    negatives: Annotated[
        bool, typer.Option("--negatives", help="Let unsure points count against their instance.")
    ] = False,
    out: options.Out = "-",
    jobs: options.Jobs = 1,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    skip_done: options.SkipDone = None,
    limit: options.Limit = None,
    shard: options.Shard = None,
    config: options.Config = None,
    define: options.Define = None,
    print_config: options.PrintConfig = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.Progress = None,
    fail_fast: options.FailFast = False,
    no_provenance: options.NoProvenance = False,
    unordered: options.Unordered = False,
    root: options.Root = None,
    allow_truncated: options.AllowTruncated = False,
    debug: options.Debug = False,
) -> None:
    """Turn confident predictions into labels to learn from.

    \b
    Examples:
      pc3d pseudo-label pred/ --out labels/ # pred/ is of pc3d segment --out
      pc3d pseudo-label pred/ --min-score 0.7 --out sure.ndjson
    """
    from pc3dcli.commands import settings as common
    from pc3dcli.commands.execute import Execution

    (keep,) = common.configure(ctx, *configs())
    if print_config:
        common.print_config(ctx, [keep])
    decisive = ("min_score", "min_confidence", "min_points", "max_instances", "negatives")
    program = common.program(ctx, [keep], weights={}, exclude=decisive)
    Execution(ctx, program).run(_tasks(ctx, Settings(keep)), label_scene)


def _tasks(ctx: typer.Context, settings: Settings) -> Iterator[SceneTask]:
    from pc3dcli.commands.inputs import expand_names, holds_stream, sharded, stream_scenes
    from pc3dcli.errors import InputError

    params = ctx.params
    names = expand_names(ctx, params["scenes"], EXAMPLES)
    for name in names:
        if not holds_stream(name) and name != "-":
            hint = f"pc3d segment {name} --weights w --out pred/" if Path(name).exists() else None
            raise InputError("expected the --out folder of pc3d segment", file=name, hint=hint)
    streams = stream_scenes(
        names,
        lambda line: line.record if line.type == "instance3d" else None,
        roots=params["root"],
        allow_truncated=params["allow_truncated"],
    )
    for one in sharded(streams, params["shard"]):
        payload = settings, one.kept, one.source
        yield SceneTask(one.scene, payload, tuple(one.passed), one.ok, tuple(one.programs), one.segment)


def label_scene(task: SceneTask, context: Context) -> Iterator[dict]:
    """Yield the records of one scene: the scene, then a label for each instance that is sure enough.

    task.payload  (Settings, `instance3d` records, name of the stream)
    """
    import numpy as np

    from pc3dcli.commands.label_output import instance_record
    from pc3dcli.errors import FormatError
    from pc3dcli.formats.coco_rle import decode_points, encode_points
    from pc3dcli.formats.labels import read_confidences
    from pc3dcli.papers.granularity.pseudo_labels import pseudo_labels

    settings, records, source = task.payload
    records = _as_written(records, source)
    num_points = task.scene.get("num_points")
    if type(num_points) is not int or num_points < 0:
        raise FormatError(f"num_points is {num_points!r}, expected a number of points", file=source)
    yield task.scene
    if not records:
        return
    try:
        indices = [np.flatnonzero(decode_points(record["rle"], num_points)) for record in records]
    except FormatError as error:
        raise FormatError(error.message, file=error.file or source) from None
    scores = np.array([_score(record, source) for record in records])
    confidences = [np.ones(len(index)) for index in indices]
    if settings.keep.min_confidence > 0:
        confidences = read_confidences(_beside(source, task.id), [len(index) for index in indices])
    labels = pseudo_labels(indices, scores, confidences, settings.keep)
    context.note(f"{len(labels)} of {len(records)} instances")
    for number, label in enumerate(labels):
        record = instance_record(task.id, number, label.index, num_points)
        if len(label.ignored):
            ignored = np.zeros(num_points, bool)
            ignored[label.ignored] = True
            record["ignore"] = encode_points(ignored)
        yield record | {"score": float(scores[label.instance]), "source": "pseudo-label"}


def _as_written(records: list[dict], source: str) -> list[dict]:
    """Return instances by their numbers: their confidences are in that order, whatever a filter did to the records."""
    from pc3dcli.errors import FormatError

    numbers = [record["instance"] for record in records]
    wrong = next((number for number in numbers if type(number) is not int), None)
    if wrong is not None:
        raise FormatError(f"an instance has the number {wrong!r}, expected an integer", file=source)
    if len(set(numbers)) < len(numbers):
        raise FormatError("two of its instances have the same number", file=source)
    return sorted(records, key=lambda record: record["instance"])


def _score(record: dict, source: str) -> float:
    from pc3dcli.errors import FormatError

    score = record.get("score")
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
        raise FormatError(f"instance {record['instance']} has score {score!r}, expected 0 to 1", file=source)
    return float(score)


def _beside(source: str, scene: str) -> Path:
    """Return the file of tensors of a scene, beside its stream or in the folder of it; raises InputError for a pipe."""
    from pc3dcli.commands.inputs import STDIN
    from pc3dcli.errors import InputError

    if source == STDIN:
        hint = "pc3d segment --out pred/ writes them beside its records; --min-confidence 0 does without"
        raise InputError("a pipe carries no confidences of points", file=source, hint=hint)
    path = Path(source)
    folder = path.with_name(f"{path.name}.files")  # of --out FILE.ndjson
    return folder / f"{scene}.safetensors" if folder.is_dir() else path.with_name(f"{path.stem}.safetensors")
