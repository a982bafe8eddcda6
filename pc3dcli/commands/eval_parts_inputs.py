# SPDX-License-Identifier: Apache-2.0
"""What `eval --task parts` compares: ground truth and predictions of shapes, and which categories they are of.

Categories are those of the data set of --gt, or those that a file names; what says nothing is ShapeNetPart's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pc3dcli.commands.evaluation import Request, check_partners
from pc3dcli.commands.inputs import stream_scenes
from pc3dcli.commands.result_draft import ResultDraft
from pc3dcli.commands.segment_categories import are_of, occurring_parts, read_part, with_categories
from pc3dcli.datasets import shape_arrays
from pc3dcli.datasets.shape_set import ShapeSet, open_shapes
from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.formats import part_shapes, shapenet_part
from pc3dcli.formats.arrays import read_arrays
from pc3dcli.formats.cloud import xyz_sha256
from pc3dcli.formats.part_categories import read_categories
from pc3dcli.formats.shapenet_part import ARRAY_FILES, Prediction
from pc3dcli.metrics.parts import CATEGORIES, SHAPENET, Categories, category_of, known_categories

_HINT = "--gt names the data set itself, or class_names, category and category_parts stand in the file"


@dataclass(frozen=True)
class Sample:
    """One shape: ground truth (N,), its category, and what was predicted, None for nothing, in which file."""

    name: str
    part: np.ndarray
    category: int
    prediction: Prediction | None
    file: Path


@dataclass(frozen=True)
class Inputs:
    """The categories of the shapes, how many shapes there are, these, and of which split of a data set they are."""

    categories: Categories
    count: int
    samples: Iterator[Sample]
    split: str | None = None


@dataclass(frozen=True)
class Truth:
    """Ground truth of shapes by name.

    read    name -> parts (N,), category
    points  name -> points (N, 3), None where the ground truth has none
    files   what it is read from, for digests
    split   of a data set that has some
    """

    categories: Categories
    names: tuple[str, ...]
    read: Callable[[str], tuple[np.ndarray, int]]
    files: dict[str, Path]
    points: Callable[[str], np.ndarray] | None = None
    split: str | None = None

    @property
    def hint(self) -> str | None:
        """What to do where shapes are missing here."""
        scores_more = self.split not in (None, "all")
        return f"split {self.split} is scored, --split all scores every shape" if scores_more else None


def open_inputs(request: Request, path: Path, draft: ResultDraft) -> Inputs:
    """Open the predictions at `path` and their ground truth; what was read goes into the draft.

    raises  UsageError for options that do not apply; InputError and FormatError for inputs
    """
    if path.suffix in ARRAY_FILES:
        return _of_one_file(request, path, draft)
    if request.gt is None:
        raise UsageError("no ground truth: pass --gt PATH")
    if not path.is_dir():
        raise InputError("no such folder; expected a folder, .npz or .safetensors", file=path)
    truth, files = open_truth(request.gt, request.options["split"]), shapenet_part.find_files(path)
    _match(truth, files, request, draft)
    draft.prediction_files = {f"{name}{file.suffix}": file for name, file in files.items()}

    def samples() -> Iterator[Sample]:
        for name in truth.names:
            part, category = truth.read(name)
            file = files.get(name)
            if file is not None:
                _check_record(path / f"{name}.ndjson", truth, name)
            found = None if file is None else _read_prediction(file, truth.categories)
            yield Sample(name, part, category, found, file or request.gt)

    return Inputs(truth.categories, len(truth.names), samples(), truth.split)


def open_truth(gt: Path, split: str | None) -> Truth:
    """Open ground truth: ShapeNetPart's folder, a data set of shapes with parts, or a folder of text files."""
    if is_data_set(gt):
        return _of_data_set(gt, split or ("all" if gt.is_file() else "test"))
    if not gt.is_dir():
        raise InputError("no such folder or data set, which predictions in a folder need", file=gt)
    if shapenet_part.is_dataset(gt):
        split = split or "test"
        files = shapenet_part.find_shapes(gt, None if split == "all" else split)
        points = _shapenet_points(gt, split)
    elif split is not None:
        raise UsageError("--split applies to data sets that have splits, as ShapeNetPart's folder")
    else:
        files, points = shapenet_part.find_files(gt), None

    def read(name: str) -> tuple[np.ndarray, int]:
        part = not_empty(shapenet_part.read_truth(files[name]), files[name])
        return part, category_of(part) if points else _shapenet_category(part, name, files[name])

    named = {f"{name}{file.suffix}": file for name, file in files.items()}
    return Truth(SHAPENET, tuple(files), read, named, points, split)


