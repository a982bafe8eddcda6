# SPDX-License-Identifier: Apache-2.0
"""What `pc3d eval` prints and writes: the table, `metric` records, CSV and the report folder.

On a terminal rich draws the tables; anywhere else they are plain aligned text, which rich would wrap at 80 columns.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from pc3dcli.commands.evaluation import Evaluation, Table, shown
from pc3dcli.errors import InputError, UsageError
from pc3dcli.formats.result_json import result_text
from pc3dcli.formats.result_names import class_groups, columns_of, counted, mean_names, shown_name, unit_of
from pc3dcli.stream.writer import atomic_file, remove_stale_temporaries

_REPORT_FILES = ("report.html", "result.json", "result.csv")  # the page takes its name last
_IOU = {"50": 0.5, "25": 0.25}


def print_tables(evaluation: Evaluation, params: dict) -> None:
    """Print the result as tables; the first line says the preset and how much was scored.

    params  those of the command: per_scene, size_bins and confusion show what they add
    """
    result = evaluation.result
    tables = [*evaluation.tables, *_extra_tables(result, params)]
    print(_first_line(result, evaluation.num_scored))
    print_table_list(tables)
    print(evaluation.footnote)
    print(last_line(result))


def print_table_list(tables: list[Table]) -> None:
    """Print tables, drawn on a terminal and as plain aligned text elsewhere."""
    if sys.stdout.isatty():
        _print_rich(tables)
    else:
        print("\n".join(line for table in tables for line in _plain_lines(table)))


def _first_line(result: dict, num_scored: int) -> str:
    number = result["inputs"]["scenes"]
    partial = "" if num_scored == number else f"{num_scored} of "
    return f"{result['task']}, preset {result['preset']}, {partial}{counted(number, unit_of(result['task']))}"


def last_line(result: dict) -> str:
    """Return the line that ends every text output (evaluation.md section 10)."""
    counts = result["counts"]
    return (
        f"preset={result['preset']} scenes={result['inputs']['scenes']} classes={counts['classes']} "
        f"undefined={counts['undefined_classes']} ignored_predictions={counts['ignored_pred']}"
    )


def _extra_tables(result: dict, params: dict) -> Iterator[Table]:
    unit = unit_of(result["task"])
    if "intervals" in result:
        rows = [[shown_name(name), *map(shown, bounds)] for name, bounds in result["intervals"].items()]
        yield Table(f"95 % interval over {unit}s", ["metric", "low", "high"], rows)
    if params["per_scene"] and result["per_scene"]:
        yield _wide_table(f"per {unit}", unit, result["per_scene"])
    if params["size_bins"]:
        yield _wide_table("recall by size in vertices", "size", result["size_bins"])
    for title, rows in result.get("breakdowns", {}).items():
        yield _wide_table(title, "", rows)
    if params["confusion"]:
        cells = result["confusion"]
        rows = [[cell["gt"] or "(nothing)", cell["pred"] or "(missed)", str(cell["count"])] for cell in cells]
        yield Table("confusion", ["true", "predicted", "count"], rows)


def _wide_table(title: str, first: str, rows: dict[str, dict]) -> Table:
    """Return a table with a row for each name and a column for each of its metrics, counts last."""
    columns = columns_of(rows.values())
    cells = [[name, *(shown(row.get(column)) for column in columns)] for name, row in rows.items()]
    return Table(title, [first, *map(shown_name, columns)], cells)


def _plain_lines(table: Table) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
    if table.title:
        yield f"\n{table.title}"
    for row in (table.header, *table.rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def _print_rich(tables: list[Table]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for table in tables:
        drawn = Table(title=table.title or None, title_justify="left")
        for index, name in enumerate(table.header):
            drawn.add_column(name, justify="right" if index else "left")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)


def metric_records(result: dict) -> Iterator[dict]:
    """Yield the `metric` records of a result, means first."""
    yield from (_metric(name, value) for name, value in result["metrics"].items())
    for scene, row in result.get("per_scene", {}).items():
        yield from (_metric(name, value, scene=scene) for name, value in row.items())
    for label, row in result["per_class"].items():
        count = {"count": row["gt"]} if "gt" in row else {}
        yield from (_metric(name, row[name], **({"class": label} | count)) for name in row if name != "gt")
    for name, (low, high) in result.get("intervals", {}).items():
        yield _metric(name, low, percentile=2.5)
        yield _metric(name, high, percentile=97.5)
    for title, rows in result.get("breakdowns", {}).items():
        yield from (_metric(name, row[name], by=title, bin=part) for part, row in rows.items() for name in row)
    for size, row in result.get("size_bins", {}).items():
        yield from (_metric(name, row[name], size=size, count=row["gt"]) for name in row if name != "gt")
    overlap = {"iou": 0.5} if result["task"] == "instance" else {}
    for cell in result.get("confusion", ()):
        yield _metric("confusion", cell["count"], **({"class": cell["gt"], "predicted": cell["pred"]} | overlap))


def _metric(name: str, value: float | None, **fields: object) -> dict:
    iou = _IOU.get(name[-2:])
    return {"type": "metric", "name": name, "value": value} | ({"iou": iou} if iou else {}) | fields


def print_records(records: list[dict], scenes: int) -> None:
    """Print records as one segment of a stream; numbers in full, since six digits would not tell two runs apart."""
    for record in [*records, {"type": "end", "scenes": scenes, "failed": 0}]:
        print(_json(record))


def _json(record: dict) -> str:
    return json.dumps(record, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def csv_text(result: dict) -> str:
    """Return one line a class, a group and the means; empty where a value is undefined."""
    metrics, per_class = result["metrics"], result["per_class"]
    means = mean_names(result) if per_class else {name: name for name in metrics}
    names = [name for name in means if name != "gt"]
    has_count = "gt" in means
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *names, *(["gt"] if has_count else [])])
    for label, row in per_class.items():
        writer.writerow([label, *(_field(row.get(name)) for name in names), *([row.get("gt")] if has_count else [])])
    for group in sorted(class_groups(result)):
        values = [_field(metrics.get(f"{group}_{means[name]}")) for name in names]
        writer.writerow([f"({group})", *values, *([""] if has_count else [])])
    values = [_field(metrics.get(means[name])) for name in names]
    writer.writerow(["(mean)", *values, *([result["counts"]["gt"]] if has_count else [])])
    return text.getvalue()


def _field(value: float | None) -> str:
    return "" if value is None else repr(value)


def check_report(folder: Path) -> None:
    """Say before the work starts that a report cannot be written; raises UsageError."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError("expected a folder for --report, found a file", file=existing)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError("cannot write to this folder", file=existing, hint="name another place for --report")
    for path in (folder / name for name in _REPORT_FILES):
        if path.is_dir():
            raise UsageError("a folder stands where a file of --report goes", file=path)


