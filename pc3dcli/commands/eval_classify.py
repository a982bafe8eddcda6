# SPDX-License-Identifier: Apache-2.0
"""`eval --task classify`: predicted classes of shapes against their labels (evaluation.md 6.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pc3dcli.commands.class_scores import fill, named_samples, table
from pc3dcli.commands.evaluation import Evaluation, Request, Table, shown
from pc3dcli.commands.protocol import accuracies_of, is_official, put_first, refuse_single
from pc3dcli.commands.result_draft import ResultDraft, result_object
from pc3dcli.errors import FormatError, UsageError
from pc3dcli.formats.class_predictions import of_run, read_columns, read_labelled_arrays
from pc3dcli.metrics.classification import first_and_vote

PRESETS = {"classify": "overall accuracy and mean of the accuracies of the classes that occur"}
OPTIONS = frozenset(("per_scene", "confusion", "bootstrap", "seed", "protocol"))
NEEDS_GT = False  # labels stand beside the predictions
MANUAL = """\
A prediction file is a CSV table with the header label,pred and one integer each a line, or an .npz or .safetensors
with label (N) and logits (N, C) or pred (N). Labels may stand in a file of their own, --gt FILE, in the same
formats (label); class_names and id there name classes and samples. The folder of pc3d distill stands for its
predictions.npz. A class is the arg-max of the logits, of equal ones the lowest.

oa is the share of right predictions, macc the mean over the classes that occur in the labels of the share of each.
With logits (V, N, C) of V passes, oa_single is the accuracy of the first pass and oa_vote that of the arg-max of
the mean logits; oa is oa_single: voting is never mixed into it. Published votes draw 1,200 points by farthest point
sampling and 1,024 of them at random in each pass (4,800 and 4,096 for inputs of 4,096), and usually state the best
of several repeats.

The number is that of the file given. With several files, one an epoch in order, the last one is scored as the
checkpoint, and oa_best_test_epoch is the highest single accuracy of all, with a warning: choosing an epoch on the
test set is no result. One file of pc3d distill may hold the same as epoch_pred (E, N), and repeated votes as
vote_logits (R, N, C), each the mean over its passes.

--protocol fair, the default, scores the last epoch, and oa_vote is the mean over the repeats of the vote, with
oa_vote_std beside it. --protocol official puts first what papers print: oa_best_test_epoch, and oa_vote_max, the
highest of the repeats, both with a warning; oa stays what it is.

