# SPDX-License-Identifier: Apache-2.0
"""One HTML file that shows a finished evaluation in any browser, offline: the `report.html` of `pc3d eval --report`.

The page is made of `result.json` alone, plus the curves; it may load nothing and run nothing but its own program
(a content security policy with the hashes of script and style).  Names come from files nobody vouches for: they reach
the page as JSON in which no tag can start, and the program puts them in as text.  Same result, same bytes.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field

import numpy as np

from pc3dcli.formats.html_page import filled, packaged, policy_hash, safe_json
from pc3dcli.formats.result_names import class_groups, columns_of, mean_names, shown_name, unit_of

CURVE_BINS = 256  # along x: each keeps its first, lowest, highest and last point, about what a screen can show; ours
NUM_COLORS = 8  # curves in colour when the page opens, as many as the style has colours; ours
_SCRIPTS = ("report_plots.js", "report_matrix.js", "report_page.js")


@dataclass(frozen=True)
class Report:
    """What a page shows beside the result itself.

    result      the object of `result.json`
    rule        one line: what the preset scores
    footnote    one or two lines: what was ignored
    num_scored  scenes (frames, shapes, ...) that had predictions
    curves      name -> {"x": [...], "y": [...], "x_name": str, "y_name": str}
    """

    result: dict
    rule: str = ""
    footnote: str = ""
    num_scored: int | None = None
    curves: dict[str, dict] = field(default_factory=dict)


def build_report(report: Report) -> str:
    """Return the text of the page.

    raises  ValueError for NaN or infinity; what is undefined is None
    """
    result = report.result
    title = f"{result['task']}, preset {result['preset']}"
    style, script = packaged("report_page.css"), "\n".join(map(packaged, _SCRIPTS))
    parts = {
        "@TITLE@": html.escape(title),
        "@STYLE_HASH@": policy_hash(style),
        "@SCRIPT_HASH@": policy_hash(script),
        "@STYLE@": style,
        "@SCRIPT@": script,
        "@DATA@": safe_json(_page_data(report)),
    }
    return filled(packaged("report_page.html"), parts)


def _page_data(report: Report) -> dict:
    result = report.result
    metrics, intervals, scenes = result["metrics"], result.get("intervals", {}), result.get("per_scene", {})
    num_scenes = result["inputs"]["scenes"]
    breakdowns = dict(result.get("breakdowns", {}))
    if result.get("size_bins"):
        breakdowns["recall by size in vertices"] = result["size_bins"]
    return {
        "task": result["task"],
        "preset": result["preset"],
        "rule": report.rule,
        "footnote": report.footnote,
        "version": result["tool_version"],
        "unit": unit_of(result["task"]),
        "numScenes": num_scenes,
        "numScored": num_scenes if report.num_scored is None else report.num_scored,
        "metrics": [
            [shown_name(name), *map(_shown, (value, *intervals.get(name, ())))] for name, value in metrics.items()
        ],
        "headline": _headline(result),
        "options": [[name, _option_text(value)] for name, value in sorted(result["options"].items())],
        "counts": [[name.replace("_", " "), value] for name, value in sorted(result["counts"].items())],
        "inputs": [[name, result["inputs"].get(key)] for name, key in _DIGESTS],
        "warnings": [[one["code"], one["file"], one["detail"]] for one in result["warnings"]],
        "classes": _table(result["per_class"]),
        "means": class_means(result),
        "breakdowns": [[title, _table(rows)] for title, rows in breakdowns.items()],
        "scenes": _table(scenes),
        "sceneColumn": _headline_column(metrics, scenes),
        "confusion": _confusion(result),
        "plots": _plots(report.curves, result["per_class"]),
    }


_DIGESTS = (("Ground truth", "gt_digest"), ("Predictions", "pred_digest"))


def _option_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(rows: dict[str, dict]) -> dict:
    columns = columns_of(rows.values())
    cells = [[name, *(_rounded(row.get(column)) for column in columns)] for name, row in rows.items()]
    kinds = [{type(value) for value in values} - {type(None)} for values in list(zip(*cells, strict=True))[1:]]
    # JSON in a browser does not tell 1 from 1.0
    return {
        "columns": [shown_name(column) for column in columns],
        "counts": [kind == {int} for kind in kinds],
        "rows": cells,
    }


def _shown(value: float | int | None) -> str:
    """Return a number as the tables of the text output show it."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _rounded(value: float | int | None) -> float | int | None:
    """Return a number of a table with the digits that a page needs, half the size of all."""
    return round(value, 6) if isinstance(value, float) else value


