# SPDX-License-Identifier: Apache-2.0
"""The object of `result.json` from the numbers of a task (evaluation.md 0.2), for the tasks whose result is plain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pc3dcli.commands.evaluation import Entries, Request, base_result, has_intervals, warning_records
from pc3dcli.formats.result_json import file_sha256
from pc3dcli.formats.result_names import unit_of
from pc3dcli.metrics.bootstrap import percentile_interval
from pc3dcli.metrics.miou import resampled

Summary = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass
class Numbers:
    """What a task has found out.

    num_items  scenes, scans, shapes or folds
    options    every option that changes a number
    truth_files, prediction_files  name -> path of what was read, for the digests
    prediction_entries  (name, SHA-256) of what came out of streams
    extras     further keys of the result
    """

    task: str
    num_items: int
    metrics: dict[str, float | None] = field(default_factory=dict)
    per_class: dict[str, dict] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    truth_files: dict[str, Path] = field(default_factory=dict)
    prediction_files: dict[str, Path] = field(default_factory=dict)
    prediction_entries: list[tuple[str, str]] = field(default_factory=list)
    warnings: set[tuple[str, str, str]] = field(default_factory=set)
    extras: dict = field(default_factory=dict)


def result_object(numbers: Numbers, request: Request) -> dict:
    """Return the object of `result.json`; digests only where they are wanted."""
    entries = None
    if request.has_digest:
        entries = (
            _entries(numbers.truth_files),
            _entries(numbers.prediction_files) + numbers.prediction_entries,
        )
    return base_result(numbers.task, request.preset, numbers.num_items, entries) | {
        "options": numbers.options,
        "metrics": numbers.metrics,
        "per_class": numbers.per_class,
        "counts": numbers.counts,
        **numbers.extras,
        "warnings": warning_records(numbers.warnings),
    }


def number(value: float) -> float | None:
    """Return a number for JSON; None for NaN, which stands for what is undefined."""
    return None if np.isnan(value) else float(value)


def intervals(
    values: np.ndarray, summary: Summary, options: dict, task: str, warnings: set[tuple[str, str, str]]
) -> dict[str, list[float | None]]:
    """Return the 2.5 and 97.5 percentiles of metrics over resamples of the items with replacement.

    values    (S, ...) what each item adds to the counts
    summary   counts (..., as of one item) -> {metric: (...)}
    options   `bootstrap`, the number of resamples, and `seed`
    warnings  told when the items are few; a single one has null for intervals
    """
    if not has_intervals(len(values), unit_of(task), warnings):
        return {name: [None, None] for name in summary(values)}
    drawn = resampled(values, options["bootstrap"], np.random.default_rng(options["seed"]))
    return {name: percentile_interval(value) for name, value in summary(drawn).items()}


def _entries(files: dict[str, Path]) -> Entries:
    return [(name, file_sha256(path)) for name, path in files.items()]