Which published numbers compare: ModelNet40 and ScanObjectNN accuracies without voting with oa_single, with voting
with oa_vote, and "mAcc" with macc. Most published figures are of the best epoch on the test set, as
oa_best_test_epoch is.
"""


@dataclass(frozen=True)
class _Predicted:
    """Classes (N,) of the first pass and of all, with what the file says of the samples."""

    first: np.ndarray
    vote: np.ndarray | None
    num_passes: int
    num_classes: int
    about: dict
    epochs: np.ndarray | None = None  # (E, N) classes after each epoch
    repeats: np.ndarray | None = None  # (R, N) classes of each repeat of the vote


def metric_names(request: Request) -> list[str]:
    """Return the metrics that --fail-under knows."""
    names = ["oa", "macc", "oa_single", "oa_vote", "macc_vote"]
    official = ["oa_best_test_epoch", "oa_vote_max"] if is_official(request) else []
    return [*names, *(official or (["oa_best_test_epoch"] if len(request.predictions) > 1 else []))]


def run(request: Request) -> Evaluation:
    """Score predicted classes against labels.

    raises  UsageError without labels, InputError and FormatError for inputs
    """
    paths = [of_run(Path(name)) for name in request.predictions]
    if "-" in request.predictions or any(path.is_dir() for path in paths):
        raise UsageError("--task classify reads files: cls.csv, or .npz or .safetensors with logits")
    truth = _about(request.gt) if request.gt is not None else {}
    scored = [_score_file(path, truth, request) for path in paths]
    label, predicted = scored[-1]
    samples = named_samples(label, predicted.num_classes - 1, *(predicted.about.get(n) for n in ("id", "class_names")))
    draft = ResultDraft("classify", label.size)
    votes = {} if predicted.vote is None else {"_vote": predicted.vote}
    fill(draft, samples, {"": predicted.first} | votes, request.options, rows=request.has_digest)
    draft.metrics |= {"oa_single": draft.metrics["oa"]}
    draft.metrics.setdefault("oa_vote", None)
    draft.metrics.setdefault("macc_vote", None)
    _add_repeats(draft, label, predicted)
    if len(paths) > 1 or is_official(request):
        _add_best(draft, scored, paths[-1], request)
    draft.options = _options(request, predicted, len(paths))
    draft.prediction_files = {path.name: path for path in paths}
    draft.truth_files = {} if request.gt is None else {request.gt.name: request.gt}
    request.progress(paths[-1].stem, 1, 1)
    return Evaluation(result_object(draft, request), label.size, [_table(draft)], _footnote(predicted, paths))


def _add_repeats(draft: ResultDraft, label: np.ndarray, predicted: _Predicted) -> None:
    """Put the mean over repeated votes, and their sample deviation, into the metrics."""
    if predicted.repeats is not None:
        values = np.array(accuracies_of(label, predicted.repeats))
        draft.metrics["oa_vote"] = float(values.mean())
        draft.metrics["oa_vote_std"] = float(values.std(ddof=1)) if values.size > 1 else None


def _add_best(draft: ResultDraft, scored: list, path: Path, request: Request) -> None:
    """Put the best epoch on the test set into the metrics; under official before all others, with the best vote."""
    epochs = [value for label, found in scored for value in accuracies_of(label, _epochs(found))]
    label, last = scored[-1]
    if not is_official(request):
        metrics = draft.metrics
        put_first(draft, {"oa_best_test_epoch": max(epochs)}, "epoch", len(epochs))
        draft.metrics = metrics | draft.metrics  # the checkpoint first
        return
    repeats = last.repeats if last.repeats is not None else None if last.vote is None else last.vote[None]
    if repeats is None and len(epochs) < 2:
        refuse_single(path)
    draft.metrics["oa_best_test_epoch"] = draft.metrics["oa_vote_max"] = None
    if repeats is not None:
        put_first(draft, {"oa_vote_max": max(accuracies_of(label, repeats))}, "vote", len(repeats))
    if len(epochs) > 1:
        put_first(draft, {"oa_best_test_epoch": max(epochs)}, "epoch", len(epochs))


def _epochs(found: _Predicted) -> np.ndarray:
    return found.first[None] if found.epochs is None else found.epochs


def _table(draft: ResultDraft) -> Table:
    """Return the table of the classes with what the protocol adds."""
    rows = table(draft)
    names = {"OA vote, mean": "oa_vote", "OA best test epoch": "oa_best_test_epoch", "OA best vote": "oa_vote_max"}
    if "oa_vote_std" not in draft.metrics:
        del names["OA vote, mean"]  # has a column then
    found = {title: draft.metrics.get(name) for title, name in names.items()}
    blanks = [""] * (len(rows.header) - 2)
    extra = [[title, shown(value), *blanks] for title, value in found.items() if value is not None]
    return Table(rows.title, rows.header, [*rows.rows, *extra])


def _score_file(path: Path, truth: dict, request: Request) -> tuple[np.ndarray, _Predicted]:
    """Return the labels (N,) and the predictions of a file."""
    found = _predicted(path)
    label = truth.get("label", found.about.get("label"))
    if label is None:
        raise FormatError("holds no label", file=request.gt or path, hint="--gt FILE names a file with the labels")
    if label.ndim != 1 or label.shape != found.first.shape:
        raise FormatError(f"{found.first.size} predictions and labels of shape {label.shape}", file=path)
    if label.size == 0:
        raise FormatError("no samples in it", file=path)
    for rows in (found.epochs, found.repeats):
        if rows is not None and (rows.ndim != 2 or rows.shape[1] != label.size or not len(rows)):
            raise FormatError(f"epochs or repeats of {rows.shape[1:]} samples, expected {label.size}", file=path)
    return label, replace(found, about=found.about | truth)


def _about(path: Path) -> dict:
    """Return label, id and class_names of a file, as far as it has them."""
    if path.suffix in (".npz", ".safetensors"):
        return read_labelled_arrays(path, "label", "id", "class_names")
    columns = read_columns(path, "label")
    return {name: columns[name] for name in ("label", "id") if name in columns}


def _predicted(path: Path) -> _Predicted:
    if path.suffix not in (".npz", ".safetensors"):
        columns = read_columns(path)
        about = {name: columns[name] for name in ("label", "id") if name in columns}
        return _Predicted(columns["pred"], None, 1, int(columns["pred"].max(initial=-1)) + 1, about)
    names = ("logits", "pred", "epoch_pred", "vote_logits", "label", "id", "class_names")
    arrays = read_labelled_arrays(path, *names)
    votes = arrays.pop("vote_logits", None)
    if votes is not None and (votes.ndim != 3 or 0 in votes.shape):
        raise FormatError(f"vote_logits are {votes.shape}, expected (R, N, C)", file=path)
    run = {"epochs": arrays.pop("epoch_pred", None), "repeats": None if votes is None else votes.argmax(axis=2)}
    if "logits" not in arrays:
        if "pred" not in arrays or arrays["pred"].ndim != 1:
            raise FormatError("expected logits (N, C) or (V, N, C), or pred (N)", file=path)
        pred = arrays.pop("pred")
        return _Predicted(pred, None, 1, int(pred.max(initial=-1)) + 1, arrays, **run)
    logits = arrays.pop("logits")
    if logits.ndim not in (2, 3) or 0 in logits.shape:
        raise FormatError(f"logits are {logits.shape}, expected (N, C) or (V, N, C)", file=path)
    passes = logits if logits.ndim == 3 else logits[None]
    first, vote = first_and_vote(passes)
    return _Predicted(first, vote if logits.ndim == 3 else None, len(passes), logits.shape[-1], arrays, **run)


def _options(request: Request, predicted: _Predicted, num_files: int) -> dict:
    given = request.options
    return {
        "bootstrap": given["bootstrap"],
        "files": num_files,
        "passes": predicted.num_passes,
        "protocol": given["protocol"],
        "repeats": 0 if predicted.repeats is None else len(predicted.repeats),
        "seed": given["seed"] if given["bootstrap"] else None,
    }


def _footnote(predicted: _Predicted, paths: list[Path]) -> str:
    first = "classify: OA is the share of right predictions, the mean is over the classes that occur"
    if predicted.repeats is not None:
        return f"{first}; vote: mean over {len(predicted.repeats)} repeats"
    if predicted.vote is None:
        return f"{first}; one pass, no voting"
    return (
        f"{first}; vote: arg-max of the mean logits of V = {predicted.num_passes} passes\n"
        f"resampling of a pass as {paths[-1].name} was made; published: 1,200 points by farthest point sampling, then "
        "1,024 at random (4,800 and 4,096)"
    )
