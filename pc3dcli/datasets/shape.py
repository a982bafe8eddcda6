# SPDX-License-Identifier: Apache-2.0
"""One object cloud and a list of them, whatever layout they came in.

A shape is read when asked for and checked then: finite coordinates, more than one place.  Names serve as scene ids of
the stream, so they are made of its letters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError, InputError

SPLITS = ("train", "val", "test", "trainval", "all")
Y_UP = frozenset({"shapenet55", "shapenetpart", "modelnet40", "modelnet-h5", "scanobjectnn"})  # else z is up
MAX_COORDINATE = 1e15  # squares of distances must fit float32; ours
MAX_STEP = 1e-3  # of float32 at the farthest point, relative to the extent of a cloud; ours
MAX_NAME_PART = 200  # letters between slashes, as of scene ids
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._/-]+")


@dataclass(frozen=True)
class Shape:
    """One object.

    xyz    (n, 3) float32 in file order
    label  class id into ShapeSet.class_names, the category where shapes have parts; None without classes
    part   (n,) int64 into ShapeSet.part_names, None without parts
    """

    xyz: np.ndarray
    label: int | None = None
    part: np.ndarray | None = None


@dataclass(frozen=True)
class ShapeSet:
    """The shapes of one split, in the order of their names or of their file.

    layout       name of the layout, a key of shape_set.LAYOUTS
    root         file or folder that was opened; `split` what was asked of it
    names        one a shape, different from each other, fit to be scene ids
    class_names  of the whole data set, also those that this split lacks; () without classes
    label        (N,) int64 into class_names, None without classes
    load         reads the shape of an index, unchecked; deterministic
    part_names   () without parts
    is_raw       the published protocols of this layout do not normalise its clouds
    files        of many shapes each that were read, () where each shape has its own
    """

    layout: str
    root: Path
    split: str
    names: tuple[str, ...]
    class_names: tuple[str, ...]
    label: np.ndarray | None
    load: Callable[[int], Shape]
    part_names: tuple[str, ...] = ()
    is_raw: bool = False
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def up(self) -> str:
        """The axis that is up in pictures, "y" or "z"."""
        return "y" if self.layout in Y_UP else "z"

    @property
    def source(self) -> str:
        """Say how many shapes there are, and in which files where those are many."""
        files = f" of {', '.join(file.name for file in self.files)}" if len(self.files) > 1 else ""
        return f"{len(self):,} shapes{files}"

    def normalization(self, usual: str) -> str:
        """Return how clouds are normalised: as is `usual`, or "none" where the published protocols do not."""
        return "none" if self.is_raw else usual

    def read(self, index: int) -> Shape:
        """Return the shape of an index; raises FormatError or InputError for one that cannot be used."""
        shape = self.load(int(index))
        check_points(shape.xyz, self.root, self.names[index])
        return shape

    def select(self, indices: Sequence[int] | np.ndarray) -> ShapeSet:
        """Return a set of some of the shapes, in the order of `indices`."""
        chosen = np.asarray(indices, np.int64)
        label = None if self.label is None else self.label[chosen]
        names, load = tuple(self.names[index] for index in chosen), self.load
        return replace(self, names=names, label=label, load=lambda index: load(int(chosen[index])))

    def find(self, names: Iterable[str]) -> np.ndarray:
        """Return the indices (K,) int64 of shapes by name; raises InputError naming the first that is missing."""
        index_of = {name: index for index, name in enumerate(self.names)}
        wanted = [str(name) for name in names]
        missing = next((name for name in wanted if name not in index_of), None)
        if missing is not None:
            raise InputError(f"no shape {missing!r} in its split {self.split}", file=self.root)
        return np.array([index_of[name] for name in wanted], np.int64)


def check_points(xyz: np.ndarray, file: Path, name: str) -> None:
    """Refuse points (n, 3) float32 that no network can use.

    raises  FormatError that names the shape: without points, not finite, huge, all in one place or too far from the
            origin for the digits of float32
    """
    if not len(xyz):
        raise FormatError(f"shape {name} has no points", file=file)
    if not np.isfinite(xyz).all():
        place = int(np.argmin(np.isfinite(xyz).all(axis=1)))
        raise FormatError(f"shape {name}: point {place} is not finite as float32", file=file)
    farthest, extent = np.abs(xyz).max(), np.ptp(xyz, axis=0).max()
    if farthest > MAX_COORDINATE:
        message = f"shape {name} has coordinates up to {farthest:.3g}, expected at most {MAX_COORDINATE:.0e}"
        raise FormatError(message, file=file)
    if len(xyz) > 1 and extent == 0:
        raise FormatError(f"shape {name}: all {len(xyz)} points are equal as float32", file=file)
    if np.spacing(farthest) > MAX_STEP * extent:
        message = f"shape {name} is {extent:.3g} wide and {farthest:.3g} from the origin: float32 keeps too few digits"
        raise FormatError(message, file=file, hint="subtract an offset from its coordinates")


def as_float32(values: np.ndarray) -> np.ndarray:
    """Return values as float32; what it cannot hold becomes infinite, which `check_points` refuses."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(values, np.float32)


def shape_names(found: Sequence[str], file: Path) -> tuple[str, ...]:
    """Return names fit to be scene ids: other letters become "_"; raises FormatError for two that are then equal."""
    names = tuple(_name(text) for text in found)
    if len(set(names)) < len(names):
        seen: dict[str, str] = {}
        for name, text in zip(names, found, strict=True):
            if name in seen:
                raise FormatError(
                    f"two shapes would be named {name!r}: those of {seen[name]!r} and {text!r}", file=file
                )
            seen[name] = text
    return names


def _name(text: str) -> str:
    parts = [part[:MAX_NAME_PART] for part in _NOT_IN_NAMES.sub("_", text).split("/") if part not in ("", ".", "..")]
    name = "/".join(parts) or "_"
    return name if name[0].isalnum() else f"x{name}"


def need_shapes(names: Sequence, file: Path, split: str, pattern: str) -> None:
    """Raise InputError when a split has no shapes; `pattern` says what was looked for."""
    if not len(names):
        raise InputError(f"no shapes of split {split}", file=file, hint=f"tried {pattern}")
