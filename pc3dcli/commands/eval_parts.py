# SPDX-License-Identifier: Apache-2.0
"""`eval --task parts`: predicted parts of shapes against ground truth (evaluation.md section 7)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pc3dcli.commands.evaluation import Evaluation, Request, Table, check_partners, shown
from pc3dcli.commands.protocol import is_official, put_first, refuse_single
from pc3dcli.commands.result_draft import ResultDraft, intervals, number, result_object
from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.formats import shapenet_part
from pc3dcli.formats.shapenet_part import NUM_PARTS, Prediction
from pc3dcli.metrics.miou import mean_defined
from pc3dcli.metrics.parts import CATEGORIES, ShapeScore, category_of, predicted_parts, score_shape

PRESETS = {"parts": "ShapeNetPart: 50 parts of 16 categories, mean over shapes and mean over categories"}
OPTIONS = frozenset(("split", "per_scene", "bootstrap", "seed", "allow_missing", "protocol"))
NEEDS_GT = False  # one file may hold both sides
POINTS = 2048  # of a shape, in published figures
MANUAL = """\
Ground truth is the ShapeNetPart folder (normal-resampled: synsetoffset2category.txt and <synset>/<id>.txt with rows
x y z nx ny nz part), of which --split train, val, trainval or test (the default) is scored, or a folder of text
files with one part a line, or an .npz or .safetensors with label (S, N), or part of all shapes in one row with
start (S + 1).

Predictions are a folder with a file for each shape under the same name: one part a line, or an .npz or .safetensors
with pred (N) or logits (N, 50). Where a network saw a sample of the points, index (N) says which points of the
ground truth they are, counted from 0; a point may come twice. One .npz for all shapes holds pred (S, N) or logits
(S, N, 50), and may hold label (S, N) itself; --gt is not needed then.

The category of a shape is that of its first ground-truth label. With logits the prediction is the best of the
category's parts, never of all 50. The IoU of a part is 1 if neither side has it, and that of a shape is the mean
over all parts of its category. instance_miou is the mean over shapes, class_miou the mean over the categories that
occur of the mean over their shapes, accuracy the share of right points. A predicted part of another category is
wrong and warned of.

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
    if split is not None and split not in shapenet_part.SPLITS:
        raise UsageError(f"--split {split}: expected one of {', '.join(shapenet_part.SPLITS)}")
    return ["instance_miou", "class_miou", "accuracy", *(_BEST if is_official(request) else [])]


def run(request: Request) -> Evaluation:
    """Score the parts of all shapes.

    raises  UsageError for a split that does not apply; InputError and FormatError for inputs
    """
    metric_names(request)
    paths = [Path(name) for name in request.predictions]
    if len(paths) > 1 and any(path.suffix not in shapenet_part.ARRAY_FILES for path in paths) or str(paths[0]) == "-":
        raise UsageError(
            "--task parts takes one folder, .npz or .safetensors of predictions, or an .npz for each epoch"
        )
    draft, scores = ResultDraft("parts", 0), {}
    for name, score, count in _scores(request, paths[-1], draft):
        scores[name] = score
        request.progress(name, len(scores), count)
    _fill(draft, scores, request)
    if is_official(request):
        _put_best_first(draft, paths, request)
    num_scored = len(scores) - sum(code == "missing-shape" for code, _, _ in draft.warnings)
    return Evaluation(result_object(draft, request), num_scored, [_table(draft)], _footnote(draft))


def _put_best_first(draft: ResultDraft, paths: list[Path], request: Request) -> None:
    """Put the best epoch on the test set of both means before all other metrics.

    raises  FormatError when there is one epoch only
    """
    if len(paths) < 2:
        refuse_single(paths[0])
    epochs = [draft.metrics]
    for path in paths[:-1]:
        scores = {name: score for name, score, _ in _scores(request, path, ResultDraft("parts", 0))}
        epochs.append(_means(_sums_by_category(scores).sum(axis=0)))
    best = {name: max(float(epoch[name.removesuffix("_best_test_epoch")]) for epoch in epochs) for name in _BEST}
    put_first(draft, best, "epoch", len(paths))


def _scores(request: Request, path: Path, draft: ResultDraft) -> Iterator[tuple[str, ShapeScore, int]]:
    """Yield name and score of each shape, and how many shapes there are."""
    if path.suffix in shapenet_part.ARRAY_FILES:
        yield from _of_one_file(request, path, draft)
        return
    if request.gt is None:
        raise UsageError("no ground truth: pass --gt PATH")
    if not path.is_dir():
        raise InputError("no such folder; expected a folder, .npz or .safetensors", file=path)
    truth, predicted = _truth_files(request), shapenet_part.find_files(path)
    allow = request.options["allow_missing"]
    missing = check_partners(truth, predicted, request.gt, allow_missing=allow, what="shape")
    draft.warnings |= {("missing-shape", name, "scored as a shape without predictions") for name in missing}
    draft.truth_files = {f"{name}{file.suffix}": file for name, file in truth.items()}
    draft.prediction_files = {f"{name}{file.suffix}": file for name, file in predicted.items()}
    for name, file in truth.items():
        part = _not_empty(shapenet_part.read_truth(file), file)
        prediction = shapenet_part.read_prediction(predicted[name]) if name in predicted else None
        yield name, _score(part, prediction, predicted.get(name, file), draft), len(truth)


