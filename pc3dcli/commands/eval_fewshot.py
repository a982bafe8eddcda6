# SPDX-License-Identifier: Apache-2.0
"""`eval --task fewshot`: accuracy of each fold, their mean and both deviations (evaluation.md 6.2)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pc3dcli.commands.evaluation import Evaluation, Request, Table, check_partners, shown
from pc3dcli.commands.numbers import Numbers, number, result_object
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.class_predictions import read_columns
from pc3dcli.formats.folds import Fold, Folds, read_folds
from pc3dcli.metrics.classification import fold_accuracy

PRESETS = {"fewshot": "mean over folds of the accuracy, with the population and the sample deviation"}
OPTIONS = frozenset(("per_scene", "allow_missing"))
NEEDS_GT = False  # a fold's table may hold the labels itself
PROTOCOL = (10, 20)  # folds, and queries of a class
MANUAL = """\
Predictions are one CSV table a fold, in a folder or named one by one; the number at the end of a file's name is the
fold, from 0. With --gt folds.json a table has the header id,pred: each query of the fold once and the class id
predicted for it. Without --gt it has the header label,pred.

folds.json is {"format": "pc3d.folds/1", "way": 5, "shot": 10, "queries": 20, "seed": 0, "folds": [...]}, each fold
{"classes": [class ids], "support": [[sample ids of the first class], ...], "query": [[...], ...]}: classes and
samples are drawn without replacement, support from the train split and queries from the test split.

accuracy is the mean over folds. std_population divides by the number of folds (numpy's default) and std_sample by
one less; papers print one of them without saying which, for 10 folds the second is 5 % larger. The protocol has 10
folds and 20 queries a class: other numbers are scored with a warning. A prediction that is no class of the fold is
wrong.

Which published numbers compare: 5-way and 10-way, 10-shot and 20-shot accuracies on ModelNet40, in percent there,
if the folds are the same. Published figures are means over the best test epoch of every fold.
"""


def metric_names(request: Request) -> list[str]:
    """Return the metrics that --fail-under knows."""
    return ["accuracy"]


def run(request: Request) -> Evaluation:
    """Score the predictions of all folds.

    raises  InputError and FormatError for inputs
    """
    folds = read_folds(request.gt) if request.gt is not None else None
    files = fold_files(request.predictions)
    numbers = Numbers("fewshot", len(files))
    if folds is not None:
        names = [str(index) for index in range(len(folds.folds))]
        # a fold without predictions has no accuracy: --allow-missing would have nothing to score it as but 0
        missing = check_partners(
            names, map(str, files), request.gt, allow_missing=request.options["allow_missing"], what="fold"
        )
        numbers.warnings |= {("missing-fold", name, "scored as a fold without a right answer") for name in missing}
        numbers.num_items = len(names)
    accuracy = {index: 0.0 for index in range(len(folds.folds))} if folds else {}
    num_queries = 0
    for position, (index, path) in enumerate(files.items(), 1):
        hits = _hits(path, folds.folds[index] if folds else None)
        num_queries += hits.size
        accuracy[index] = float(hits.mean())
        request.progress(path.stem, position, len(files))
    _fill(numbers, accuracy, num_queries, folds)
    if request.options["per_scene"] or request.has_digest:
        numbers.extras["per_scene"] = {str(index): {"accuracy": value} for index, value in sorted(accuracy.items())}
    numbers.options["allow_missing"] = request.options["allow_missing"]
    numbers.prediction_files = {path.name: path for path in files.values()}
    numbers.truth_files = {} if request.gt is None else {request.gt.name: request.gt}
    return Evaluation(result_object(numbers, request), len(files), [_table(numbers, accuracy)], _footnote(numbers))


def fold_files(sources: list[str]) -> dict[int, Path]:
    """Return the table of each fold, by the number at the end of the file's name, sorted.

    raises  InputError for a path that does not exist, a name without number, a number twice, or no file
    """
    found: dict[int, Path] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise InputError("no such file or folder", file=source)
        for path in sorted(source.glob("*.csv")) if source.is_dir() else [source]:
            digits = re.search(r"[0-9]+$", path.stem)
            if digits is None or len(digits[0]) > 6:
                raise InputError("the name does not end in the number of a fold, as in fold_00.csv", file=path)
            index = int(digits[0])
            if index in found:
                raise InputError(f"fold {index} again, after {found[index].name}", file=path)
            found[index] = path
    if not found:
        raise InputError("no predictions; tried *.csv", file=sources[0])
    return dict(sorted(found.items()))


def _hits(path: Path, fold: Fold | None) -> np.ndarray:
    """Return (Q,) whether each query was answered right."""
    columns = read_columns(path)
    if columns["pred"].size == 0:
        raise FormatError("no predictions in it", file=path)
    if fold is None:
        if "label" not in columns:
            raise FormatError("has no column label", file=path, hint="--gt folds.json names the labels of sample ids")
        return columns["label"] == columns["pred"]
    if "id" not in columns:
        raise FormatError("has no column id, which --gt folds.json needs", file=path, line=1)
    label_of, seen = fold.label_of_query(), set()
    for line, name in enumerate(columns["id"], 2):
        if name not in label_of or name in seen:
            what = "again" if name in seen else "is no query of this fold"
            raise FormatError(f"sample {name!r} {what}", file=path, line=line)
        seen.add(name)
    if len(seen) != len(label_of):
        missing = sorted(label_of.keys() - seen)[:10]
        raise FormatError(f"{len(label_of) - len(seen)} queries are missing ({', '.join(missing)})", file=path)
    return np.array([label_of[name] for name in columns["id"]]) == columns["pred"]


def _fill(numbers: Numbers, accuracy: dict[int, float], num_queries: int, folds: Folds | None) -> None:
    found = fold_accuracy(np.array([accuracy[index] for index in sorted(accuracy)]))
    numbers.metrics = {
        "accuracy": number(found.mean),
        "std_population": number(found.std_population),
        "std_sample": number(found.std_sample),
    }
    numbers.options = {name: getattr(folds, name) if folds else None for name in ("way", "shot", "queries", "seed")} | {
        "folds": len(accuracy)
    }
    numbers.counts = {
        "gt": num_queries, "pred": num_queries, "ignored_pred": 0, "classes": folds.way if folds else 0,
        "undefined_classes": 0,
    }  # fmt: skip
    if len(accuracy) != PROTOCOL[0]:
        numbers.warnings.add(("fold-count", "", f"{len(accuracy)} folds, published figures are of {PROTOCOL[0]}"))
    if folds and folds.queries != PROTOCOL[1]:
        detail = f"{folds.queries} queries a class, published figures are of {PROTOCOL[1]}"
        numbers.warnings.add(("query-count", "", detail))


def _table(numbers: Numbers, accuracy: dict[int, float]) -> Table:
    rows = [[str(index), shown(accuracy[index])] for index in sorted(accuracy)]
    names = {"mean": "accuracy", "std (population)": "std_population", "std (sample)": "std_sample"}
    return Table(
        "", ["fold", "Acc"], [*rows, *([title, shown(numbers.metrics[name])] for title, name in names.items())]
    )


def _footnote(numbers: Numbers) -> str:
    options = numbers.options
    size = f"{options['way']}-way {options['shot']}-shot" if options["way"] else "way and shot not stated by the files"
    return f"fewshot: {size}, {options['folds']} folds; deviations divide by n (population) and n - 1 (sample)"