def is_data_set(gt: Path) -> bool:
    """Tell whether a path is a data set of shapes that says what its categories are; ShapeNetPart itself is not."""
    if gt.is_dir() and shapenet_part.is_dataset(gt):
        return not set(shapenet_part.categories(gt)) <= set(CATEGORIES)
    if gt.is_dir():
        return shape_arrays.matches(gt)
    return gt.suffix in ARRAY_FILES and bool(read_arrays(gt, ("points", "pos")))


def not_empty(part: np.ndarray, path: Path) -> np.ndarray:
    """Return the parts of a shape; raises FormatError for none."""
    if part.size == 0:
        raise FormatError("a shape without points", file=path)
    return part


def _of_data_set(gt: Path, split: str) -> Truth:
    """Return the shapes of a split; the parts of a category are those of all shapes of the data set."""
    shapes, everything = (open_shapes(gt, split=name) for name in (split, "all"))
    has_classes = shapes.label is not None
    shapes = with_categories(shapes)
    found = occurring_parts(everything) if has_classes else ()
    categories = known_categories(shapes.class_names, found) if has_classes else SHAPENET
    index_of = {name: index for index, name in enumerate(shapes.names)}

    def read(name: str) -> tuple[np.ndarray, int]:
        return read_part(shapes, index_of[name]), int(shapes.label[index_of[name]])

    files = [gt] if gt.is_file() else []
    if shapes.layout == "arrays":
        files = shape_arrays.files_of(gt, split)
    elif gt.is_dir():
        files = list(shapenet_part.find_shapes(gt, None if split == "all" else split).values())
    named = {file.name if file == gt else file.relative_to(gt).as_posix(): file for file in files}
    known_split = None if gt.is_file() else split

    def points(name: str) -> np.ndarray:
        return shapes.read(index_of[name]).xyz

    return Truth(categories, shapes.names, read, named, points, known_split)


def _shapenet_points(gt: Path, split: str) -> Callable[[str], np.ndarray]:
    @cache  # opened only where there is a hash to compare with
    def opened() -> tuple[ShapeSet, dict[str, int]]:
        shapes = open_shapes(gt, dataset="shapenetpart", split=split)
        return shapes, {name: index for index, name in enumerate(shapes.names)}

    def points(name: str) -> np.ndarray:
        shapes, index_of = opened()
        return shapes.read(index_of[name]).xyz

    return points


def _match(truth: Truth, predicted: dict, request: Request, draft: ResultDraft) -> None:
    """Compare the names of both sides; tells the draft what is missing."""
    allow = request.options["allow_missing"]
    try:
        missing = check_partners(truth.names, predicted, request.gt, allow_missing=allow, what="shape")
    except InputError as error:
        raise InputError(error.message, file=error.file, hint=error.hint or truth.hint) from None
    draft.warnings |= {("missing-shape", name, "scored as a shape without predictions") for name in missing}
    draft.truth_files = truth.files


def _check_record(file: Path, truth: Truth, name: str) -> None:
    """Refuse the record of a shape, where `segment` wrote one, that is of other points or other categories."""
    if not file.is_file():
        return
    for scene in stream_scenes([str(file)], lambda line: line.record.get("category")):
        sha256 = (scene.scene or {}).get("xyz_sha256")
        if truth.points and sha256 and sha256 != xyz_sha256(truth.points(name)):
            raise InputError(f"shape {name} has other points than in the ground truth", file=file)
        other = next((found for found in scene.kept if found not in CATEGORIES), None)
        if truth.points is None and other is not None:
            raise InputError(f"category {other} is none of ShapeNetPart", file=file, hint=_HINT)


def _read_prediction(file: Path, categories: Categories) -> Prediction:
    if categories is SHAPENET:
        return shapenet_part.read_prediction(file)
    return part_shapes.read_prediction(file, categories.num_parts)


