# SPDX-License-Identifier: Apache-2.0
"""Few-shot classification: folds drawn from the seed or read, a run for each, predictions for `eval --task fewshot`.

A fold is skipped when its predictions are there, made with the same settings; its weights are not kept.
"""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pc3dcli.commands.finetune_data import Splits
from pc3dcli.commands.finetune_run import EPOCHS, PREDICTIONS, Plan, run, write_arrays
from pc3dcli.commands.training_progress import duration
from pc3dcli.errors import InputError, UsageError
from pc3dcli.formats.folds import Fold, Folds, read_folds, write_folds
from pc3dcli.metrics.classification import FoldSize, draw_folds
from pc3dcli.stream.run_folder import CHECKPOINT, LOG, RUN, WEIGHTS, RunFolder
from pc3dcli.stream.writer import atomic_file
from pc3dcli.train.processes import make_fabric

FOLDER, FOLDS = "predictions", "folds.json"
_SUFFIX = {"fair": ".csv", "official": ".npz"}
_OTHER = "pass --force to start again, or name another --out"


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
    plan: Plan, folds: Folds, whole: RunFolder, program_of: Callable[[int], dict], reporter_of: Callable
) -> bool:
    """Train every fold that is not done and write its predictions; returns whether this process is the first.

    whole        the folder of all folds; its run.json is there when all are done
    program_of   fold -> its program record
    reporter_of  fold -> a TrainingReporter
    raises       UsageError, before anything is written, when a fold was finished with other settings, and for the
                 folder of another run
    """
    started, out, count = time.time(), whole.path, len(folds.folds)
    is_main = make_fabric(plan.device).is_global_zero
    _check_folder(whole, folds)
    folders = [RunFolder(out / f"fold_{index:02d}", program_of(index), whole.force) for index in range(count)]
    is_done = [_is_done(folder) for folder in folders]
    paths = [out / FOLDER / f"fold_{index:02d}{_SUFFIX[plan.protocol]}" for index in range(count)]
    todo = [index for index in range(count) if not (is_done[index] and paths[index].is_file())]
    if is_main:
        if whole.force:
            remove_folds(out)
            _remove_run(out)
        with atomic_file(out / FOLDS) as file:
            file.write(_folds_bytes(folds))
    begun = time.monotonic()
    for position, index in enumerate(todo):
        splits = of_fold(plan.splits, folds.folds[index], index, out / FOLDS)
        with reporter_of(index) as reporter:
            left = (time.monotonic() - begun) / position * (len(todo) - position) if position else None
            reporter.warn(f"fold {index + 1} of {count}" + ("" if left is None else f", {duration(left)} left"))
            result = run(replace(plan, splits=splits), folders[index], reporter)
            if is_main:
                reporter.finished(result.steps, result.new_steps, folders[index].path)
        if is_main:
            write_fold(folders[index].path / PREDICTIONS, paths[index])
            (folders[index].path / WEIGHTS).unlink()
    if is_main and (todo or not (out / RUN).is_file()):
        whole.finish(started, folds=count)
    return is_main


def has_folds(out: Path) -> bool:
    """Tell whether a folder holds few-shot folds, finished or not."""
    return (out / FOLDS).is_file() and any(_fold_folders(out))


def remove_folds(out: Path) -> None:
    """Remove what earlier runs of few-shot folds wrote."""
    for folder in _fold_folders(out):
        shutil.rmtree(folder, ignore_errors=True)
    for suffix in _SUFFIX.values():
        for path in (out / FOLDER).glob(f"fold_[0-9][0-9]*{suffix}"):
            path.unlink(missing_ok=True)
    (out / FOLDS).unlink(missing_ok=True)


def _fold_folders(out: Path) -> list[Path]:
    found = sorted(out.glob("fold_[0-9][0-9]*"))
    return [path for path in found if (path / LOG).is_file() and not path.is_symlink()]


def _remove_run(out: Path) -> None:
    """Remove the weights and predictions of a run without folds, which --force lets this one replace."""
    if (out / RUN).is_file() or (out / CHECKPOINT).is_file():
        for name in (WEIGHTS, "config.json", LOG, CHECKPOINT, PREDICTIONS, RUN):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / EPOCHS, ignore_errors=True)


def _check_folder(whole: RunFolder, folds: Folds) -> None:
    """Raise UsageError for a folder that holds another run, or other folds, finished or not."""
    if whole.force:
        return
    whole.is_done()  # compares the settings
    if whole.checkpoint.exists():
        raise UsageError("exists, of a run without folds", file=whole.checkpoint, hint=_OTHER)
    path = whole.path / FOLDS
    if has_folds(whole.path) and path.read_bytes() != _folds_bytes(folds):
        raise UsageError("exists, made with other folds", file=path, hint=_OTHER)


def _folds_bytes(folds: Folds) -> bytes:
    file = io.BytesIO()
    write_folds(file, folds)
    return file.getvalue()


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
