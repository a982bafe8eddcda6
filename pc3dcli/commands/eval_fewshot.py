# SPDX-License-Identifier: Apache-2.0
"""`eval --task fewshot`: accuracy of each fold, their mean and both deviations (evaluation.md 6.2)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from pc3dcli.commands.evaluation import Evaluation, Request, Table, check_partners, shown
from pc3dcli.commands.protocol import is_official, put_first, refuse_single
from pc3dcli.commands.result_draft import ResultDraft, number, result_object
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.class_predictions import read_columns, read_labelled_arrays
from pc3dcli.formats.folds import Fold, Folds, read_folds
from pc3dcli.metrics.classification import fold_accuracy

PRESETS = {"fewshot": "mean over folds of the accuracy, with the population and the sample deviation"}
OPTIONS = frozenset(("per_scene", "allow_missing", "protocol"))
NEEDS_GT = False  # a fold's table may hold the labels itself
PROTOCOL = (10, 20)  # folds, and queries of a class
MANUAL = """\
Predictions are one CSV table a fold, in a folder or named one by one; the number at the end of a file's name is the
fold, from 0. With --gt folds.json a table has the header id,pred: each query of the fold once and the class id
predicted for it. Without --gt it has the header label,pred. The folder that pc3d distill wrote stands for both: its
predictions, and its folds.json unless --gt names another.

folds.json is {"format": "pc3d.folds/1", "way": 5, "shot": 10, "queries": 20, "seed": 0, "folds": [...]}, each fold
{"classes": [class ids], "support": [[sample ids of the first class], ...], "query": [[...], ...]}: classes and
samples are drawn without replacement, support from the train split and queries from the test split.

