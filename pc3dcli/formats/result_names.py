# SPDX-License-Identifier: Apache-2.0
"""How people read the names of `result.json`: metrics, columns, groups of classes, and what a task counts."""

from __future__ import annotations

import re
from collections.abc import Iterable

# what `.upper()` would get wrong; names that are not listed are shown as they are in result.json
_CASED = {"miou": "mIoU", "iou": "IoU", "map": "mAP", "macc": "mAcc", "jf": "J&F", "j": "J", "f": "F"}
_CASED |= {name: f"m{name[1:].upper()}" for name in ("mate", "mase", "maoe", "mave", "maae")}
_ACRONYMS = frozenset(
    ("ap", "rc", "nds", "spnds", "oa", "aos", "bev", "idf", "r", "pq", "sq", "rq", "ate", "ase", "aoe", "ave", "aae")
)  # fmt: skip
_WORD = re.compile(r"([a-z]+)(\d*)")
# what `inputs.scenes` counts and `per_scene` has a row of; of tasks that are not listed, scenes
_UNITS = {
    "kitti": "frame",
    "semantickitti": "scan",
    "classify": "sample",
    "svm": "sample",
    "fewshot": "fold",
    "parts": "shape",
    "track2d": "video",
}


def unit_of(task: str) -> str:
    """Return what the results of a task count, in the singular: "scene", "frame", ..."""
    return _UNITS.get(task, "scene")


def counted(number: int, unit: str) -> str:
    """Return "1 scene", "2 scenes"."""
    return f"{number} {unit}{'s' * (number != 1)}"


def shown_name(name: str) -> str:
    """Return how a metric is written for people: "ap50" as "AP50", "head_miou" as "head mIoU"."""
    return " ".join(_shown_word(word) for word in name.split("_"))


def _shown_word(word: str) -> str:
    match = _WORD.fullmatch(word)
    if match is None:
        return "3D" if word == "3d" else word
    letters, digits = match.groups()
    return (letters.upper() if letters in _ACRONYMS else _CASED.get(letters, letters)) + digits


def columns_of(rows: Iterable[dict]) -> list[str]:
    """Return the metrics that rows have, in the order of their first appearance, the count of instances last."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [name for name in columns if name != "gt"] + ["gt"] * ("gt" in columns)


def mean_names(result: dict) -> dict[str, str | None]:
    """Return, for each column of the classes, the metric that is its mean: of the same name, or as miou of iou."""
    columns = columns_of(result["per_class"].values())
    metrics = result["metrics"]
    return {column: next((name for name in (column, f"m{column}") if name in metrics), None) for column in columns}


def class_groups(result: dict) -> list[str]:
    """Return the groups of classes that have means of their own: "head" where there are ap and head_ap."""
    first = next((name for name in mean_names(result).values() if name is not None), None)
    return [name[: -len(f"_{first}")] for name in result["metrics"] if first and name.endswith(f"_{first}")]
