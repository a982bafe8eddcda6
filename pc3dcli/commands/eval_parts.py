# SPDX-License-Identifier: Apache-2.0
"""`eval --task parts`: predicted parts of shapes against ground truth (evaluation.md section 7)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from pc3dcli.commands.eval_parts_inputs import Inputs, Sample, not_empty, open_inputs
from pc3dcli.commands.evaluation import Evaluation, Request, Table, shown
from pc3dcli.commands.protocol import is_official, put_first, refuse_single
from pc3dcli.commands.result_draft import ResultDraft, intervals, number, result_object
from pc3dcli.datasets.shape import SPLITS
from pc3dcli.errors import FormatError, UsageError
from pc3dcli.formats.class_predictions import of_run
from pc3dcli.formats.shapenet_part import ARRAY_FILES
from pc3dcli.metrics.miou import mean_defined
from pc3dcli.metrics.parts import SHAPENET, Categories, ShapeScore, predicted_parts, score_shape

PRESETS = {"parts": "IoU of the parts of each shape's category, mean over shapes and mean over categories"}
OPTIONS = frozenset(("split", "per_scene", "bootstrap", "seed", "allow_missing", "protocol"))
NEEDS_GT = False  # one file may hold both sides
POINTS = 2048  # of a shape, in published figures
MANUAL = """\
Ground truth is a data set of shapes with parts: the ShapeNetPart folder (normal-resampled:
synsetoffset2category.txt and <synset>/<id>.txt with rows x y z nx ny nz part) or arrays, one .npz or a folder of
them, with points, part and label (pc3d-shapes(5)); of a folder --split train, val, trainval, test (the default) or
all is scored, of a single file all shapes. Or it is a folder of text files with one part a line, or an .npz or
.safetensors with label (S, N), or part of all shapes in one row with start (S + 1).

Predictions are a folder with a file for each shape under the same name, as pc3d segment writes it: one part a line,
or an .npz or .safetensors with pred (N) or, of ShapeNetPart, logits (N, 50). Where a network saw a sample of the
points, index (N) says which points of the ground truth they are, counted from 0; a point may come twice. Where
pc3d segment wrote which points it saw, other points in the ground truth are refused. One .npz for all shapes holds
pred (S, N) or logits (S, N, 50), and may hold label (S, N) itself; --gt is not needed then. The folder of pc3d
distill stands for its predictions.npz.

Categories and their parts are those of a data set of arrays: the parts of a category are those that occur in any of
its shapes. A single file names them by class_names (C), category (S), an index into them, and category_parts
(K, 2), rows of a category and a part of it, as pc3d distill writes them. Where nothing is said, and in arrays whose
classes and parts are all ShapeNetPart's, they are those of ShapeNetPart; a shape of such a file with parts of two
categories is refused.

In ShapeNetPart the category of a shape is that of its first ground-truth label. With logits the prediction is the
best of the category's parts, never of all 50. The IoU of a part is 1 if neither side has it, and that of a shape is
the mean over all parts of its category. instance_miou is the mean over shapes, class_miou the mean over the
categories that occur of the mean over their shapes, accuracy the share of right points. A predicted part of another
category is wrong and warned of.

Several files of all shapes are the epochs of a run in order, as pc3d distill --protocol official writes them: the
last is scored. --protocol official puts first what papers print, the highest of each mean over the epochs
(instance_miou_best_test_epoch and class_miou_best_test_epoch, of different epochs), with a warning.

