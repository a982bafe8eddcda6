# SPDX-License-Identifier: Apache-2.0
"""`pc3d segment`: scenes -> instances with scores; with --parts object clouds -> the part of each point."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pc3dcli.commands import options
from pc3dcli.commands.options import advanced

EXAMPLES = (
    "  pc3d segment scan.ply --out pred/ --write ply\n"
    "  pc3d segment scans/ --weights runs/seg --out pred/\n"
    "  pc3d segment cap.ply --parts --weights w --category cap | jq .tensor"
)


def configs(is_ours: bool = False) -> list[Any]:
    """Return the configs whose fields -D reaches, as the network that comes with pc3d needs them, or the published."""
    from pc3dcli.commands.instance_segmenter import ChunkConfig
    from pc3dcli.papers.granularity.mask_instances import MaskInstancesConfig

    return [MaskInstancesConfig(max_overlap=0.5) if is_ours else MaskInstancesConfig(), ChunkConfig()]


def segment(
    ctx: typer.Context,
    scenes: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCENE...", help="Clouds, scene folders, streams, @list.txt or -."),
    ] = None,
    parts: Annotated[bool, typer.Option("--parts", help="Find the parts of single objects instead.")] = False,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="WEIGHTS", help="Of distill, or a released checkpoint; none: ours."),
    ] = None,
    category: Annotated[
        str | None, typer.Option("--category", metavar="NAME", help="What the objects are, instead of their class.")
    ] = None,
    out: options.Out = "-",
    write: Annotated[
        str | None, typer.Option("--write", metavar="FMT,...", help="Also write ply, scannet; of parts ply, npz.")
    ] = None,
    min_score: Annotated[
        float, typer.Option("--min-score", min=0, max=1, metavar="X", help="Leave out instances of a lower score.")
    ] = 0.0,
    snap: Annotated[
        bool, advanced("--snap/--no-snap", help="Snap instances to superpoints of the mesh or cloud.")
    ] = False,
    jobs: options.Jobs = 1,
    dry_run: options.DryRun = False,
    split: Annotated[str, advanced("--split", metavar="NAME", help="Split of a data set of shapes.")] = "all",
    dataset: Annotated[
        str, advanced("--dataset", metavar="NAME", help="Layout of the input; auto detects it.")
    ] = "auto",
    force: options.Force = False,
    skip_done: options.SkipDone = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
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
    """Find the instances of scenes, or the parts of objects.

    \b
    Examples:
      pc3d segment scan.ply --out pred/ --write ply
      pc3d segment scans/ --weights runs/seg --out pred/
      pc3d segment cap.ply --parts --weights w --category cap | jq .tensor
    """
    if parts:
        from pc3dcli.commands.segment_parts import run
    else:
        from pc3dcli.commands.segment_instances import run
    run(ctx, EXAMPLES)