def write_report(folder: Path, evaluation: Evaluation, rule: str) -> None:
    """Write `result.csv`, `result.json` and `report.html`: all of them or, whatever goes wrong, none.

    rule  one line that says what the preset scores
    """
    from pc3dcli.formats.report_page import Report, build_report

    result = evaluation.result
    page = build_report(Report(result, rule, evaluation.footnote, evaluation.num_scored, evaluation.curves))
    texts = dict(zip(_REPORT_FILES, (page, result_text(result), csv_text(result)), strict=True))
    remove_stale_temporaries(folder, ".report.html.*.tmp")
    remove_stale_temporaries(folder, ".result.*.tmp")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with ExitStack() as stack:  # left in reverse
            for name, text in texts.items():
                file = stack.enter_context(atomic_file(folder / name))
                file.write(text.encode(errors="backslashreplace"))  # of what is no character, as in JSON
                file.flush()
                os.fsync(file.fileno())  # a full disk shows here, before any file has its name
    except BaseException:
        with suppress(OSError):  # folders that were there, or that someone else put something in, stay
            for path in made:
                path.rmdir()
        raise


def say_warnings(warnings: list[dict], params: dict) -> None:
    """Print the warnings on stderr; raises InputError for any with --strict."""
    for warning in warnings if not params["quiet"] else ():
        place = f"{warning['file']}: " if warning["file"] else ""
        print(f"pc3d eval: warning: {place}{warning['detail']} ({warning['code']})", file=sys.stderr)
    if params["strict"] and warnings:
        raise InputError(f"{len(warnings)} warning{'s' * (len(warnings) != 1)}, which --strict does not accept")


def write_lines(path: Path, lines: list[dict]) -> None:
    """Write JSON objects, one a line."""
    with atomic_file(path) as file:
        for line in lines:
            file.write(_json(line).encode(errors="backslashreplace") + b"\n")
