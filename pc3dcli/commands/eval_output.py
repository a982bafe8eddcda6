# SPDX-License-Identifier: Apache-2.0
"""What `pc3d eval` prints and writes: the table, `metric` records, CSV and the report folder.

On a terminal rich draws the tables; anywhere else they are plain aligned text, which rich would wrap at 80 columns.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pc3dcli.formats.result_json import result_text
from pc3dcli.stream.writer import atomic_file

_IOU = {"50": 0.5, "25": 0.25}
_RULES = {
    "scannet": "the 18 classes of ScanNet",
    "scannet200": "the 198 classes of ScanNet200",
    "scannetpp": "the classes of --instance-classes",
    "agnostic-valid": "one class, ground truth of the labels of {classes}",
    "agnostic-segment3d": "one class, every id but 0",
    "agnostic-maskclustering": "one class, ids modulo 1000",
}


@dataclass(frozen=True)
class _Table:
    title: str
    header: list[str]
    rows: list[list[str]]


def print_tables(result: dict, num_scored: int) -> None:
    """Print the result as tables; the first line says the preset and how many scenes were scored."""
    tables = list(_tables(result))
    print(_first_line(result, num_scored))
    if sys.stdout.isatty():
        _print_rich(tables)
    else:
        print("\n".join(line for table in tables for line in _plain_lines(table)))
    print(footnote(result))
    print(last_line(result))


def _first_line(result: dict, num_scored: int) -> str:
    scenes = result["inputs"]["scenes"]
    partial = "" if num_scored == scenes else f"{num_scored} of "
    return f"{result['task']}, preset {result['preset']}, {partial}{scenes} scene{'s' * (scenes != 1)}"


def footnote(result: dict) -> str:
    """Return two lines to stand under the tables: what the preset scores, and how many predictions it ignored."""
    counts, options = result["counts"], result["options"]
    rule = _RULES[result["preset"]].format(classes=options["classes"])
    return (
        f"{result['preset']}: {rule}; instances of {options['min_region']} vertices or more\n"
        f"ignored {counts['ignored_pred']} of {counts['pred']} predictions: not of the classes, smaller than that, "
        "or mostly on what is not scored"
    )


def last_line(result: dict) -> str:
    """Return the line that ends every text output (evaluation.md section 10)."""
    counts = result["counts"]
    return (
        f"preset={result['preset']} scenes={result['inputs']['scenes']} classes={counts['classes']} "
        f"undefined={counts['undefined_classes']} ignored_predictions={counts['ignored_pred']}"
    )


def _tables(result: dict) -> Iterator[_Table]:
    metrics, counts = result["metrics"], result["counts"]
    names = [name for name in metrics if name.startswith(("ap", "rc"))]
    header = ["class", *(name.upper() for name in names), "gt"]
    rows = [
        [name, *(_shown(row[column]) for column in names), str(row["gt"])]
        for name, row in result["per_class"].items()
        if row["ap"] is not None
    ]
    for group in sorted({name.split("_")[0] for name in metrics if "_ap" in name}):
        rows.append([group, *(_shown(metrics.get(f"{group}_{name}")) for name in names), ""])
    rows.append(["mean", *(_shown(metrics[name]) for name in names), str(counts["gt"])])
    yield _Table("", header, rows)
    yield from _extra_tables(result, names)


def _extra_tables(result: dict, names: list[str]) -> Iterator[_Table]:
    if "intervals" in result:
        rows = [[name.upper(), *map(_shown, bounds)] for name, bounds in result["intervals"].items()]
        yield _Table("95 % interval over scenes", ["metric", "low", "high"], rows)
    if "per_scene" in result:
        rows = [[scene, *(_shown(row[name]) for name in names)] for scene, row in result["per_scene"].items()]
        yield _Table("per scene", ["scene", *(name.upper() for name in names)], rows)
    if "size_bins" in result:
        columns = ("rc", "rc50", "rc25")
        rows = [[size, *(_shown(row[c]) for c in columns), str(row["gt"])] for size, row in result["size_bins"].items()]
        yield _Table("recall by size in vertices", ["size", "RC", "RC50", "RC25", "gt"], rows)
    if "confusion" in result:
        cells = result["confusion"]
        rows = [[cell["gt"] or "(nothing)", cell["pred"] or "(missed)", str(cell["count"])] for cell in cells]
        yield _Table("confusion at IoU > 0.5", ["true", "predicted", "count"], rows)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _plain_lines(table: _Table) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
    if table.title:
        yield f"\n{table.title}"
    for row in (table.header, *table.rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def _print_rich(tables: list[_Table]) -> None:
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
        count = row["gt"]
        yield from (_metric(name, row[name], **{"class": label, "count": count}) for name in row if name != "gt")
    for name, (low, high) in result.get("intervals", {}).items():
        yield _metric(name, low, percentile=2.5)
        yield _metric(name, high, percentile=97.5)
    for size, row in result.get("size_bins", {}).items():
        yield from (_metric(name, row[name], size=size, count=row["gt"]) for name in row if name != "gt")
    for cell in result.get("confusion", ()):
        yield _metric("confusion", cell["count"], **{"class": cell["gt"], "predicted": cell["pred"], "iou": 0.5})


def _metric(name: str, value: float | None, **fields: object) -> dict:
    iou = _IOU.get(name[-2:])
    return {"type": "metric", "name": name, "value": value} | ({"iou": iou} if iou else {}) | fields


def print_records(records: list[dict], scenes: int) -> None:
    """Print records as one segment of a stream; numbers in full, since six digits would not tell two runs apart."""
    for record in [*records, {"type": "end", "scenes": scenes, "failed": 0}]:
        print(json.dumps(record, allow_nan=False, ensure_ascii=False, separators=(",", ":")))


def csv_text(result: dict) -> str:
    """Return one line a class and one of the means; empty where a value is undefined."""
    names = [name for name in result["metrics"] if name.startswith(("ap", "rc"))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *names, "gt"])
    for label, row in result["per_class"].items():
        writer.writerow([label, *("" if row[name] is None else repr(row[name]) for name in names), row["gt"]])
    for group in sorted({name.split("_")[0] for name in result["metrics"] if "_ap" in name}):
        values = [result["metrics"].get(f"{group}_{name}") for name in names]
        writer.writerow([f"({group})", *("" if value is None else repr(value) for value in values), ""])
    means = ["" if result["metrics"][name] is None else repr(result["metrics"][name]) for name in names]
    writer.writerow(["(mean)", *means, result["counts"]["gt"]])
    return text.getvalue()


def write_report(folder: Path, result: dict) -> None:
    """Write `result.json` and `result.csv`; each appears only when complete."""
    for name, text in (("result.csv", csv_text(result)), ("result.json", result_text(result))):
        with atomic_file(folder / name) as file:
            file.write(text.encode())


def write_lines(path: Path, lines: list[dict]) -> None:
    """Write JSON objects, one a line."""
    with atomic_file(path) as file:
        for line in lines:
            file.write(json.dumps(line, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
