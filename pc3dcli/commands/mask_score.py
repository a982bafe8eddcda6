# SPDX-License-Identifier: Apache-2.0
"""`pc3d mask-score`: shapes and a pretrained network -> `patch_score` records, how hard each patch is to fill in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pc3dcli.commands import options
from pc3dcli.commands.options import advanced
from pc3dcli.stream.pipeline import Context, SceneTask

if TYPE_CHECKING:
    import numpy as np

    from pc3dcli.commands.patch_score_file import ScoredPatches
    from pc3dcli.commands.patch_scorer import ShapeScorer
    from pc3dcli.datasets.shape import ShapeSet

FORMATS = ("ply", "npz")


@dataclass
class Agreement:
    """How well scores and measured difficulty agreed, over the shapes that were done."""

    spearman: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)

    def add(self, patches: ScoredPatches) -> None:
        """Count a shape; one whose scores or difficulties are all equal has no correlation."""
        for values, value in ((self.spearman, patches.spearman), (self.ratio, patches.difficulty_ratio)):
            if value is not None:
                values.append(value)


@dataclass(frozen=True)
class Settings:
    """What is done with a shape; the scorer knows how."""

    scorer: ShapeScorer
    view: str
    heat: bool
    formats: tuple[str, ...]
    agreement: Agreement


def configs() -> list[Any]:
    """Return the configs whose fields -D reaches: none."""
    return []


def mask_score(
    ctx: typer.Context,
    scenes: Annotated[
        list[str] | None,
        typer.Argument(metavar="SHAPES...", help="Folders or files of object clouds.", show_default=False),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="WEIGHTS", help="Of pc3d pretrain --method geomask3d.")
    ] = None,
    view: Annotated[
        Literal["kfold", "full"],
        typer.Option("--view", metavar="HOW", help="kfold: score what is hidden; full: what is seen."),
    ] = "kfold",
    oracle: Annotated[
        int, typer.Option("--oracle", min=0, max=10_000, metavar="R", help="Measure difficulty too, in R rounds.")
    ] = 0,
    heat: Annotated[bool, advanced("--heat", help="Also give the score of every point.")] = False,
    out: options.Out = "-",
    write: Annotated[
        str | None, typer.Option("--write", metavar="FMT,...", help="Also write ply and/or npz files.")
    ] = None,
    dry_run: options.DryRun = False,
    split: Annotated[str, advanced("--split", metavar="NAME", help="Split of the data set.")] = "train",
    dataset: Annotated[
        str, advanced("--dataset", metavar="NAME", help="Layout of the shapes; auto detects it.")
    ] = "auto",
    force: options.Force = False,
    skip_done: options.SkipDone = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    limit: options.Limit = None,
    shard: options.Shard = None,
    config: options.Config = None,
    print_config: options.PrintConfig = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.Progress = None,
    fail_fast: options.FailFast = False,
    no_provenance: options.NoProvenance = False,
    debug: options.Debug = False,
) -> None:
    """Score how hard each patch of a shape is to fill in.

    \b
    Examples:
      pc3d mask-score shapes/ --weights runs/mae --out scores.ndjson
      pc3d mask-score chair.ply --weights runs/gm3d --out heat/ --write ply
    """
    from pc3dcli.commands import settings as common
    from pc3dcli.commands.execute import Execution
    from pc3dcli.commands.patch_scorer import ShapeScorer, open_scorer
    from pc3dcli.commands.shape_network import usable_device
    from pc3dcli.commands.weights import weights_digest
    from pc3dcli.errors import UsageError

    if print_config:
        common.print_config(ctx, [])
    if not scenes:
        raise UsageError("mask-score needs shapes", hint="pc3d mask-score shapes/ --weights runs/gm3d")
    if weights is None:
        raise UsageError("mask-score needs the weights that score", hint="add --weights runs/gm3d")
    formats, agreement = options.written_formats(write, out, FORMATS, "heat/"), Agreement()
    sets = _open(scenes, dataset, split)
    scorer = None if dry_run else open_scorer(weights).to(usable_device(device))
    program = common.program(ctx, [], weights={"weights": weights_digest(weights)}, exclude=("weights", "dataset"))

    def settings(shapes: ShapeSet, indices: list[int]) -> Settings:
        return Settings(ShapeScorer(scorer, shapes, indices, view, oracle, seed), view, heat, formats, agreement)

    try:
        tasks = _tasks(ctx, sets, None if dry_run else settings)
        Execution(ctx, program).run(tasks, score_shape, needed_files=tuple(f".{name}" for name in formats))
    finally:
        if agreement.spearman and not quiet:
            print(_agreement_text(agreement), file=sys.stderr)


def _open(names: list[str], dataset: str, split: str) -> list[ShapeSet]:
    """Open the inputs; raises UsageError for a shape that two of them have."""
    from pc3dcli.commands.inputs import expand_names
    from pc3dcli.datasets.shape_set import open_shapes
    from pc3dcli.errors import UsageError

    found = []
    places: dict[str, Path] = {}
    for name in expand_names(None, names, ""):
        path = Path(name)
        shapes = open_shapes(path, dataset=dataset, split="all" if path.is_file() else split)
        for shape in shapes.names:
            if places.setdefault(shape, path) is not path:
                raise UsageError(f"shape {shape} is in {places[shape]} and in {path}", hint="run once for each")
        found.append(shapes)
    return found


def _tasks(
    ctx: typer.Context, sets: list[ShapeSet], settings: Callable[[ShapeSet, list[int]], Settings] | None
) -> Iterator[SceneTask]:
    """Yield a task for each shape; those of a set share what computes them in batches."""
    from pc3dcli.commands.inputs import sharded

    pairs = [(number, index) for number, shapes in enumerate(sets) for index in range(len(shapes))]
    pairs = list(islice(sharded(pairs, ctx.params["shard"]), ctx.params["limit"]))
    for number, shapes in enumerate(sets):
        indices = [index for one, index in pairs if one == number]
        shared = settings(shapes, indices) if settings and indices else None
        root = str(shapes.root.resolve())
        for index in indices:
            scene = {"type": "scene", "scene": shapes.names[index], "root": root}
            scene |= {"dataset": shapes.layout, "split": shapes.split}
            yield SceneTask(scene, (shared, index))


def score_shape(task: SceneTask, context: Context) -> Iterator[dict]:
    """Yield the records of one shape: the scene, its patches.

    task.payload  (Settings, index of the shape)
    """
    from pc3dcli.commands.patch_score_file import fits_inline, inline_tensor
    from pc3dcli.errors import UsageError
    from pc3dcli.formats.cloud import xyz_sha256
    from pc3dcli.geometry.heat import interpolate_heat

    settings, index = task.payload
    patches = settings.scorer.scored(index)
    settings.agreement.add(patches)
    shapes = settings.scorer.shapes
    xyz = shapes.read(index).xyz
    yield task.scene | {"num_points": len(xyz), "xyz_sha256": xyz_sha256(xyz), "up": shapes.up}
    record = patches.record(task.id, settings.view)
    if settings.heat or settings.formats:
        heat = interpolate_heat(xyz, patches.center, patches.score)
        _write_files(settings, patches, xyz, heat, context)
    if settings.heat:
        if fits_inline(len(heat)):
            record["heat"] = inline_tensor(heat) | {"name": "heat"}
        elif context.side is None:
            raise UsageError(
                f"--heat of {len(heat)} points needs a place for its files", hint="add --out scores.ndjson"
            )
        else:
            record["heat"] = _side_tensor(heat, context)
    yield record


def _side_tensor(heat: np.ndarray, context: Context) -> dict:
    """Write heat (N,) float32 beside the stream and return the reference to it."""
    from safetensors.numpy import save

    from pc3dcli.stream.writer import atomic_file

    with atomic_file(context.side.path(".safetensors")) as file:
        file.write(save({"heat": heat}))
    return {"file": context.side.relative(".safetensors"), "name": "heat", "dtype": "F32", "shape": [len(heat)]}


def _write_files(
    settings: Settings, patches: ScoredPatches, xyz: np.ndarray, heat: np.ndarray, context: Context
) -> None:
    """Write the formats that --write names."""
    import numpy as np

    from pc3dcli.formats.cloud import Cloud
    from pc3dcli.formats.ply import write_ply
    from pc3dcli.geometry.colors import score_colors
    from pc3dcli.geometry.heat import shown_heat
    from pc3dcli.stream.provenance import chain_text
    from pc3dcli.stream.writer import atomic_file

    chain = chain_text(list(context.programs))
    if "ply" in settings.formats:
        cloud = Cloud(xyz, score_colors(shown_heat(heat)), extra={"heat": heat})
        with atomic_file(context.side.path(".ply")) as file:
            write_ply(file, cloud, (f"pc3d {chain}",) if context.programs else ())
    if "npz" in settings.formats:
        arrays = {"xyz": xyz, "heat": heat, "center": patches.center, "score": patches.score, "rank": patches.rank}
        arrays |= {} if patches.difficulty is None else {"difficulty": patches.difficulty}
        arrays |= {"pc3d": np.array(chain)} if context.programs else {}
        with atomic_file(context.side.path(".npz")) as file:
            np.savez(file, **arrays)


def _agreement_text(agreement: Agreement) -> str:
    mean = sum(agreement.spearman) / len(agreement.spearman)
    found = f"Spearman of score and measured difficulty {mean:.3f}"
    if agreement.ratio:  # Point-M2AE may never decode the hardest
        found += f", difficulty of the hardest over the mean {sum(agreement.ratio) / len(agreement.ratio):.3f}"
    return f"pc3d mask-score: {found} ({len(agreement.spearman)} shapes)"
