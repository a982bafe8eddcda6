# SPDX-License-Identifier: Apache-2.0
"""Few-shot classification: folds drawn from the seed or read, a run for each, predictions for `eval --task fewshot`.

A fold is skipped when its predictions are there, made with the same settings; its weights are not kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pc3dcli.commands.finetune_data import Splits
from pc3dcli.commands.finetune_run import PREDICTIONS, Plan, run, write_arrays
from pc3dcli.errors import InputError, UsageError
from pc3dcli.formats.folds import Fold, Folds, read_folds, write_folds
from pc3dcli.metrics.classification import FoldSize, draw_folds
from pc3dcli.stream.run_folder import RUN, WEIGHTS, RunFolder
from pc3dcli.stream.writer import atomic_file
from pc3dcli.train.processes import make_fabric

FOLDER, FOLDS = "predictions", "folds.json"
_SUFFIX = {"fair": ".csv", "official": ".npz"}


def parse_size(text: str) -> FoldSize:
    """Return way and shot of a text such as "5x10", with 20 queries a class and 10 folds; raises UsageError."""
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if match is None or int(match[1]) < 2 or int(match[2]) < 1:
        raise UsageError(f"--few-shot {text}: expected WAYxSHOT such as 5x10")
    return FoldSize(way=int(match[1]), shot=int(match[2]))


def drawn_folds(splits: Splits, size: FoldSize, seed: int, path: Path) -> Folds:
    """Draw folds from the labels of both splits; raises InputError when there are too few samples."""
    try:
        found = draw_folds(splits.train.label, splits.test.label, size, np.random.default_rng(seed))
    except ValueError as error:
        raise InputError(str(error), file=path) from None
    folds = tuple(
        Fold(tuple(classes.tolist()), _named(support, splits.train.names), _named(query, splits.test.names))
        for classes, support, query in found
    )
    return Folds(size.way, size.shot, size.queries, seed, folds)


def open_folds(path: Path, splits: Splits) -> Folds:
    """Read folds; raises InputError for samples or classes that the splits do not have."""
    folds = read_folds(path)
    for index, fold in enumerate(folds.folds):
        of_fold(splits, fold, index, path)
    return folds


def of_fold(splits: Splits, fold: Fold, index: int, path: Path) -> Splits:
    """Return what a fold learns from and asks about.

    raises  InputError for a sample that a split lacks, or that has another class there
    """
    parts = []
    for shapes, names in ((splits.train, fold.support), (splits.test, fold.query)):
        flat = [str(name) for part in names for name in part]
        chosen = shapes.select(shapes.find(flat))
        expected = np.repeat(fold.classes, [len(part) for part in names])
        wrong = np.flatnonzero(chosen.label != expected)
        if wrong.size:
            name, label = flat[wrong[0]], int(chosen.label[wrong[0]])
            raise InputError(f"fold {index}: {name} is of class {label}, not {expected[wrong[0]]}", file=path)
        parts.append(chosen)
    return Splits(*parts)


def run_folds(
    plan: Plan, folds: Folds, out: Path, program_of: Callable[[int], dict], *, force: bool, reporter_of: Callable
) -> bool:
    """Train every fold that is not done and write its predictions; returns whether this process is the first.

    program_of   fold -> its program record
    reporter_of  fold -> a TrainingReporter
    raises       UsageError, before anything is written, when a fold was finished with other settings
    """
    is_main = make_fabric(plan.device).is_global_zero
    folders = [RunFolder(out / f"fold_{index:02d}", program_of(index), force) for index in range(len(folds.folds))]
    is_done = [_is_done(folder) for folder in folders]
    if is_main:
        with atomic_file(out / FOLDS) as file:
            write_folds(file, folds)
    for index, (fold, folder) in enumerate(zip(folds.folds, folders, strict=True)):
        path = out / FOLDER / f"fold_{index:02d}{_SUFFIX[plan.protocol]}"
        if is_done[index] and path.is_file():
            continue
        splits = of_fold(plan.splits, fold, index, out / FOLDS)
        with reporter_of(index) as reporter:
            reporter.note(f"fold {index + 1} of {len(folds.folds)}")
            run(replace(plan, splits=splits), folder, reporter)
        if is_main:
            write_fold(folder.path / PREDICTIONS, path)
            (folder.path / WEIGHTS).unlink()
    return is_main


def _is_done(folder: RunFolder) -> bool:
    """Tell whether a fold was finished with these settings; raises UsageError for others."""
    if folder.force or not (folder.path / RUN).is_file():
        return False
    folder.is_done()  # compares the settings
    return True


def _named(indices: np.ndarray, names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(names[index] for index in row) for row in indices)


def write_fold(source: Path, path: Path) -> None:
    """Write the predictions of a fold: a table of the last epoch, or arrays of all."""
    with np.load(source) as arrays:
        found: dict[str, Any] = {name: arrays[name] for name in arrays.files}
    if path.suffix == ".npz":
        write_arrays(path, {name: found[name] for name in ("id", "label", "epoch_pred")})
        return
    rows = zip(found["id"], found["label"], found["logits"].argmax(axis=1), strict=True)
    text = "id,label,pred\n" + "".join(f"{name},{label},{pred}\n" for name, label, pred in rows)
    with atomic_file(path) as file:
        file.write(text.encode())
