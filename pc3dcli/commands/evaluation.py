# SPDX-License-Identifier: Apache-2.0
"""What every task of `pc3d eval` is given and gives back, and the rules that all share (evaluation.md section 0).

A task is a module `commands/eval_<task>.py` with PRESETS, OPTIONS, MANUAL, `metric_names(request)` and `run(request)`;
one whose predictions may hold the truth themselves has NEEDS_GT = False.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pc3dcli import __version__
from pc3dcli.errors import InputError, UsageError
from pc3dcli.formats.result_json import SCHEMA, digest
from pc3dcli.formats.result_names import counted

Entries = list[tuple[str, str]]  # (relative path, SHA-256) of what was read

MAX_NAMED = 10  # missing scenes named in a message
FEW_SCENES = 10  # below it bootstrap intervals are unreliable; ours


@dataclass(frozen=True)
class Request:
    """One evaluation that was asked for.

    predictions  streams ("-", files), folders or files, as named on the command line
    gt           as named there; None only where the task has NEEDS_GT = False
    options      the command's parameters that apply to the task, by their Python names
    has_digest   digests of the inputs and numbers of each scene are wanted (--report)
    progress     progress(scene, number, count) follows the scenes as they are read
    """

    predictions: list[str]
    gt: Path | None
    preset: str
    options: dict[str, Any]
    has_digest: bool = False
    progress: Callable[[str, int, int], None] = lambda scene, number, count: None


@dataclass(frozen=True)
class Table:
    """A table of the text output; the first column is left aligned, the others right."""

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass
class Evaluation:
    """A finished evaluation.

    result      the object of `result.json`
    num_scored  scenes, frames or samples that had predictions
    tables      what the text output shows, the main table first
    footnote    one or two lines under the tables: what the preset scores, what was ignored
    curves      for the page: name -> {"x": [...], "y": [...], "x_name": "recall", "y_name": "precision"}
    matches     lines of --matches
    programs    program records of the input
    """

    result: dict
    num_scored: int
    tables: list[Table]
    footnote: str
    curves: dict[str, dict] = field(default_factory=dict)
    matches: list[dict] = field(default_factory=list)
    programs: list[dict] = field(default_factory=list)

    @property
    def warnings(self) -> list[dict]:
        """The warnings of the result, as `result.json` lists them."""
        return self.result["warnings"]


def shown(value: float | int | None) -> str:
    """Return a number as tables show it, a count whole; "-" where it is undefined."""
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def check_partners(
    truth: Iterable[str], predicted: Iterable[str], gt: Path, *, allow_missing: bool, what: str = "scene"
) -> list[str]:
    """Compare the names of both sides and return the sorted ones without predictions.

    raises  InputError naming up to ten that have no ground truth, or without `allow_missing` no predictions
    """
    truth, predicted = set(truth), set(predicted)
    extra, missing = sorted(predicted - truth), sorted(truth - predicted)
    if extra:
        raise InputError(f"{named(extra, what)} without ground truth", file=gt)
    if missing and not allow_missing:
        hint = f"--allow-missing scores them as {what}s without predictions"
        raise InputError(f"{named(missing, what)} without predictions", file=gt, hint=hint)
    return missing


def named(names: list[str], what: str = "scene") -> str:
    """Return "3 scenes (a, b, c)", naming at most ten."""
    more = f", and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{counted(len(names), what)} ({', '.join(names[:MAX_NAMED])}{more})"


def parse_ranges(text: str) -> dict[str, tuple[float, float]]:
    """Return the (low, high) metres of --ranges, such as "0-20,20-30", by their text; raises UsageError."""
    ranges: dict[str, tuple[float, float]] = {}
    for part in map(str.strip, text.split(",")):
        low, _, high = part.partition("-")
        try:
            limits = float(low), float(high)
        except ValueError:
            limits = math.nan, math.nan
        if not 0 <= limits[0] < limits[1] < math.inf or part in ranges:
            again = " again" if part in ranges else ""
            raise UsageError(f"--ranges {text}: found {part!r}{again}, expected metres such as 0-20,20-30,30-50")
        ranges[part] = limits
    return ranges


def base_result(task: str, preset: str, num_items: int, entries: tuple[Entries, Entries] | None) -> dict:
    """Return what every `result.json` begins with: schema, task, preset, version and inputs.

    num_items  scenes, frames, shapes, ... of the ground truth
    entries    of the ground truth and of the predictions; None where digests are not wanted
    """
    digests = (None, None) if entries is None else map(digest, entries)
    return {
        "schema": SCHEMA,
        "task": task,
        "preset": preset,
        "tool_version": __version__,
        "inputs": {"scenes": num_items} | dict(zip(("gt_digest", "pred_digest"), digests, strict=True)),
    }


def confusion_cells(counts: np.ndarray, names: Sequence[str | None]) -> list[dict]:
    """Return the cells of a confusion that are not 0; None in `names` stands for nothing there, or missed.

    counts  (R, C) int64, rows the true class; rows and columns are called by the first of `names`
    """
    return [{"gt": names[i], "pred": names[j], "count": int(counts[i, j])} for i, j in np.argwhere(counts).tolist()]


def has_intervals(count: int, unit: str, warnings: set[tuple[str, str, str]]) -> bool:
    """Tell whether bootstrap intervals over so many scenes have a meaning; adds to `warnings` when they are few.

    A single one has none: each resample would be that one.
    """
    if count == 1:
        warnings.add(("one-scene", "", f"an interval over one {unit} has no meaning"))
    elif count < FEW_SCENES:
        warnings.add(("few-scenes", "", f"an interval over {counted(count, unit)} is unreliable"))
    return count > 1


def warning_records(warnings: Iterable[tuple[str, str, str]]) -> list[dict]:
    """Return (code, file, detail) as `result.json` lists them, sorted and each once."""
    return [{"code": code, "file": file, "detail": detail} for code, file, detail in sorted(set(warnings))]