def class_means(result: dict) -> list[list]:
    """Return the rows under the table of classes, [name, value, ...]: means of groups of classes, then of all."""
    metrics, names = result["metrics"], mean_names(result)
    if not any(names.values()):
        return []
    rows = [[group, *(metrics.get(f"{group}_{name}") for name in names.values())] for group in class_groups(result)]
    rows.append(["mean", *(name and metrics[name] for name in names.values())])
    if "gt" in names:
        rows[-1][-1] = result["counts"].get("gt")
    return rows


def _headline(result: dict) -> list[int]:
    """Return which metrics stand at the top of the page: of groups of classes the first only."""
    names = list(result["metrics"])
    groups = class_groups(result)
    of_groups = [name for name in names if name.startswith(tuple(f"{group}_" for group in groups))] if groups else []
    firsts = [next(name for name in of_groups if name.startswith(f"{group}_")) for group in groups]
    return [names.index(name) for name in names if name not in of_groups or name in firsts]


def _headline_column(metrics: dict, scenes: dict[str, dict]) -> int:
    """Return which column of the scenes the first metric that they have stands in."""
    columns = columns_of(scenes.values())
    return next((columns.index(name) for name in metrics if name in columns), 0)


def _confusion(result: dict) -> dict | None:
    """Return names of the classes that occur, and cells as true index, predicted index and count one after another.

    The name None, where it occurs, is the last: nothing there (true), or missed (predicted).
    """
    cells = [cell for cell in result.get("confusion", ()) if cell["count"]]
    if not cells:
        return None
    occurring = {name for cell in cells for name in (cell["gt"], cell["pred"])}
    names = [name for name in result["per_class"] if name in occurring]
    names += sorted(occurring - set(names) - {None}) + [None] * (None in occurring)
    index = {name: number for number, name in enumerate(names)}
    triplets = sorted((index[cell["gt"]], index[cell["pred"]], cell["count"]) for cell in cells)
    return {"names": names, "cells": [number for triplet in triplets for number in triplet]}


def _plots(curves: dict[str, dict], per_class: dict[str, dict]) -> list[dict]:
    """Return a plot for each pair of axes: its curves, and which of them have a colour at first."""
    plots: dict[tuple[str, str], list] = {}
    for name, curve in curves.items():
        x, y = thinned(np.asarray(curve["x"], float), np.asarray(curve["y"], float))
        if x.size:
            plots.setdefault((curve["x_name"], curve["y_name"]), []).append([name, x.tolist(), y.tolist()])
    return [
        {"x": x_name, "y": y_name, "curves": drawn, "chosen": _most_frequent([name for name, *_ in drawn], per_class)}
        for (x_name, y_name), drawn in plots.items()
    ]


def _most_frequent(names: list[str], per_class: dict[str, dict]) -> list[int]:
    """Return the indices of the classes with the most ground truth, in the order of the names; the first on ties."""
    frequency = [per_class.get(name, {}).get("gt") or 0 for name in names]
    return sorted(sorted(range(len(names)), key=lambda index: -frequency[index])[:NUM_COLORS])


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a curve that a screen can show, four digits each.

    x, y     (N,) float, x ascending or descending
    returns  two (M,) float with M <= 4 CURVE_BINS: of each bin of x the first, lowest, highest and last point
    """
    if x.size > 4 * CURVE_BINS:
        reach = max(float(np.ptp(x)), 1e-12)
        bins = np.minimum(((x - x.min()) / reach * CURVE_BINS).astype(int), CURVE_BINS - 1)
        by_height = np.lexsort((np.arange(x.size), y, bins))
        in_order = np.argsort(bins, kind="stable")
        kept = [_ends(bins[by_height]), _ends(bins[in_order])]
        index = np.unique(np.concatenate((by_height[kept[0]], in_order[kept[1]])))
        x, y = x[index], y[index]
    return np.round(x, 4), np.round(y, 4)


def _ends(groups: np.ndarray) -> np.ndarray:
    """Return the positions at which runs of equal values start and end."""
    starts = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
    return np.concatenate((starts, np.append(starts[1:], groups.size) - 1))
