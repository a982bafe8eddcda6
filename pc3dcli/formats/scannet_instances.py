# SPDX-License-Identifier: Apache-2.0
"""3D instances in the formats of the ScanNet family (evaluation.md 1.1): ground truth, predictions, and their writer.

Ground truth is one integer a vertex.  Predictions of a scene are a list of mask files (`<scene>.txt`), or one `.npz` or
`.safetensors` with `pred_masks` (N, K), `pred_scores` (K,), `pred_classes` (K,).  Masks are read one at a time.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats import scannet_aggregation
from pc3dcli.formats.arrays import read_arrays
from pc3dcli.formats.integer_text import parse_flags, parse_integer, parse_integers
from pc3dcli.formats.paths import open_file, read_file, resolve_inside

_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SUFFIXES = (".txt", ".npz", ".safetensors")
TRUTH_PATTERNS = ("gt/*.txt", "*.aggregation.json", "*.txt", "*/gt/*.txt", "*/*.aggregation.json", "*/<scene>.txt")
_PUBLIC_RESULT = "semantic_instance_evaluation.txt"  # the public script leaves it among the predictions


@dataclass(frozen=True)
class ListedMask:
    """One line of a prediction list; `name` is the normal form of the path, relative to the prediction folder."""

    path: Path
    name: str
    label_id: int
    score: float
    line: int


@dataclass(frozen=True)
class MaskArrays:
    """All predictions of a scene: masks (N, K) bool, scores (K,) float64, label ids (K,) int64 or None."""

    masks: np.ndarray
    scores: np.ndarray
    label_ids: np.ndarray | None


def find_scenes(folder: Path) -> dict[str, Path]:
    """Return the prediction file of every scene in a folder, by scene id, sorted.

    raises  InputError when a scene has two files
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in _SUFFIXES or path.name == _PUBLIC_RESULT:  # what is no file fails when it is read
            continue
        if path.stem in found:
            raise InputError(f"scene {path.stem} has two files, {found[path.stem].name} and {path.name}", file=folder)
        found[path.stem] = path
    return dict(sorted(found.items()))


def find_truth(folder: Path) -> dict[str, Path]:
    """Return the ground-truth file of every scene, none where nothing is found.

    That is `<scene>.txt` in `gt/`, in `folder` or in the scene's own `gt/`; or ScanNet's `<scene>.aggregation.json`
    (`scannet_aggregation`), beside which a `<scene>.txt` says something else; or `<scene>.txt` in the scene's folder.
    """
    if folder.is_file():
        return {} if folder.suffix == ".ply" else {_scene_of_truth(folder): folder}
    for pattern in TRUTH_PATTERNS:
        files = [path for path in sorted(folder.glob(pattern.replace("<scene>", "*"))) if path.is_file()]
        if pattern == TRUTH_PATTERNS[-1]:
            files = [path for path in files if path.stem == path.parent.name]
        if files:  # in reverse, so that the annotation of the evaluated mesh precedes the one of the fine mesh
            return dict(sorted({_scene_of_truth(path): path for path in reversed(files)}.items()))
    return {}


def find_vertex_mask(folder: Path, scene: str) -> Path:
    """Return the ScanNet++ list of vertices of a scene that are not scored; raises InputError naming what was tried."""
    tried = (f"{scene}.txt", f"{scene}/scans/mesh_aligned_0.05_mask.txt")
    for name in tried:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"no vertex mask of scene {scene}; tried {' and '.join(tried)}", file=folder)


def _scene_of_truth(path: Path) -> str:
    return scannet_aggregation.scene_of(path) if path.name.endswith(scannet_aggregation.SUFFIX) else path.stem


def read_truth(path: Path) -> np.ndarray:
    """Read one id per vertex, label * 1000 + instance: (N,) int64."""
    return parse_integers(read_file(path), path)


def read_vertex_mask(path: Path, num_vertices: int) -> np.ndarray:
    """Read a ScanNet++ list of vertices that are not scored, one index a line, to (N,) bool.

    raises  FormatError for an index outside the scene
    """
    index = parse_integers(read_file(path), path)
    outside = np.flatnonzero((index < 0) | (index >= num_vertices))
    if outside.size:
        line = int(outside[0]) + 1
        raise FormatError(f"vertex {index[outside[0]]} of {num_vertices} vertices", file=path, line=line)
    masked = np.zeros(num_vertices, bool)
    masked[index] = True
    return masked


