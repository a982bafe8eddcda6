# SPDX-License-Identifier: Apache-2.0
"""Option types that two or more commands share (cli.md section 8), and the help layout of all of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from pc3dcli.commands.plain_values import PlainCommand
from pc3dcli.commands.settings import read_config, read_define
from pc3dcli.errors import UsageError

ADVANCED = "Advanced"


class Command(PlainCommand):
    """A command whose help shows the common options first and the rest under *Advanced*."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Parse the command line; raises UsageError for empty arguments."""
        for text in args:  # "" as a path would be the current folder
            if not text or (text.startswith("--") and text.endswith("=")):
                given = f"{text} has no value" if text else "an argument is empty"
                raise UsageError(given, hint="perhaps a shell variable is not set")
        return super().parse_args(ctx, args)

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:
        """Write the options into the help, common ones first."""
        for param in self.get_params(ctx):
            param.show_envvar = False  # every option has one, PC3D_<COMMAND>_<OPTION>; the man page says so
        for title in ("Options", ADVANCED):
            records = [
                _help_record(param, ctx)
                for param in self.get_params(ctx)
                if (getattr(param, "rich_help_panel", None) == ADVANCED) == (title == ADVANCED)
            ]
            records = [record for record in records if record]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _help_record(param: Any, ctx: typer.Context) -> tuple[str, str] | None:
    record = param.get_help_record(ctx)
    if record and param.param_type_name == "argument":
        return param.metavar, record[1]  # without the name of its Python type
    return record


def written_formats(write: str | None, out: str, known: Iterable[str], example: str) -> tuple[str, ...]:
    """Return the formats that --write names; raises UsageError for others than `known`, and without a place for files.

    example  what --out could be
    """
    names = tuple(name for name in (write or "").split(",") if name)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"--write {unknown[0]}: expected {' or '.join(known)}")
    if names and out == "-":
        raise UsageError("--write needs a place for its files", hint=f"add --out {example}")
    return names


def advanced(*names: str, **settings) -> typer.models.OptionInfo:
    """Declare an option that help shows under *Advanced*."""
    return typer.Option(*names, rich_help_panel=ADVANCED, **settings)


Scenes = Annotated[
    list[str] | None,
    typer.Argument(metavar="SCENE...", help="Scene folders, streams, @list.txt or -.", show_default=False),
]
Streams = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="STREAM...", help="Streams of track2d, its --out folder, @list.txt or -.", show_default=False
    ),
]
Dataset = Annotated[str, advanced("--dataset", metavar="NAME", help="Layout of the scenes; auto detects it.")]
DepthScale = Annotated[
    float | None,
    advanced(
        "--depth-scale",
        min=1e-6,
        max=100,
        metavar="M",
        help="Metres per stored depth unit, instead of what the scan says.",
    ),
]
MaxDepth = Annotated[
    float, advanced("--max-depth", min=0.1, max=400, metavar="M", help="Depth beyond M metres counts as missing.")
]
SkipBadPoses = Annotated[bool, advanced("--skip-bad-poses", help="Skip frames whose pose file is malformed.")]
Out = Annotated[str, typer.Option("--out", "-o", metavar="PATH", help="FILE.ndjson, a folder, or - for stdout.")]
Force = Annotated[bool, advanced("--force", "-f", help="Redo what exists.")]
SkipDone = Annotated[
    Path | None,
    advanced("--skip-done", metavar="DIR", help="Skip scenes finished in DIR, the --out of a later command."),
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Processes; output stays the same.")]
Device = Annotated[str, advanced("--device", metavar="DEV", help="auto, cpu or cuda:0, for networks.")]
Seed = Annotated[int, advanced("--seed", min=0, max=2**32 - 1, metavar="N", help="Seed of everything random.")]
Limit = Annotated[int | None, advanced("--limit", min=1, metavar="N", help="Stop after N scenes.")]
Shard = Annotated[str | None, advanced("--shard", metavar="I/N", help="Do the I-th of N parts of the scenes.")]
Config = Annotated[
    Path | None,
    advanced(
        "--config", metavar="FILE", is_eager=True, callback=read_config, help="TOML file of options and -D names."
    ),
]
Define = Annotated[
    list[str] | None,
    advanced(
        "-D",
        "--define",
        metavar="NAME=VALUE",
        is_eager=True,
        callback=read_define,
        help="Set one of the parameters that the man page lists.",
    ),
]
PrintConfig = Annotated[bool, advanced("--print-config", help="Print the settings as TOML and stop.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="List scenes, outputs and skips; touch nothing.")]
Json = Annotated[bool, advanced("--json", help="Write records, also to a terminal.")]
Quiet = Annotated[bool, advanced("--quiet", "-q", help="Errors only.")]
Verbose = Annotated[bool, advanced("--verbose", "-v", help="Say more on stderr.")]
Progress = Annotated[bool | None, advanced("--progress/--no-progress", help="Draw progress on stderr, or never.")]
FailFast = Annotated[bool, advanced("--fail-fast", help="Stop at the first scene that fails.")]
NoProvenance = Annotated[bool, advanced("--no-provenance", help="Leave program records out.")]
Unordered = Annotated[bool, advanced("--unordered", help="With --jobs: write scenes as they finish.")]
Root = Annotated[
    list[str] | None, advanced("--root", metavar="OLD=NEW", help="Read files below NEW where a stream says OLD.")
]
AllowTruncated = Annotated[bool, advanced("--allow-truncated", help='Accept a stream without its "end".')]
Debug = Annotated[bool, advanced("--debug", help="Show tracebacks.")]
