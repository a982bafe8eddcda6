# SPDX-License-Identifier: Apache-2.0
"""A `result.json` in the making (evaluation.md 0.2), of the tasks whose result is plain."""

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
class ResultDraft:
    """What a task fills in, part by part, until `result_object` makes the object of `result.json` of it.

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


def result_object(draft: ResultDraft, request: Request) -> dict:
    """Return the object of `result.json`; digests only where they are wanted."""
    entries = None
    if request.has_digest:
        entries = _entries(draft.truth_files), _entries(draft.prediction_files) + draft.prediction_entries
    return base_result(draft.task, request.preset, draft.num_items, entries) | {
        "options": draft.options,
        "metrics": draft.metrics,
        "per_class": draft.per_class,
        "counts": draft.counts,
        **draft.extras,
        "warnings": warning_records(draft.warnings),
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