def looks_like_mask(path: Path) -> bool:
    """Tell whether a text file begins with a line of one integer, as a mask does; a list has three fields a line."""
    with open_file(path) as file:
        return re.fullmatch(rb"[0-9]+(\.0*)?\s*", file.readline(64)) is not None


def read_prediction_list(path: Path, folder: Path) -> list[ListedMask]:
    """Read `relative/mask.txt label_id confidence` lines in file order; the masks must exist, but are not read.

    folder  the prediction folder, which no mask path may leave
    raises  FormatError with the line at fault
    """
    try:
        text = read_file(path).decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError("not UTF-8 text", file=path) from None
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n") if text.strip("\r\n") else []
    base = PurePosixPath(path.parent.relative_to(folder).as_posix())
    inside = _Inside(folder)
    masks = []
    for number, line in enumerate(lines, 1):
        fields = line.split(" ")
        if len(fields) != 3:
            problem = f"found {len(fields)} fields separated by one space, expected mask path, label id, confidence"
            raise FormatError(problem, file=path, line=number)
        label_id = parse_integer(fields[1])
        if label_id is None:
            raise FormatError(f"found {fields[1]!r}, expected an integer label id", file=path, line=number)
        score = float(fields[2]) if _FLOAT.fullmatch(fields[2]) else math.nan
        if not math.isfinite(score):
            raise FormatError(f"confidence is {fields[2]!r}, expected a finite number", file=path, line=number)
        try:
            name = _normal_name(base, fields[0])
            mask_path = inside.file(name)
        except (FormatError, InputError) as error:
            place = "" if error.file is None else f" {error.file}"
            raise type(error)(f"mask{place}: {error.message}", file=path, line=number) from None
        masks.append(ListedMask(mask_path, name, label_id, score, number))
    return masks


def _normal_name(base: PurePosixPath, relative: str) -> str:
    """Resolve "." and ".." in a path below `base` without looking at the disk."""
    if relative.startswith("/"):
        raise FormatError(f"path {relative!r} is absolute, expected one relative to this file")
    parts: list[str] = []
    for part in (base / relative).parts:
        if part != "..":
            parts.append(part)
        elif not parts:
            raise FormatError(f"path {relative!r} leaves the prediction folder")
        else:
            parts.pop()
    return "/".join(parts)