def _truth_files(request: Request) -> dict[str, Path]:
    gt, split = request.gt, request.options["split"]
    if not gt.is_dir():
        raise InputError("no such folder, which predictions in a folder need", file=gt)
    if _is_dataset(request):
        return shapenet_part.find_shapes(gt, split or "test")
    if split is not None:
        raise UsageError("--split applies to the ShapeNetPart folder, which has lists of its splits")
    return shapenet_part.find_files(gt)


def _is_dataset(request: Request) -> bool:
    return request.gt is not None and shapenet_part.is_dataset(request.gt)


def _of_one_file(request: Request, path: Path, draft: ResultDraft) -> Iterator[tuple[str, ShapeScore, int]]:
    """Score the shapes of one file, in its order."""
    if request.options["split"] is not None:
        raise UsageError("--split does not apply to predictions in one file")
    arrays = shapenet_part.read_shapes(path, "pred", "logits", "label", "part")
    draft.prediction_files = {path.name: path}
    if request.gt is not None:
        draft.truth_files = {request.gt.name: request.gt}
        truths = shapenet_part.read_shapes(request.gt, "label", "part")
    else:
        truths = arrays
    parts = truths.get("label", truths.get("part"))
    found = arrays.get("logits", arrays.get("pred"))
    if parts is None or found is None:
        what, file = ("label", request.gt or path) if parts is None else ("pred or logits", path)
        raise FormatError(f"holds no {what} of shapes", file=file)
    if not parts:
        raise FormatError("no shapes in it", file=request.gt or path)
    if len(parts) != len(found):
        raise FormatError(f"{len(found)} shapes, expected {len(parts)} as in the ground truth", file=path)
    digits = len(str(len(parts)))
    for row, (part, values) in enumerate(zip(parts, found, strict=True)):
        prediction = Prediction(None, values) if "logits" in arrays else Prediction(values)
        yield f"{row:0{digits}d}", _score(_not_empty(part, path), prediction, path, draft), len(parts)


def _score(part: np.ndarray, prediction: Prediction | None, path: Path, draft: ResultDraft) -> ShapeScore:
    if prediction is None:
        return score_shape(part, np.full(part.size, NUM_PARTS))  # no part of any category
    if prediction.index is not None:
        wrong = (prediction.index < 0) | (prediction.index >= part.size)
        if wrong.any():
            bad = prediction.index[np.argmax(wrong)]
            raise FormatError(f"index {bad} of {part.size} points", file=path)
        part = _not_empty(part[prediction.index], path)
    if prediction.num_points != part.size:
        problem = f"{prediction.num_points} points, expected {part.size} as in the ground truth"
        raise FormatError(problem, file=path, hint="an index array says which points were predicted")
    found = prediction.part
    if found is None:
        found = predicted_parts(prediction.logits, category_of(part))
    score = score_shape(part, found)
    if score.num_outside:
        draft.warnings.add(("other-category", path.name, "predicts parts of another category, which are wrong"))
    return score


def _not_empty(part: np.ndarray, path: Path) -> np.ndarray:
    if part.size == 0:
        raise FormatError("a shape without points", file=path)
    return part


def _fill(draft: ResultDraft, scores: dict[str, ShapeScore], request: Request) -> None:
    options, names = request.options, list(CATEGORIES)
    table = _sums_by_category(scores)
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
        "split": options["split"] or ("test" if _is_dataset(request) else None),
    }
    if options["per_scene"] or request.has_digest:
        draft.extras["per_scene"] = {
            name: {"iou": score.iou, "accuracy": score.num_right / score.num_points} for name, score in scores.items()
        }
    if options["bootstrap"]:
        draft.extras["intervals"] = intervals(table, _means, options, draft.task, draft.warnings)


def _sums_by_category(scores: dict[str, ShapeScore]) -> np.ndarray:
    """Return (S, 16, 4) what each shape adds to its category."""
    names = list(CATEGORIES)
    table = np.zeros((len(scores), len(names), len(_COLUMNS)))
    for row, score in enumerate(scores.values()):
        table[row, names.index(score.category)] = (score.iou, 1, score.num_right, score.num_points)
    return table


def _means(total: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics (...) of sums by category (..., 16, 4)."""
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


def _footnote(draft: ResultDraft) -> str:
    points = draft.options["points_per_shape"]
    size = "shapes of different numbers of points" if points is None else f"{points} points a shape"
    return f"parts: best part of the category, absent parts count as 1; {size}, published figures are of {POINTS}"