def _of_one_file(request: Request, path: Path, draft: ResultDraft) -> Inputs:
    """Open the shapes of one file, in its order."""
    draft.prediction_files = {path.name: path}
    gt = request.gt
    if gt is not None and (is_data_set(gt) or gt.is_dir()):
        return _rows_of(open_truth(gt, request.options["split"]), path, request, draft)
    if request.options["split"] is not None:
        raise UsageError("--split does not apply to predictions in one file")
    draft.truth_files = {} if gt is None else {gt.name: gt}
    names, said = read_categories(path)
    if gt is not None:
        their_names, theirs = read_categories(gt)
        names, said = their_names or names, theirs or said
    other = next((name for name in names if name.lower() not in map(str.lower, CATEGORIES)), None)
    if said is None and other is not None:
        problem = f"class {other} is none of ShapeNetPart's, and category and category_parts are missing"
        raise FormatError(problem, file=path, hint=_HINT)
    categories = SHAPENET if said is None else Categories(said.names, said.parts)
    predicted = _read_rows(path, categories, "pred", "logits", *(("label", "part") if gt is None else ()))
    truths = predicted if gt is None else _read_rows(gt, categories, "label", "part")
    parts = truths.get("label", truths.get("part"))
    found = predicted.get("logits", predicted.get("pred"))
    if parts is None or found is None:
        what, file = ("label", gt or path) if parts is None else ("pred or logits", path)
        raise FormatError(f"holds no {what} of shapes", file=file)
    if not parts:
        raise FormatError("no shapes in it", file=gt or path)
    if said is not None and len(said.category) != len(parts):
        raise FormatError(f"category of {len(said.category)} shapes, expected {len(parts)}", file=gt or path)
    if len(parts) != len(found):
        raise FormatError(f"{len(found)} shapes, expected {len(parts)} as in the ground truth", file=path)

    def samples() -> Iterator[Sample]:
        digits = len(str(len(parts)))
        for row, part in enumerate(parts):
            name = f"{row:0{digits}d}"
            part = not_empty(part, path)
            if said is None:
                category = _shapenet_category(part, name, gt or path)
            else:
                category = int(said.category[row])
                _check_known(part, category, categories, name, gt or path)
            yield Sample(name, part, category, _prediction(found[row]), path)

    return Inputs(categories, len(parts), samples())


def _rows_of(truth: Truth, path: Path, request: Request, draft: ResultDraft) -> Inputs:
    """Open the shapes of one file against a data set: by their id, or without one in the order of the data set."""
    arrays = _read_rows(path, truth.categories, "pred", "logits")
    found = arrays.get("logits", arrays.get("pred"))
    if found is None:
        raise FormatError("holds no pred or logits of shapes", file=path)
    ids = read_arrays(path, ("id",)).get("id")
    names = truth.names if ids is None else tuple(str(name) for name in ids.ravel())
    if len(found) != len(names) or len(set(names)) < len(names):
        raise FormatError(f"{len(found)} shapes, expected {len(set(names))} as in the ground truth or id", file=path)
    row_of = {name: row for row, name in enumerate(names)}
    _match(truth, row_of, request, draft)

    def samples() -> Iterator[Sample]:
        for name in truth.names:
            yield Sample(name, *truth.read(name), _prediction(found[row_of[name]]) if name in row_of else None, path)

    return Inputs(truth.categories, len(truth.names), samples(), truth.split)


def _read_rows(path: Path, categories: Categories, *names: str) -> dict[str, list[np.ndarray]]:
    if categories is SHAPENET:
        return shapenet_part.read_shapes(path, *names)
    names = tuple(name for name in names if name != "logits")
    return part_shapes.read_shapes(path, *names, num_parts=categories.num_parts)


def _prediction(values: np.ndarray) -> Prediction:
    return Prediction(values) if values.ndim == 1 else Prediction(None, values)


def _shapenet_category(part: np.ndarray, name: str, file: Path) -> int:
    """Return the category of a shape that says nothing but its parts; raises FormatError for parts of several."""
    category = category_of(part)
    if not are_of(part, category):
        found = ", ".join(map(str, np.unique(part)[:8].tolist()))
        problem = f"shape {name} has parts {found}, which are of no one category of ShapeNetPart"
        raise FormatError(problem, file=file, hint=_HINT)
    return category


def _check_known(part: np.ndarray, category: int, categories: Categories, name: str, file: Path) -> None:
    other = np.setdiff1d(part, categories.parts[category])
    if other.size:
        problem = f"shape {name} has part {other[0]}, which category {categories.names[category]} has not"
        raise FormatError(problem, file=file, hint="category_parts lists the parts of each category")
