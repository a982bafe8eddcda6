# SPDX-License-Identifier: Apache-2.0
"""What `pc3d eval --compare` prints: tables, `metric` records and CSV."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pc3dcli.commands.eval_output import print_table_list
from pc3dcli.commands.evaluation import Table, shown
from pc3dcli.formats.result_names import columns_of, counted, shown_name, unit_of

if TYPE_CHECKING:
    from pc3dcli.commands.eval_compare import Comparison, Run
    from pc3dcli.metrics.bootstrap import PairedDifference

_MAIN_COLUMNS = ("ap", "iou")  # of classes, where a task has them; files have their columns in the order of the letters


def names_of(runs: Sequence[Run]) -> list[str]:
    """Return the metrics of the runs, in the order of the first."""
    return list(dict.fromkeys(name for run in runs for name in run.result["metrics"]))


def difference(row: dict, first: dict, name: str) -> float | None:
    """Return what a number is more than in the first run; None where one of both is undefined."""
    values = row.get(name), first.get(name)
    return None if None in values else values[0] - values[1]


def signed(value: float | int | None) -> str:
    """Return a difference as tables show it, with its sign."""
    return "-" if value is None else f"{value:+d}" if isinstance(value, int) else f"{value:+.4f}"


def say_missed(lines: list[str]) -> None:
    """Print which limits of --fail-under were not reached."""
    for line in lines:
        print(f"pc3d eval: {line}", file=sys.stderr)


def print_comparison(comparison: Comparison) -> None:
    """Print the runs side by side, then the differences scene by scene (frame by frame, ...)."""
    runs, result = comparison.runs, comparison.runs[0].result
    scenes = result["inputs"]["scenes"]
    print(
        f"{result['task']}, preset {result['preset']}, {len(runs)} runs over {counted(scenes, unit_of(result['task']))}"
    )
    print("\n".join(f"{run.letter}  {run.name}" for run in runs))
    print_table_list(list(_tables(comparison)))
    print(_footnote(comparison))
    print(f"preset={result['preset']} scenes={scenes} runs={len(runs)}")


def _tables(comparison: Comparison) -> Iterator[Table]:
    runs = comparison.runs
    unit = unit_of(runs[0].result["task"])
    yield _side_by_side(f"over all {unit}s", "metric", runs, [run.result["metrics"] for run in runs], names_of(runs))
    columns = columns_of(runs[0].result["per_class"].values())
    column = next((name for name in (*_MAIN_COLUMNS, *columns) if name in columns), None)
    if column not in (None, "gt"):
        columns = [{name: row.get(column) for name, row in run.result["per_class"].items()} for run in runs]
        names = [name for name in _classes(runs) if any(row.get(name) is not None for row in columns)]
        yield _side_by_side(f"{shown_name(column)} of each class", "class", runs, columns, names)
    for run, differences in zip(runs[1:], comparison.scene_differences, strict=True):
        rows = [
            [shown_name(name), signed(one.mean), signed(one.low), signed(one.high), str(one.num_scenes)]
            for name, one in differences.items()
        ]
        if rows:
            title = f"{run.letter}-{runs[0].letter} {unit} by {unit}"
            yield Table(title, ["metric", "mean", "95 % low", "high", f"{unit}s"], rows)


def _classes(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.result["per_class"]))


def _side_by_side(title: str, first: str, runs: Sequence[Run], columns: list[dict], names: list[str]) -> Table:
    """Return a table with a column for each run and for each run's difference to the first."""
    header = [first, *(run.letter for run in runs), *(f"{run.letter}-{runs[0].letter}" for run in runs[1:])]
    rows = [
        [
            shown_name(name) if first == "metric" else name,
            *(shown(column.get(name)) for column in columns),
            *(signed(difference(column, columns[0], name)) for column in columns[1:]),
        ]
        for name in names
    ]
    return Table(title, header, rows)


def _footnote(comparison: Comparison) -> str:
    unit = unit_of(comparison.runs[0].result["task"])
    if not any(comparison.scene_differences):
        return f"no numbers of {unit}s: results of `pc3d eval --report` have them"
    if not comparison.num_resamples:
        return f"{unit} by {unit}: the mean over {unit}s of how much their own numbers differ"
    return (
        f"{unit} by {unit}: the mean over {unit}s of how much their own numbers differ, not the difference over all;\n"
        f"interval of {comparison.num_resamples} paired bootstrap resamples of the {unit}s, "
        f"seed {comparison.seed}"
    )


def records(comparison: Comparison) -> Iterator[dict]:
    """Yield `metric` records: the numbers of each run, then differences to the first, then those scene by scene."""
    runs, first = comparison.runs, comparison.runs[0]
    for run in runs:
        for name, value in run.result["metrics"].items():
            yield _metric(name, value, run=run.letter, file=run.name)
        for label, row in run.result["per_class"].items():
            yield from (_metric(name, row[name], run=run.letter, **{"class": label}) for name in row if name != "gt")
    for run, differences in zip(runs[1:], comparison.scene_differences, strict=True):
        pair = {"run": run.letter, "minus": first.letter}
        for name in names_of([first, run]):
            yield _metric(name, difference(run.result["metrics"], first.result["metrics"], name), **pair)
        for label in _classes([first, run]):
            rows = [one.result["per_class"].get(label, {}) for one in (run, first)]
            for name in columns_of(rows):
                if name != "gt":
                    yield _metric(name, difference(*rows, name), **pair, **{"class": label})
        for name, one in differences.items():
            yield _metric(name, one.mean, **pair, over="scenes", count=one.num_scenes)
            if comparison.num_resamples:
                yield _metric(name, one.low, **pair, over="scenes", percentile=2.5)
                yield _metric(name, one.high, **pair, over="scenes", percentile=97.5)


def _metric(name: str, value: float | None, **fields: object) -> dict:
    return {"type": "metric", "name": name, "value": value} | fields


def csv_text(comparison: Comparison) -> str:
    """Return a line a metric and a line a metric of each class; empty where a value is undefined."""
    runs, text = comparison.runs, io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    pairs = [f"{run.letter}-{runs[0].letter}" for run in runs[1:]]
    extra = [f"{pair} {what}" for pair in pairs for what in ("scene mean", "scene low", "scene high", "scenes")]
    writer.writerow(["class", "metric", *(run.letter for run in runs), *pairs, *extra])
    for name in names_of(runs):
        spread = [one for found in comparison.scene_differences for one in _spread(found.get(name))]
        writer.writerow(["", name, *_values([run.result["metrics"] for run in runs], name), *spread])
    for label in _classes(runs):
        rows = [run.result["per_class"].get(label, {}) for run in runs]
        for name in columns_of(rows):
            if name != "gt":
                writer.writerow([label, name, *_values(rows, name), *([""] * len(extra))])
    return text.getvalue()


def _values(rows: list[dict], name: str) -> list[str]:
    numbers = [row.get(name) for row in rows] + [difference(row, rows[0], name) for row in rows[1:]]
    return ["" if value is None else repr(value) for value in numbers]


def _spread(found: PairedDifference | None) -> list[str]:
    if found is None:
        return [""] * 4
    return ["" if value is None else repr(value) for value in (found.mean, found.low, found.high, found.num_scenes)]
