# SPDX-License-Identifier: Apache-2.0
"""`patch_score` records: what `pc3d mask-score` writes, and what `pretrain --mask-scores` and `view` read of it.

Numbers of patches stand in the record itself, as `{"dtype": "F32", "shape": [64], "data": [...]}`; of the heat of every
point, what is too long for a line goes to a side file (pc3d-stream(5)).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.tensors import read_tensor

if TYPE_CHECKING:
    from pc3dcli.datasets.shape import ShapeSet
    from pc3dcli.papers.geomask3d.scoring import StoredScores
    from pc3dcli.stream.reader import Line

INLINE_BYTES = 64 << 10  # of the numbers as text, above which a tensor goes to a side file
INLINE_NUMBER = 12  # bytes that a number of six digits takes at most, with its comma


@dataclass(frozen=True)
class ScoredPatches:
    """The patches of one shape.

    center      (G, 3) float32 in the coordinates of the file
    score       (G,) float32, higher = harder
    offset      (3,) float64 and scale: (xyz - offset) * scale is what the network saw
    difficulty  (G,) float32 measured, NaN where a patch was never decoded; None if it was not asked for
    spearman, difficulty_ratio  agreement of both, None without
    """

    center: np.ndarray
    score: np.ndarray
    offset: np.ndarray
    scale: float
    difficulty: np.ndarray | None = None
    spearman: float | None = None
    difficulty_ratio: float | None = None

    @property
    def rank(self) -> np.ndarray:
        """Return (G,) int64 ranks from 1, the highest score; equal scores in the order of patches."""
        rank = np.empty(len(self.score), np.int64)
        rank[np.argsort(-self.score, kind="stable")] = np.arange(1, len(rank) + 1)
        return rank

    def record(self, scene: str, view: str) -> dict:
        """Return the `patch_score` record."""
        record = {
            "type": "patch_score",
            "scene": scene,
            "tensor": inline_tensor(self.score),
            "patches": len(self.score),
            "mean": float(self.score.mean()),
            "view": view,
            "center": self.center.tolist(),
            "rank": self.rank.tolist(),
            "offset": self.offset.tolist(),
            "scale": float(self.scale),
        }
        if self.difficulty is not None:
            known = np.isfinite(self.difficulty)
            record["difficulty"] = [float(v) if k else None for v, k in zip(self.difficulty, known, strict=True)]
            record |= {"spearman": self.spearman, "difficulty_ratio": self.difficulty_ratio}
        return record


def inline_tensor(values: np.ndarray) -> dict:
    """Return values (n,) float32 as a tensor that stands in its record."""
    return {"name": "patch_score", "dtype": "F32", "shape": list(values.shape), "data": values.tolist()}


def fits_inline(count: int) -> bool:
    """Tell whether `count` numbers may stand in a record."""
    return count * INLINE_NUMBER <= INLINE_BYTES


def parse_patch_score(record: dict, file: str) -> ScoredPatches:
    """Return the patches of a `patch_score` record; raises FormatError for one that mask-score did not write."""
    try:
        score = read_tensor(record["tensor"], ()).astype(np.float32)
        center = np.asarray(record["center"], np.float32)
        offset, scale = np.asarray(record["offset"], np.float64), float(record["scale"])
    except (FormatError, KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else getattr(error, "message", str(error))
        raise FormatError(f"patch_score of {record['scene']} is not of pc3d mask-score: {reason}", file=file) from None
    shapes = score.shape, center.shape, offset.shape
    if score.ndim != 1 or not len(score) or shapes != ((len(score),), (len(score), 3), (3,)):
        raise FormatError(f"patch_score of {record['scene']} has {shapes}, expected (G,), (G, 3), (3,)", file=file)
    if not (np.isfinite(score).all() and np.isfinite(center).all() and np.isfinite(offset).all() and 0 < scale < 1e30):
        message = f"patch_score of {record['scene']} has numbers that are not finite, or a scale that is not positive"
        raise FormatError(message, file=file)
    return ScoredPatches(center, score, offset, scale)


def read_patch_scores(path: Path, shapes: ShapeSet) -> StoredScores:
    """Read the scores of shapes, in their order; others in the file are left out.

    path    stream or --out folder of pc3d mask-score
    raises  InputError when a shape has none, FormatError for damaged records, scores of other points than those of the
            shape, and shapes of different patch counts
    """
    import torch

    from pc3dcli.commands.inputs import stream_scenes
    from pc3dcli.papers.geomask3d.scoring import StoredScores

    if not Path(path).exists():
        raise InputError("no such file of scores", file=path, hint="pc3d mask-score SHAPES --weights W --out FILE")
    place = {name: index for index, name in enumerate(shapes.names)}
    found: dict[int, ScoredPatches] = {}
    for scene in stream_scenes([str(path)], _scores_of(place)):
        for record in scene.kept if scene.ok else ():
            found[place[scene.id]] = parse_patch_score(record, str(path))
            _check_points(shapes, place[scene.id], scene.scene.get("xyz_sha256"), path)
    missing = next((name for name in shapes.names if place[name] not in found), None)
    if missing is not None:
        message = f"holds scores of {len(found)} of {len(shapes)} shapes, none of {missing}"
        raise InputError(message, file=path, hint="pc3d mask-score on the same shapes and --split")
    counts = {len(patches.score) for patches in found.values()}
    if len(counts) > 1 or min(counts) < 3:
        raise FormatError(f"its shapes have {sorted(counts)} patches, expected one number, 3 or more", file=path)
    ordered = [found[index] for index in range(len(shapes))]
    seen = [(patches.center - patches.offset) * patches.scale for patches in ordered]
    scores = np.stack([patches.score for patches in ordered])
    return StoredScores(torch.from_numpy(np.stack(seen).astype(np.float32)), torch.from_numpy(scores))


def _check_points(shapes: ShapeSet, index: int, expected: str | None, path: Path) -> None:
    """Raise FormatError for scores of another cloud than that of the shape."""
    from pc3dcli.formats.cloud import xyz_sha256

    if expected != xyz_sha256(shapes.read(index).xyz):
        message = f"its scores of {shapes.names[index]} are of other points (xyz_sha256 differs)"
        raise FormatError(message, file=path, hint="pc3d mask-score on the same shapes")


def _scores_of(wanted: dict[str, int]) -> Any:
    def keep(line: Line) -> dict | None:
        return line.record if line.type == "patch_score" and line.record["scene"] in wanted else None

    return keep
