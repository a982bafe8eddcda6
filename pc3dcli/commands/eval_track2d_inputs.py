# SPDX-License-Identifier: Apache-2.0
"""Where `eval --task track2d` takes masks from: a record stream (`frame`, `mask2d`) or folders of label images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pc3dcli.commands.evaluation import Entries
from pc3dcli.commands.inputs import holds_stream, stream_entry, stream_scenes
from pc3dcli.errors import FormatError, UsageError
from pc3dcli.formats.mask_videos import MaskVideo, find_videos
from pc3dcli.formats.result_json import file_sha256
from pc3dcli.metrics.track_matches import FrameOverlaps, label_overlaps, mask_overlaps
from pc3dcli.stream.reader import Line, SceneRecords
from pc3dcli.stream.records import is_track_id

MAX_DAVIS_ID = 254  # of 8-bit images, where 255 is void


@dataclass(frozen=True)
class FrameMasks:
    """Predicted masks of one frame: a label image, or masks by track, which may overlap."""

    labels: np.ndarray | None = None
    masks: dict[int, np.ndarray] | None = None

    def overlaps(self, truth: np.ndarray) -> FrameOverlaps:
        """Compare with a (H, W) label image."""
        return mask_overlaps(truth, self.masks) if self.labels is None else label_overlaps(truth, self.labels)

    def by_id(self, ids: Sequence[int]) -> dict[int, np.ndarray]:
        """Return the (H, W) bool masks of some ids."""
        if self.labels is None:
            return {number: self.masks[number] for number in ids if number in self.masks}
        return {number: self.labels == number for number in ids}


class FolderVideo:
    """Predictions of a video as label images; nothing in them scores a track, each counts 1."""

    is_ok = True
    programs: tuple[dict, ...] = ()

    def __init__(self, video: MaskVideo, root: Path) -> None:
        self.name, self._video, self._root = video.name, video, root
        self.frames = list(video.frames)
        self._largest = 0

    def read(self, frame: str, is_void: np.ndarray) -> FrameMasks:
        """Return the masks of a frame but for void pixels; raises FormatError when it is of another size."""
        labels = self._video.read(frame)
        _check_size(labels.shape, is_void.shape, self._video.frames[frame], None)
        self._largest = max(self._largest, int(labels.max()))
        labels[is_void] = 0
        return FrameMasks(labels=labels)

    def scores(self) -> dict[int, float]:
        """Return nothing: label images have no scores."""
        return {}

    def num_proposals(self, num_tracks: int) -> int:
        """Return how many proposals the public scorer sees: every id up to the largest."""
        return self._largest if self._largest <= MAX_DAVIS_ID else num_tracks

    def entries(self) -> Entries:
        """Return what was read, for the digest."""
        files = self._video.frames.values()
        return [(path.relative_to(self._root).as_posix(), file_sha256(path)) for path in files]


class StreamVideo:
    """The `frame` and `mask2d` records of a scene."""

    def __init__(self, found: SceneRecords) -> None:
        self.name, self.is_ok, self.programs, self._source = found.id, found.ok, found.programs, found.source
        self._lines = found.kept
        self._masks: dict[str, list[Line]] = {}
        for line in found.kept:
            lines = self._masks.setdefault(line.record["frame"], [])
            if line.type == "mask2d":
                lines.append(line)
        self.frames = list(self._masks)

    def read(self, frame: str, is_void: np.ndarray) -> FrameMasks:
        """Decode the masks of a frame but for void pixels; raises FormatError naming the line at fault."""
        from pc3dcli.formats.coco_rle import decode_mask

        masks: dict[int, np.ndarray] = {}
        for line in self._masks[frame]:
            track = line.record["track"]
            if not is_track_id(track) or track in masks:
                problem = f"track is {track!r}, expected a whole number that no other mask of the frame has"
                raise FormatError(problem, file=self._source, line=line.number)
            try:
                mask = decode_mask(line.record["rle"])
            except FormatError as error:
                raise FormatError(error.message, file=self._source, line=line.number) from None
            _check_size(mask.shape, is_void.shape, self._source, line.number)
            masks[track] = mask & ~is_void
        return FrameMasks(masks=masks)

    def scores(self) -> dict[int, float]:
        """Return the mean score of the masks of each track that has one; raises FormatError for no finite number."""
        found: dict[int, list[float]] = {}
        for lines in self._masks.values():
            for line in lines:
                score = line.record.get("score")
                if score is None:
                    continue
                if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                    problem = f"score is {score!r}, expected a finite number"
                    hint = "pass --scores uniform"
                    raise FormatError(problem, file=self._source, line=line.number, hint=hint)
                found.setdefault(line.record["track"], []).append(score)
        return {track: math.fsum(scores) / len(scores) for track, scores in found.items()}

    def num_proposals(self, num_tracks: int) -> int:
        """Return how many proposals the public scorer would see: the tracks."""
        return num_tracks

    def entries(self) -> Entries:
        """Return what was read, for the digest."""
        return [stream_entry(self.name, self._lines)]


def _check_size(found: tuple[int, ...], expected: tuple[int, ...], file: Path | str, line: int | None) -> None:
    if found != expected:
        problem = f"mask is {found[1]} x {found[0]}, its ground truth {expected[1]} x {expected[0]}"
        raise FormatError(problem, file=file, line=line)


def folder_videos(sources: list[str], annotations: tuple[str, ...]) -> dict[str, FolderVideo] | None:
    """Return the videos of a folder of label images, None when `sources` are streams.

    raises  UsageError for such a folder beside others, InputError for a folder without masks
    """
    others = [source for source in sources if not holds_stream(source)]
    if not others:
        return None
    if len(sources) > 1:
        raise UsageError(f"{others[0]} is no stream: expected streams, or one folder of <video>/*.png")
    root = Path(others[0])
    return {name: FolderVideo(video, root) for name, video in find_videos(root, annotations).items()}


def stream_videos(sources: list[str], *, allow_truncated: bool) -> Iterator[StreamVideo]:
    """Yield the scenes of streams, one in memory at a time."""
    for found in stream_scenes(sources, lambda line: line, store=_Masks, allow_truncated=allow_truncated):
        if found.scene is not None:
            yield StreamVideo(found)


class _Masks(list):
    """The `frame` and `mask2d` lines of a scene."""

    def append(self, line: Line) -> None:
        if line.type in ("frame", "mask2d"):
            super().append(line)