The number of points of the shapes is in the result and under the table: published figures are of 2,048 points a
shape, drawn with replacement, at test time too. Figures on all points, on other samples, with votes, or with the
best epoch of each of the two means (which are of different epochs then) do not compare. mIoU_I is instance_miou and
mIoU_C class_miou.
"""
_BEST = ("instance_miou_best_test_epoch", "class_miou_best_test_epoch")
_COLUMNS = ("iou", "shapes", "right", "points")  # of what a shape adds to its category


def metric_names(request: Request) -> list[str]:
    """Return the metrics that --fail-under knows; raises UsageError for an unknown split."""
    split = request.options["split"]
    if split is not None and split not in SPLITS:
        raise UsageError(f"--split {split}: expected one of {', '.join(SPLITS)}")
    return ["instance_miou", "class_miou", "accuracy", *(_BEST if is_official(request) else [])]


def run(request: Request) -> Evaluation:
    """Score the parts of all shapes.

    raises  UsageError for a split that does not apply; InputError and FormatError for inputs
    """
    metric_names(request)
    paths = [of_run(Path(name)) for name in request.predictions]
    if len(paths) > 1 and any(path.suffix not in ARRAY_FILES for path in paths) or str(paths[0]) == "-":
        raise UsageError(
            "--task parts takes one folder, .npz or .safetensors of predictions, or an .npz for each epoch"
        )
    draft = ResultDraft("parts", 0)
    inputs = open_inputs(request, paths[-1], draft)
    scores = _scores(inputs, draft, request)
    _fill(draft, scores, inputs, request)
    if is_official(request):
        _put_best_first(draft, paths, request)
    num_scored = len(scores) - sum(code == "missing-shape" for code, _, _ in draft.warnings)
    footnote = _footnote(draft, inputs.categories)
    return Evaluation(result_object(draft, request), num_scored, [_table(draft)], footnote)


def _put_best_first(draft: ResultDraft, paths: list[Path], request: Request) -> None:
    """Put the best epoch on the test set of both means before all other metrics.

    raises  FormatError when there is one epoch only
    """
    if len(paths) < 2:
        refuse_single(paths[0])
    epochs = [draft.metrics]
    for path in paths[:-1]:
        other = ResultDraft("parts", 0)
        inputs = open_inputs(request, path, other)
        scores = _scores(inputs, other)
        epochs.append(_means(_sums_by_category(scores, inputs.categories).sum(axis=0)))
    best = {name: max(float(epoch[name.removesuffix("_best_test_epoch")]) for epoch in epochs) for name in _BEST}
    put_first(draft, best, "epoch", len(paths))


def _scores(inputs: Inputs, draft: ResultDraft, request: Request | None = None) -> dict[str, ShapeScore]:
    """Score every shape; the request, where there is one, is told of each."""
    scores: dict[str, ShapeScore] = {}
    for sample in inputs.samples:
        scores[sample.name] = _score(sample, inputs.categories, draft)
        if request is not None:
            request.progress(sample.name, len(scores), inputs.count)
    return scores


def _score(sample: Sample, categories: Categories, draft: ResultDraft) -> ShapeScore:
    part, prediction, path = sample.part, sample.prediction, sample.file
    score = partial(score_shape, category=sample.category, categories=categories)
    if prediction is None:
        none = max(categories.num_parts, 1 + int(part.max()))
        return score(part, np.full(part.size, none))  # no part of any category
    if prediction.index is not None:
        wrong = (prediction.index < 0) | (prediction.index >= part.size)
        if wrong.any():
            bad = prediction.index[np.argmax(wrong)]
            raise FormatError(f"index {bad} of {part.size} points", file=path)
        part = not_empty(part[prediction.index], path)
    if prediction.num_points != part.size:
        problem = f"{prediction.num_points} points, expected {part.size} as in the ground truth"
        raise FormatError(problem, file=path, hint="an index array says which points were predicted")
    found = prediction.part
    if found is None:
        found = predicted_parts(prediction.logits, categories.parts[sample.category])
    result = score(part, found)
    if result.num_outside:
        draft.warnings.add(("other-category", path.name, "predicts parts of another category, which are wrong"))
    return result


def _fill(draft: ResultDraft, scores: dict[str, ShapeScore], inputs: Inputs, request: Request) -> None:
    options, names = request.options, inputs.categories.names
    table = _sums_by_category(scores, inputs.categories)
    total = table.sum(axis=0)
    draft.num_items = len(scores)
    draft.metrics = {name: number(value) for name, value in _means(total).items()}
    for name, (iou, shapes, right, points) in zip(names, total.tolist(), strict=True):
        row = {"iou": iou / shapes, "accuracy": right / points} if shapes else {"iou": None, "accuracy": None}
        draft.per_class[name] = row | {"gt": int(shapes)}
    sizes = {score.num_points for score in scores.values()}
    if len(sizes) > 1:
        detail = f"shapes have {min(sizes)} to {max(sizes)} points; published figures take as many of each"
        draft.warnings.add(("point-counts", "", detail))
    num_points = int(total[:, 3].sum())
    draft.counts = {
        "gt": num_points, "pred": num_points, "ignored_pred": 0, "classes": len(names),
        "undefined_classes": int((total[:, 1] == 0).sum()),
    }  # fmt: skip
    draft.options = {
        "allow_missing": options["allow_missing"],
        "bootstrap": options["bootstrap"],
        "points_per_shape": sizes.pop() if len(sizes) == 1 else None,
        "protocol": options["protocol"],
        "seed": options["seed"] if options["bootstrap"] else None,
        "split": inputs.split,
    }
    if options["per_scene"] or request.has_digest:
        draft.extras["per_scene"] = {
            name: {"iou": score.iou, "accuracy": score.num_right / score.num_points} for name, score in scores.items()
        }
    if options["bootstrap"]:
        draft.extras["intervals"] = intervals(table, _means, options, draft.task, draft.warnings)


def _sums_by_category(scores: dict[str, ShapeScore], categories: Categories) -> np.ndarray:
    """Return (S, C, 4) what each shape adds to its category."""
    table = np.zeros((len(scores), len(categories.names), len(_COLUMNS)))
    for row, score in enumerate(scores.values()):
        table[row, score.category] = (score.iou, 1, score.num_right, score.num_points)
    return table


def _means(total: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics (...) of sums by category (..., C, 4)."""
    iou, shapes, right, points = np.moveaxis(total, -1, 0)
    by_category = np.divide(iou, shapes, out=np.full(iou.shape, np.nan), where=shapes > 0)
    return {
        "instance_miou": iou.sum(axis=-1) / shapes.sum(axis=-1),
        "class_miou": mean_defined(by_category),
        "accuracy": right.sum(axis=-1) / points.sum(axis=-1),
    }


def _table(draft: ResultDraft) -> Table:
    rows = [
        [name, shown(row["iou"]), shown(row["accuracy"]), str(row["gt"])]
        for name, row in draft.per_class.items()
        if row["gt"]
    ]
    metrics = draft.metrics
    rows.append(["mean of categories", shown(metrics["class_miou"]), "", ""])
    rows.append(["mean of shapes", shown(metrics["instance_miou"]), shown(metrics["accuracy"]), str(draft.num_items)])
    if _BEST[0] in metrics:
        titles = ("mean of shapes, best test epoch", "mean of categories, best test epoch")
        rows += [[title, shown(metrics[name]), "", ""] for title, name in zip(titles, _BEST, strict=True)]
    return Table("", ["category", "mIoU", "Acc", "shapes"], rows)


def _footnote(draft: ResultDraft, categories: Categories) -> str:
    points = draft.options["points_per_shape"]
    size = "shapes of different numbers of points" if points is None else f"{points} points a shape"
    published = f", published figures are of {POINTS}" if categories.names == SHAPENET.names else ""
    return f"parts: best part of the category, absent parts count as 1; {size}{published}"