accuracy is the mean over folds. std_population divides by the number of folds (numpy's default) and std_sample by
one less; papers print one of them without saying which, for 10 folds the second is 5 % larger. The protocol has 10
folds and 20 queries a class: other numbers are scored with a warning, and so is an accuracy below that of guessing.
A prediction that is no class of the fold is wrong.

A fold may be an .npz instead, with pred (Q), or epoch_pred (E, Q) of every epoch, and id or label as the table has
them: the last epoch is scored. --protocol official puts first what papers print, accuracy_best_test_epoch: of each
fold its best epoch on the queries, with a warning.

Which published numbers compare: 5-way and 10-way, 10-shot and 20-shot accuracies on ModelNet40, in percent there,
if the folds are the same. Published figures are means over the best test epoch of every fold.
"""


def metric_names(request: Request) -> list[str]:
    """Return the metrics that --fail-under knows."""
    return ["accuracy", *(["accuracy_best_test_epoch"] if is_official(request) else [])]


def run(request: Request) -> Evaluation:
    """Score the predictions of all folds.

    raises  InputError and FormatError for inputs
    """
    request = _of_run(request)
    folds = read_folds(request.gt) if request.gt is not None else None
    files = fold_files(request.predictions)
    draft = ResultDraft("fewshot", len(files))
    if folds is not None:
        names = [str(index) for index in range(len(folds.folds))]
        # a fold without predictions has no accuracy: --allow-missing would have nothing to score it as but 0
        missing = check_partners(
            names, map(str, files), request.gt, allow_missing=request.options["allow_missing"], what="fold"
        )
        draft.warnings |= {("missing-fold", name, "scored as a fold without a right answer") for name in missing}
        draft.num_items = len(names)
    accuracy = {index: 0.0 for index in range(len(folds.folds))} if folds else {}
    best, num_queries, num_epochs = dict(accuracy), 0, 0
    for position, (index, path) in enumerate(files.items(), 1):
        hits = _hits(path, folds.folds[index] if folds else None)
        if is_official(request) and len(hits) < 2:
            refuse_single(path)
        num_queries, num_epochs = num_queries + hits.shape[1], max(num_epochs, len(hits))
        accuracy[index] = float(hits[-1].mean())
        best[index] = float(hits.mean(axis=1).max())
        request.progress(path.stem, position, len(files))
    _fill(draft, accuracy, num_queries, folds)
    if is_official(request):
        _put_best_first(draft, best, num_epochs)
    if request.options["per_scene"] or request.has_digest:
        draft.extras["per_scene"] = {str(index): {"accuracy": value} for index, value in sorted(accuracy.items())}
    draft.options |= {name: request.options[name] for name in ("allow_missing", "protocol")}
    draft.prediction_files = {path.name: path for path in files.values()}
    draft.truth_files = {} if request.gt is None else {request.gt.name: request.gt}
    return Evaluation(result_object(draft, request), len(files), [_table(draft, accuracy)], _footnote(draft))


def _of_run(request: Request) -> Request:
    """Return the request with the predictions and folds in the folder of `pc3d distill`, where it names one."""
    path = Path(request.predictions[0])
    predictions, folds = path / "predictions", path / "folds.json"
    if len(request.predictions) > 1 or not (predictions.is_dir() and folds.is_file()):
        return request
    return replace(request, predictions=[str(predictions)], gt=request.gt or folds)


def fold_files(sources: list[str]) -> dict[int, Path]:
    """Return the table of each fold, by the number at the end of the file's name, sorted.

    raises  InputError for a path that does not exist, a name without number, a number twice, or no file
    """
    found: dict[int, Path] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise InputError("no such file or folder", file=source)
        for path in sorted((*source.glob("*.csv"), *source.glob("*.npz"))) if source.is_dir() else [source]:
            digits = re.search(r"[0-9]+$", path.stem)
            if digits is None or len(digits[0]) > 6:
                raise InputError("the name does not end in the number of a fold, as in fold_00.csv", file=path)
            index = int(digits[0])
            if index in found:
                raise InputError(f"fold {index} again, after {found[index].name}", file=path)
            found[index] = path
    if not found:
        raise InputError("no predictions; tried *.csv, *.npz", file=sources[0])
    return dict(sorted(found.items()))


def _hits(path: Path, fold: Fold | None) -> np.ndarray:
    """Return (E, Q) whether each query was answered right after each epoch, the last of which counts."""
    columns = _read_arrays(path) if path.suffix == ".npz" else read_columns(path)
    if columns["pred"].size == 0:
        raise FormatError("no predictions in it", file=path)
    pred = np.atleast_2d(columns["pred"])
    if fold is None:
        if "label" not in columns:
            raise FormatError("has no column label", file=path, hint="--gt folds.json names the labels of sample ids")
        return columns["label"] == pred
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
    return np.array([label_of[name] for name in columns["id"]]) == pred


def _read_arrays(path: Path) -> dict[str, list[str] | np.ndarray]:
    """Return the columns of a fold in an .npz: id and label as far as they are there, pred (Q,) or (E, Q)."""
    arrays = read_labelled_arrays(path, "id", "label", "pred", "epoch_pred")
    pred = arrays.pop("epoch_pred", arrays.get("pred"))
    sizes = [array.shape for name, array in arrays.items() if name != "pred"]
    if pred is None or pred.ndim not in (1, 2) or any(size != pred.shape[-1:] for size in sizes):
        raise FormatError("expected pred (Q,) or epoch_pred (E, Q), with id or label (Q,)", file=path)
    if "id" in arrays:
        arrays["id"] = [str(name) for name in arrays["id"]]
    return arrays | {"pred": pred}


def _put_best_first(draft: ResultDraft, best: dict[int, float], num_epochs: int) -> None:
    """Put the mean over folds of the best test epoch of each before all other metrics."""
    found = fold_accuracy(np.array([best[index] for index in sorted(best)]))
    put_first(draft, {"accuracy_best_test_epoch": found.mean}, "epoch", num_epochs)
    draft.metrics["std_sample_best_test_epoch"] = number(found.std_sample)
    draft.metrics["std_population_best_test_epoch"] = number(found.std_population)


def _fill(draft: ResultDraft, accuracy: dict[int, float], num_queries: int, folds: Folds | None) -> None:
    found = fold_accuracy(np.array([accuracy[index] for index in sorted(accuracy)]))
    draft.metrics = {
        "accuracy": number(found.mean),
        "std_population": number(found.std_population),
        "std_sample": number(found.std_sample),
    }
    draft.options = {name: getattr(folds, name) if folds else None for name in ("way", "shot", "queries", "seed")} | {
        "folds": len(accuracy)
    }
    draft.counts = {
        "gt": num_queries, "pred": num_queries, "ignored_pred": 0, "classes": folds.way if folds else 0,
        "undefined_classes": 0,
    }  # fmt: skip
    if len(accuracy) != PROTOCOL[0]:
        draft.warnings.add(("fold-count", "", f"{len(accuracy)} folds, published figures are of {PROTOCOL[0]}"))
    if folds and found.mean < 1 / folds.way:
        detail = f"accuracy {found.mean:.4f}, guessing among {folds.way} classes has {1 / folds.way:.4f}"
        draft.warnings.add(("below-chance", "", detail))
    if folds and folds.queries != PROTOCOL[1]:
        detail = f"{folds.queries} queries a class, published figures are of {PROTOCOL[1]}"
        draft.warnings.add(("query-count", "", detail))


def _table(draft: ResultDraft, accuracy: dict[int, float]) -> Table:
    rows = [[str(index), shown(accuracy[index])] for index in sorted(accuracy)]
    names = {"mean": "accuracy", "std (population)": "std_population", "std (sample)": "std_sample"}
    names["mean of best test epochs"] = "accuracy_best_test_epoch"
    found = [[title, shown(draft.metrics[name])] for title, name in names.items() if name in draft.metrics]
    return Table("", ["fold", "Acc"], [*rows, *found])


def _footnote(draft: ResultDraft) -> str:
    options = draft.options
    size = f"{options['way']}-way {options['shot']}-shot" if options["way"] else "way and shot not stated by the files"
    return f"fewshot: {size}, {options['folds']} folds; deviations divide by n (population) and n - 1 (sample)"
