# SPDX-License-Identifier: Apache-2.0
"""`eval --task svm`: a linear SVM on frozen features, trained on one file and scored on another (evaluation.md 6.3)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from pc3dcli.commands.class_scores import fill, named_samples, table
from pc3dcli.commands.evaluation import Evaluation, Request
from pc3dcli.commands.numbers import Numbers, result_object
from pc3dcli.errors import FormatError, UsageError
from pc3dcli.formats.class_predictions import read_labelled_arrays
from pc3dcli.metrics.classification import pool_tokens

PRESETS = {"svm": "linear SVM, squared hinge, L2, one against the rest, with intercept, as scikit-learn's LinearSVC"}
OPTIONS = frozenset(("train", "pooling", "svm_c", "per_scene", "confusion", "bootstrap", "seed"))
NEEDS_GT = False  # labels stand beside the features
MANUAL = """\
pc3d eval test.npz --task svm --train train.npz. Both files (.npz or .safetensors) hold features (N, D), or (N, T,
D) for T tokens a shape, and label (N). --gt FILE may hold the labels of the test features instead. Tokens are
pooled by --pooling: max, mean, max+mean (their sum) or max;mean (one after the other, 2 D numbers). Features are
used as they are: no normalisation.

The classifier is scikit-learn's LinearSVC with its defaults: squared hinge loss, L2 penalty that includes the
intercept, one class against the rest, --svm-c for C. Its seed is --seed. oa is the accuracy on the test file and
macc the mean over the classes that occur there. C is printed with the result because it moves the number: published
code uses 1.0 or a value per data set near 0.01, which was chosen on the test set.

Which published numbers compare: linear-SVM accuracies on ModelNet40, if points, sampling and normalisation of the
shapes and C are the same. Published figures are often of the best epoch on the test set.
"""
_KINDS = (".npz", ".safetensors")
_MAX_FEATURE = 1e30  # ours; the solver does not come back from numbers of 1e100, nor from such weights


def metric_names(request: Request) -> list[str]:
    """Return the metrics that --fail-under knows; raises UsageError without training features."""
    if request.options["train"] is None:
        raise UsageError("--task svm needs --train FILE, features and labels to train on")
    return ["oa", "macc"]


def run(request: Request) -> Evaluation:
    """Train on one file, score the other.

    raises  UsageError without training features, InputError and FormatError for inputs
    """
    metric_names(request)
    if len(request.predictions) != 1 or Path(request.predictions[0]).suffix not in _KINDS:
        raise UsageError("--task svm takes one .npz or .safetensors file with features")
    path, options = Path(request.predictions[0]), request.options
    pooling, about = options["pooling"], {}
    train, train_label = _features(options["train"], pooling, about)
    test, label = _features(path, pooling, about, request.gt)
    if train.shape[1] != test.shape[1]:
        raise FormatError(f"features of {test.shape[1]} numbers, trained on {train.shape[1]}", file=path)
    numbers = Numbers("svm", label.size)
    prediction = _classify(train, train_label, test, options, numbers.warnings)
    unseen = np.setdiff1d(label, train_label)
    if unseen.size:
        detail = f"classes {unseen.tolist()} are in no training sample and can never be right"
        numbers.warnings.add(("untrained-class", path.name, detail))
    highest = max(int(train_label.max()), int(label.max()))
    samples = named_samples(label, highest, about.get("id"), about.get("class_names"))
    fill(numbers, samples, {"": prediction}, options, rows=request.has_digest)
    numbers.options = {
        "C": options["svm_c"],
        "bootstrap": options["bootstrap"],
        "normalisation": None,
        "pooling": pooling if about["has_tokens"] else None,
        "seed": options["seed"],
    }
    numbers.counts["train"] = int(train_label.size)
    numbers.prediction_files = {"test": path, "train": options["train"]}
    numbers.truth_files = {} if request.gt is None else {request.gt.name: request.gt}
    request.progress(path.stem, 1, 1)
    return Evaluation(result_object(numbers, request), label.size, [table(numbers)], _footnote(numbers))


def _features(path: Path, pooling: str, about: dict, gt: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, D) and labels (N,); what the file says of classes and samples goes into `about`."""
    arrays = read_labelled_arrays(path, "features", "label", "id", "class_names")
    about.pop("id", None)  # those of the training samples name no test sample
    if gt is not None:
        arrays |= read_labelled_arrays(gt, "label", "id", "class_names")
    if "features" not in arrays or "label" not in arrays:
        missing = "features" if "features" not in arrays else "label"
        raise FormatError(f"holds no {missing}, expected features and label", file=path)
    features, label = arrays.pop("features"), arrays.pop("label")
    if features.ndim not in (2, 3) or label.shape != features.shape[:1] or 0 in features.shape:
        problem = f"features are {features.shape} and labels {label.shape}, expected (N, D) or (N, T, D) and (N,)"
        raise FormatError(problem, file=path)
    about |= arrays | {"has_tokens": features.ndim == 3}
    features = features.astype(np.float64)
    largest = float(np.abs(features).max())
    if largest > _MAX_FEATURE:
        raise FormatError(f"features of {largest:g}, expected {_MAX_FEATURE:g} at most", file=path)
    return (pool_tokens(features, pooling) if features.ndim == 3 else features), label


def _classify(
    train: np.ndarray, train_label: np.ndarray, test: np.ndarray, options: dict, told: set[tuple[str, str, str]]
) -> np.ndarray:
    """Return the (N,) predicted class of the test features."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    if np.unique(train_label).size < 2:
        raise FormatError("all training samples have one class, expected two or more", file=options["train"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        machine = LinearSVC(C=options["svm_c"], random_state=options["seed"]).fit(train, train_label)
    if any(issubclass(item.category, ConvergenceWarning) for item in caught):
        told.add(
            ("not-converged", "", f"LinearSVC stopped after {machine.max_iter} rounds; smaller C converges sooner")
        )
    return machine.predict(test)


def _footnote(numbers: Numbers) -> str:
    options = numbers.options
    pooling = f"tokens pooled by {options['pooling']}" if options["pooling"] else "no pooling"
    return (
        f"svm: linear SVM, squared hinge, L2, one against the rest, C = {options['C']:g}; {pooling}; no normalisation\n"
        f"trained on {numbers.counts['train']} samples, scored on {numbers.counts['gt']}"
    )
