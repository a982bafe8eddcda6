# SPDX-License-Identifier: Apache-2.0
"""Masks of video as folders of one label PNG a frame: DAVIS, instances of ScanNet frames, and any <video>/*.png.

A value is an id, 0 is background.  In 8-bit images 255 is no ordinary id: a video whose only value it is has one object
(DAVIS 2016), and in ground truth with other values it is void (DAVIS 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.images import read_label_image

VOID = 255  # in 8-bit images
_LAYOUTS = ("480p/*", "*/instance", "*/instance-filt", "instance", "instance-filt", "*", "")
_BITS_AT = 24  # byte of a PNG that holds the bits of a channel


@dataclass(frozen=True)
class MaskVideo:
    """The label images of one video by frame name, in order of time."""

    name: str
    frames: dict[str, Path]

    @cached_property
    def is_binary(self) -> bool:
        """Tell whether 255 is the only id, in 8 bits; the frames are read until another is found."""
        seen_any = False
        for path in self.frames.values():
            labels = read_label_image(path)
            is_mask = labels != 0
            if np.any(labels[is_mask] != VOID) or not _is_8_bit(path):
                return False
            seen_any |= bool(is_mask.any())
        return seen_any

    def read(self, frame: str) -> np.ndarray:
        """Return the (H, W) int32 ids of a frame; raises FormatError and InputError naming the file."""
        labels = read_label_image(self.frames[frame])
        return np.minimum(labels, 1) if self.is_binary else labels

    def read_truth(self, frame: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the (H, W) int32 ids of a frame without the void ones, and where those are, (H, W) bool."""
        labels = self.read(frame)
        is_void = np.zeros(labels.shape, bool)
        if not self.is_binary and _is_8_bit(self.frames[frame]):
            is_void = labels == VOID
            labels[is_void] = 0
        return labels, is_void


def _is_8_bit(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_BITS_AT + 1)[_BITS_AT] <= 8


def find_videos(folder: Path, annotations: tuple[str, ...] = ("Annotations",)) -> dict[str, MaskVideo]:
    """Return the videos of a data set or of a folder of results, by name, sorted.

    annotations  the parts of a data set that hold masks, looked at in turn before the folder itself
    raises       InputError naming the patterns tried when there is none, FormatError for two files of one frame
    """
    if not folder.is_dir():
        problem = "no such file or folder" if not folder.exists() else "expected a folder of <video>/*.png"
        raise InputError(problem, file=folder)
    layouts = [f"{part}{size}/*" for part in annotations for size in ("/480p", "")] + list(_LAYOUTS)
    for layout in layouts:
        videos: dict[str, dict[str, Path]] = {}
        place = layout.split("/").index("*") if "*" in layout else None
        for path in folder.glob(f"{layout}/*.png" if layout else "*.png"):
            name = folder.resolve().name if place is None else path.relative_to(folder).parts[place]
            if not name.startswith(".") and not path.name.startswith("."):
                videos.setdefault(name, {})[path.stem] = path
        if videos:
            return {name: MaskVideo(name, _in_time(videos[name])) for name in sorted(videos)}
    tried = ", ".join(f"{layout}/*.png" if layout else "*.png" for layout in layouts)
    raise InputError(f"no masks; tried {tried}", file=folder)


def _in_time(frames: dict[str, Path]) -> dict[str, Path]:
    """Sort frames by number where all names are numbers, since ScanNet's have no leading zeros."""
    if all(name.isdecimal() for name in frames):
        return {name: frames[name] for name in sorted(frames, key=lambda name: (int(name), name))}
    return dict(sorted(frames.items()))


def split_videos(split: str, folder: Path) -> list[str]:
    """Return the videos that a file names one a line, or a split of DAVIS by name (ImageSets/2017/val.txt).

    raises  InputError when there is neither, FormatError for a file without names
    """
    tried = [Path(split), *(folder / "ImageSets" / year / f"{split}.txt" for year in ("2017", "2019", "2016", "480p"))]
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        raise InputError(f"no split {split!r}; tried {', '.join(str(path) for path in tried[:2])}", file=folder)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list: {error}", file=path) from None
    names = sorted({line.strip() for line in lines if line.strip()})
    if not names:
        raise FormatError("names no video", file=path)
    return names
