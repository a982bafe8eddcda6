# SPDX-License-Identifier: Apache-2.0
"""`pc3d eval --compare`: results of the same evaluation side by side, and how sure their differences are.

Numbers of different rules are never put beside each other: task, preset, options and ground truth must be the same.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from pc3dcli.commands import eval_compare_output as output
from pc3dcli.commands import eval_output
from pc3dcli.commands.evaluation import has_intervals, named, warning_records
from pc3dcli.errors import InputError, UsageError
from pc3dcli.formats.result_json import read_result
from pc3dcli.formats.result_names import counted, unit_of
from pc3dcli.metrics.bootstrap import PairedDifference, paired_differences

OPTIONS = frozenset(
    ("predictions", "compare", "fail_under", "json", "csv", "strict", "bootstrap", "seed", "config", "print_config",
     "quiet", "verbose", "progress", "no_provenance", "debug")
)  # fmt: skip
NUM_RESAMPLES = 1000  # unless --bootstrap says otherwise; ours
NOT_REACHED = 5  # exit code of --fail-under
_NOT_DECISIVE = ("allow_missing", "bootstrap")  # what is missing is warned of; resamples add intervals only
_LOWER_IS_BETTER = frozenset(
    ("mate", "mase", "maoe", "mave", "maae", "id_switches", "fragmentations", "std_population", "std_sample")
)


@dataclass(frozen=True)
class Run:
    """One result: its column (A, B, ...), the name it was given by, and the object of `result.json`."""

    letter: str
    name: str
    result: dict


@dataclass(frozen=True)
class Comparison:
    """Runs of one evaluation.

    scene_differences  for each run but the first: metric -> its difference to the first, scene by scene
    num_resamples      of the intervals, 0 for none
    """

    runs: list[Run]
    scene_differences: list[dict[str, PairedDifference]]
    num_resamples: int
    seed: int


def run(ctx: typer.Context, names: list[str]) -> None:
    """Compare result files or report folders and print what differs.

    raises  UsageError for options that mean nothing here; InputError and FormatError for files that cannot be compared
    """
    params = ctx.params
    _check_options(ctx)
    if not 2 <= len(names) <= len(string.ascii_uppercase):
        raise UsageError(f"--compare takes 2 to {len(string.ascii_uppercase)} result files, found {len(names)}")
    if "-" in names:
        raise UsageError("--compare reads result.json files or report folders, not standard input")
    runs = [Run(string.ascii_uppercase[k], name, read_result(Path(name))) for k, name in enumerate(names)]
    limits = _limits(params["fail_under"] or [], output.names_of(runs))
    is_given = ctx.get_parameter_source("bootstrap").name != "DEFAULT"
    warnings = check_comparable(runs)
    comparison = compare(runs, params["bootstrap"] if is_given else NUM_RESAMPLES, params["seed"], warnings)
    _print(ctx, comparison)
    eval_output.say_warnings(warning_records(warnings), params)
    _check_limits(comparison, limits)


def _check_options(ctx: typer.Context) -> None:
    for param in ctx.command.params:
        is_given = ctx.get_parameter_source(param.name).name in ("COMMANDLINE", "ENVIRONMENT")
        if is_given and param.name not in OPTIONS:
            raise UsageError(f"{param.opts[0]} does not apply to --compare, which reads finished results")


def check_comparable(runs: list[Run]) -> set[tuple[str, str, str]]:
    """Return what to warn of; raises InputError naming the first thing in which a run is not as the first."""
    first, warnings = runs[0], set()
    for run in runs:
        warnings |= _warnings(run)
    for run in runs[1:]:
        for what, here, there in _rules(run.result, first.result):
            if here != there:
                problem = f"{what} is {_text(here)}, but {_text(there)} in {first.name}"
                raise InputError(f"cannot be compared: {problem}", file=run.name)
        if run.result["tool_version"] != first.result["tool_version"]:
            versions = f"made by version {run.result['tool_version']}, {first.name} by {first.result['tool_version']}"
            warnings.add(("other-version", run.name, versions))
        digests = [one.result["inputs"].get("pred_digest") for one in (run, first)]
        if digests[0] is not None and digests[0] == digests[1]:
            warnings.add(("same-predictions", run.name, f"scores the same predictions as {first.name}"))
    return warnings


def _rules(result: dict, first: dict) -> list[tuple[str, Any, Any]]:
    """Return (what, value here, value there) of all that must be equal, what says most first."""
    rules = [(what, result[what], first[what]) for what in ("task", "preset")]
    options = [one["options"] for one in (result, first)]
    for name in sorted(options[0].keys() | options[1].keys()):
        # where there are resamples the seed is theirs
        is_decisive = name not in _NOT_DECISIVE and not (name == "seed" and "bootstrap" in options[0])
        if is_decisive:
            rules.append((f"option {name}", options[0].get(name), options[1].get(name)))
    digests = [one["inputs"].get("gt_digest") for one in (result, first)]
    if None not in digests:
        rules.append(("the digest of the ground truth", *digests))
    rules.append((f"the number of {unit_of(first['task'])}s", result["inputs"]["scenes"], first["inputs"]["scenes"]))
    return rules


def _text(value: object) -> str:
    return value if isinstance(value, str) else "not set" if value is None else str(value)


def _warnings(run: Run) -> set[tuple[str, str, str]]:
    found = set()
    if run.result["inputs"].get("gt_digest") is None:
        found.add(("no-digest", run.name, "does not say which ground truth it is of"))
    if not run.result.get("per_scene"):
        found.add(
            ("no-scenes", run.name, f"has no numbers of {unit_of(run.result['task'])}s, so there are no intervals")
        )
    codes = [one.get("code") for one in run.result["warnings"] if isinstance(one, dict)]
    count = sum(str(code).startswith(("missing-", "failed-")) for code in codes)
    if count:
        detail = f"was scored with predictions missing ({counted(count, 'warning')})"
        found.add(("missing-predictions", run.name, detail))
    return found


def compare(runs: list[Run], num_resamples: int, seed: int, warnings: set[tuple[str, str, str]]) -> Comparison:
    """Return the comparison; adds to `warnings`.

    raises  InputError when the runs have numbers of different scenes
    """
    first, differences = runs[0], []
    unit = unit_of(first.result["task"])
    for run in runs[1:]:
        scenes = [one.result.get("per_scene") or {} for one in (first, run)]
        if not all(scenes):
            differences.append({})
            continue
        odd = sorted(scenes[0].keys() ^ scenes[1].keys())
        if odd:
            raise InputError(f"cannot be compared: {named(odd, unit)} only in it or in {first.name}", file=run.name)
        if num_resamples:
            has_intervals(len(scenes[0]), unit, warnings)
        differences.append(_scene_differences(*scenes, num_resamples, seed))
    return Comparison(runs, differences, num_resamples, seed)


def _scene_differences(first: dict, second: dict, num_resamples: int, seed: int) -> dict[str, PairedDifference]:
    scenes = sorted(first)  # the same resamples whatever the order in the file
    names = list(dict.fromkeys(name for row in (*first.values(), *second.values()) for name in row))
    tables = ([[rows[scene].get(name) for name in names] for scene in scenes] for rows in (first, second))
    arrays = (np.array(table, np.float64) for table in tables)  # None becomes NaN
    found = paired_differences(*arrays, num_resamples, np.random.default_rng(seed))
    return dict(zip(names, found, strict=True))


def _print(ctx: typer.Context, comparison: Comparison) -> None:
    if ctx.params["json"]:
        scenes = comparison.runs[0].result["inputs"]["scenes"]
        eval_output.print_records([*_chain(ctx), *output.records(comparison)], scenes)
    elif ctx.params["csv"]:
        print(output.csv_text(comparison), end="")
    else:
        output.print_comparison(comparison)


def _chain(ctx: typer.Context) -> list[dict]:
    """Return the header and, unless it is not wanted, the program record."""
    from pc3dcli.commands import settings
    from pc3dcli.stream.records import header

    if ctx.params["no_provenance"]:
        return [header()]
    program = settings.program(ctx, [], weights={}, exclude=("predictions", "csv", "strict", "fail_under"))
    return [header(), program.record([])]


def _limits(texts: list[str], known: list[str]) -> dict[str, float]:
    """Parse METRIC=VALUE, the least difference to the first run that is accepted, as AP50=-0.01."""
    limits = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name.lower() not in known or name.lower() in _LOWER_IS_BETTER:
            hint = f"metrics: {', '.join(one for one in known if one not in _LOWER_IS_BETTER)}"
            raise UsageError(f"--fail-under {text}: no metric {name!r} of which more is better", hint=hint)
        try:
            limits[name.lower()] = float(value)
        except ValueError:
            raise UsageError(f"--fail-under {text}: expected METRIC=VALUE") from None
        if not -1 <= limits[name.lower()] <= 1:
            raise UsageError(f"--fail-under {text}: differences are in [-1, 1], never percent")
    return limits


def _check_limits(comparison: Comparison, limits: dict[str, float]) -> None:
    missed = []
    for run in comparison.runs[1:]:
        for name, limit in limits.items():
            difference = output.difference(run.result["metrics"], comparison.runs[0].result["metrics"], name)
            if difference is None or difference < limit:
                missed.append(f"{name} of {run.letter} differs by {output.signed(difference)}, less than {limit}")
    output.say_missed(missed)
    if missed:
        raise typer.Exit(NOT_REACHED)