class _Inside:
    """`resolve_inside` for many files of few folders: a plain file of a folder that was found inside is inside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: set[str] = set()

    def file(self, name: str) -> Path:
        path, parent = self.folder / name, name.rpartition("/")[0]
        try:
            is_plain = stat.S_ISREG(path.lstat().st_mode)
        except (OSError, ValueError):
            is_plain = False  # missing, or no name of a file: the error is told below
        if not is_plain or parent not in self._known:
            resolve_inside(self.folder, name)
            if is_plain:
                self._known.add(parent)
        return path


def read_mask(path: Path, num_vertices: int) -> np.ndarray:
    """Read a mask of one integer per vertex, or a run-length JSON object, to (N,) bool.

    raises  FormatError when it is for another number of vertices
    """
    data = read_file(path)
    if data[:64].lstrip()[:1] == b"{":
        return _run_length_mask(data, num_vertices, path)
    mask = parse_flags(data, path)
    if mask.size != num_vertices:
        raise FormatError(f"mask of {mask.size} vertices, expected {num_vertices} as in the ground truth", file=path)
    return mask


def _run_length_mask(data: bytes, num_vertices: int, path: Path) -> np.ndarray:
    try:
        rle = json.loads(data)
        length, counts = rle["length"], rle["counts"]
    except (ValueError, KeyError, RecursionError) as error:
        raise FormatError(f"no run-length JSON with length and counts: {error}", file=path) from None
    if type(length) not in (int, float) or length != num_vertices:
        raise FormatError(f"mask of {length} vertices, expected {num_vertices} as in the ground truth", file=path)
    if not isinstance(counts, str):
        raise FormatError(f"counts are {type(counts).__name__}, expected text", file=path)
    runs = parse_integers("\n".join(counts.split()).encode(), path).reshape(-1)
    starts, lengths = runs[0::2] - 1, runs[1::2]
    if runs.size % 2 or np.any(starts < 0) or np.any(lengths < 0) or np.any(lengths > num_vertices - starts):
        raise FormatError(f"runs do not fit {num_vertices} vertices", file=path, hint="starts count from 1")
    steps = np.zeros(num_vertices + 1, np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, starts + lengths, -1)
    return np.cumsum(steps[:-1]) > 0


def read_mask_arrays(path: Path, num_vertices: int) -> MaskArrays:
    """Read the `.npz` or `.safetensors` of one scene.

    raises  FormatError for pickled, missing, non-binary or mismatched arrays
    """
    arrays = read_arrays(path, ("pred_masks", "pred_scores", "pred_score", "pred_classes"))
    score_names = [name for name in ("pred_scores", "pred_score") if name in arrays]
    if "pred_masks" not in arrays or len(score_names) != 1:
        names = ", ".join(sorted(arrays)) or "nothing"
        raise FormatError(f"holds {names}, expected pred_masks, pred_scores and pred_classes", file=path)
    masks = _binary(arrays["pred_masks"], num_vertices, path)
    scores = _vector(arrays[score_names[0]], masks.shape[1], score_names[0], path).astype(np.float64)
    if not np.isfinite(scores).all():
        raise FormatError("scores hold NaN or infinity", file=path)
    if "pred_classes" not in arrays:
        return MaskArrays(masks, scores, None)
    classes = _vector(arrays["pred_classes"], masks.shape[1], "pred_classes", path)
    with np.errstate(invalid="ignore"):
        label_ids = classes.astype(np.int64)
    if not np.array_equal(label_ids, classes):
        raise FormatError("pred_classes hold numbers that are not integers", file=path)
    return MaskArrays(masks, scores, label_ids)


def _binary(masks: np.ndarray, num_vertices: int, path: Path) -> np.ndarray:
    if masks.ndim != 2 or masks.shape[0] != num_vertices:
        hint = "masks are vertices x predictions; transpose them" if masks.shape[-1:] == (num_vertices,) else None
        raise FormatError(
            f"pred_masks are {masks.shape}, expected ({num_vertices}, K) as in the ground truth", file=path, hint=hint
        )
    if masks.dtype == bool:
        if masks.size and masks.view(np.uint8).max() > 1:  # numpy counts such a byte more than once
            raise FormatError("pred_masks hold bytes that are no booleans", file=path)
        return masks
    inside = masks != 0
    if masks.dtype.kind not in "iuf" or not np.array_equal(masks[inside], np.ones(inside.sum(), masks.dtype)):
        raise FormatError("pred_masks hold values other than 0 and 1", file=path)
    return inside


def _vector(values: np.ndarray, size: int, name: str, path: Path) -> np.ndarray:
    if values.shape != (size,) or values.dtype.kind not in "iufb":
        problem = f"{name} are {values.shape} {values.dtype}, expected ({size},) numbers"
        raise FormatError(problem, file=path)
    return values


def write_truth(path: Path, ids: np.ndarray) -> None:
    """Write (N,) ids, label * 1000 + instance, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(b"%d" % number for number in ids.tolist()) + b"\n" * (ids.size > 0))


def write_prediction(
    folder: Path, scene: str, masks: Iterable[np.ndarray], label_ids: Iterable[int], scores: Iterable[float]
) -> Path:
    """Write the masks of a scene as the ScanNet benchmark takes them; the list is written last.

    folder     gets `<scene>.txt` and `<scene>_masks/NNNN.txt`
    masks      (N,) bool each, one in memory at a time if they come from a generator
    label_ids  benchmark ids
    returns    the path of the list
    """
    subfolder = folder / f"{scene}_masks"
    subfolder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (mask, label_id, score) in enumerate(zip(masks, label_ids, scores, strict=True)):
        path = subfolder / f"{number:04d}.txt"
        digits = np.full((mask.size, 2), ord("\n"), np.uint8)
        digits[:, 0] = mask.astype(bool) + np.uint8(ord("0"))
        _replace(path, digits.tobytes())
        lines.append(f"{subfolder.name}/{path.name} {int(label_id)} {float(score)!r}\n")
    listing = folder / f"{scene}.txt"
    _replace(listing, "".join(lines).encode())
    number = len(lines)
    while (path := subfolder / f"{number:04d}.txt").exists():  # of an earlier run that found more
        path.unlink()
        number += 1
    return listing


def _replace(path: Path, data: bytes) -> None:
    """Write a file under a name of its own until it is whole; the next run removes that of a killed one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
