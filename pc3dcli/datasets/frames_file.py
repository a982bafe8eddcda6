# SPDX-License-Identifier: Apache-2.0
"""A plain list of frames of our own: a .ndjson file of `frame` records, file names relative to its folder.

Any producer can write it: one JSON object a line, fields as in pc3d-stream(5).  A whole record stream is accepted
too; of it only `frame` records and the scene's `points` and `up` are used.  One file is one scene.
"""

from __future__ import annotations

import json
from pathlib import Path

from pc3dcli.datasets.frame_files import LOST, require_frames
from pc3dcli.datasets.scene import Frame, OpenOptions, Scene, frame_from_record
from pc3dcli.errors import FormatError
from pc3dcli.formats.paths import resolve_inside
from pc3dcli.formats.poses import text_lines

PATTERN = "frames.ndjson, one frame record a line"
NAME = "frames.ndjson"
MAX_LIST_BYTES = 256 << 20  # ours: about 500,000 frames
_UPS = tuple(sign + axis for axis in "xyz" for sign in ("", "-"))


def matches(path: Path) -> bool:
    """Say whether `path` is an .ndjson file or a folder with a frames.ndjson."""
    return path.suffix == ".ndjson" and path.is_file() or (path / NAME).is_file()


def open_scene(scene: str, path: Path, options: OpenOptions) -> Scene:
    """Read the records of one file; see SceneRef.open.  Frames keep the order of the file."""
    file = path if path.is_file() else path / NAME
    frames: list[Frame] = []
    skipped, names, points, up = [], set(), None, "z"
    for number, line in text_lines(file, MAX_LIST_BYTES):
        record = _parse(line, file, number)
        if record.get("type") == "scene":
            points, up = _scene_fields(record, file, number)
        if record.get("type", "frame") != "frame":
            continue
        frame = _frame(record, options, file, number)
        if isinstance(frame, str):
            skipped.append((str(record.get("frame")), frame))
            continue
        if frame.frame in names:
            raise FormatError(f"found frame {frame.frame!r} twice; one file is one scene", file=file, line=number)
        names.add(frame.frame)
        frames.append(frame)
    require_frames(frames, skipped, file)
    if points is not None:
        resolve_inside(file.parent, points)
    return Scene(scene, file.parent, "frames", tuple(frames), points, up, tuple(skipped))


def _parse(line: str, file: Path, number: int) -> dict:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        message, column = f"not JSON: {getattr(error, 'msg', error)}"[:120], getattr(error, "colno", None)
        raise FormatError(message, file=file, line=number, column=column) from None
    if not isinstance(record, dict):
        raise FormatError("expected a JSON object", file=file, line=number)
    return record


def _frame(record: dict, options: OpenOptions, file: Path, number: int) -> Frame | str:
    """Return the frame, or why it is skipped."""
    rows = record.get("world_from_cam")
    values = [value for row in rows if isinstance(row, list) for value in row] if isinstance(rows, list) else []
    if any(value is None or (isinstance(value, float) and not abs(value) < float("inf")) for value in values):
        return LOST
    if options.depth_scale:
        record = {**record, "depth_scale": options.depth_scale}
    try:
        return frame_from_record(record)
    except FormatError as error:
        if options.skip_bad_poses and "world_from_cam" in str(error):
            return error.message
        raise FormatError(error.message, file=file, line=number, hint=error.hint) from None


def _scene_fields(record: dict, file: Path, number: int) -> tuple[str | None, str]:
    points, up = record.get("points"), record.get("up", "z")
    if points is not None and not (isinstance(points, str) and points and points.isprintable()):
        raise FormatError('"points" is not the name of a file', file=file, line=number)
    if up not in _UPS:
        raise FormatError(f'"up" is {str(up)[:20]!r}, expected one of {" ".join(_UPS)}', file=file, line=number)
    return points, up
