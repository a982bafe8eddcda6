# SPDX-License-Identifier: Apache-2.0
"""The records of the stream: their names, required fields and text form (cli.md section 3, pc3d-stream(5)).

A record is a plain dict, so that unknown fields of a newer producer travel on.  Nothing here needs numpy.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

FORMAT = "pc3d"
VERSION = "1.0"
MAX_LINE_BYTES = 1 << 20

REQUIRED: dict[str, tuple[str, ...]] = {
    "header": ("format", "version"),
    "program": ("id", "program", "version", "argv", "parents"),
    "scene": ("scene", "root"),
    "frame": ("scene", "frame"),
    "mask2d": ("scene", "frame", "track", "rle"),
    "detection2d": ("scene", "frame", "rle"),
    "patch_score": ("scene", "tensor"),
    "point3d": ("scene", "center", "label"),
    "instance3d": ("scene", "instance", "rle"),
    "box3d": ("scene", "center", "size", "yaw", "label"),
    "labels3d": ("scene", "tensor"),
    "metric": ("name", "value"),
    "step": ("step", "loss"),
    "error": ("code", "message"),
    "scene_end": ("scene", "ok"),
    "end": ("scenes", "failed"),
}
# records that stand outside scenes as well as inside
FREE_TYPES = frozenset({"program", "metric", "step", "error"})

TRACK_LIMIT = 1 << 20  # track ids are below; ours, votes for points are sorted by it
MAX_ID_PART = 200  # letters between slashes: file names of 255 are the most, and suffixes come on top
_SCENE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_DIGITS = {"K": 9, "depth_K": 9, "world_from_cam": 9, "world_from_points": 9, "time_s": 17}  # six elsewhere


def header() -> dict:
    return {"type": "header", "format": FORMAT, "version": VERSION}


def is_scene_id(text: object) -> bool:
    """Tell whether `text` can name a scene: no spaces, and no way out of the output folder through ".."."""
    return (
        isinstance(text, str)
        and len(text) < 512
        and _SCENE_ID.fullmatch(text) is not None
        and not any(part in ("", ".", "..") or len(part) > MAX_ID_PART for part in text.split("/"))
    )


def is_track_id(value: object) -> bool:
    """Tell whether a parsed value can be the `track` of a mask."""
    return type(value) is int and 0 <= value < TRACK_LIMIT


def dump_record(record: dict) -> str:
    """Return the one-line text of a record, without the newline.

    Floats keep six significant digits, poses and intrinsics nine, times all: seconds since 1970 have ten before the
    point.  A value that is not finite is an error.

    raises  ValueError for NaN or infinity, or when the line would reach 1 MiB
    """
    rounded = {name: _round(value, _DIGITS.get(name, 6)) for name, value in record.items()}
    line = json.dumps(rounded, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    if not line.isascii() and any("\ud800" <= letter <= "\udfff" for letter in line):
        line = json.dumps(rounded, allow_nan=False, separators=(",", ":"))  # a file name that is not UTF-8
    if len(line) * 4 >= MAX_LINE_BYTES and len(line.encode()) >= MAX_LINE_BYTES:
        raise ValueError(f"a {record.get('type')} record of {len(line)} characters does not fit a line of 1 MiB")
    return line


def _round(value: Any, digits: int) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be written to a stream")
        return float(f"{value:.{digits}g}")
    if isinstance(value, list | tuple):
        return [_round(item, digits) for item in value]
    if isinstance(value, dict):
        return {name: _round(item, digits) for name, item in value.items()}
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return _round(value.tolist(), digits)
    return value


def check_record(record: object) -> str | None:
    """Say what is wrong with the form of a parsed record, or None."""
    if not isinstance(record, dict):
        return f"expected a JSON object, found {type(record).__name__}"
    kind = record.get("type")
    if not isinstance(kind, str):
        return 'record lacks "type"'
    missing = next((name for name in REQUIRED.get(kind, ()) if name not in record), None)
    if missing:
        return f'{kind} lacks "{missing}"'
    if kind == "frame" and not ("points" in record or ("image" in record and "size" in record)):
        return 'frame lacks "image" and "size", or "points"'
    if "scene" in REQUIRED.get(kind, ()) and not is_scene_id(record["scene"]):
        return f"scene id {record['scene']!r} is too long or not of the form [A-Za-z0-9][A-Za-z0-9._/-]*"
    if kind == "program":
        return _check_program(record)
    if kind == "scene" and not _is_path(record["root"]):
        return "scene root is not the name of a folder"
    if kind == "scene_end" and not isinstance(record["ok"], bool):
        return "scene_end ok is neither true nor false"
    if kind in ("frame", "mask2d", "detection2d") and not isinstance(record["frame"], str):
        return f"{kind} frame is not text"
    return None


def _is_path(text: object) -> bool:
    """Tell whether the file system could know a name; bytes that are not UTF-8 are lone surrogates, as in Python."""
    if not isinstance(text, str) or "\0" in text:
        return False
    return text.isascii() or not any("\ud800" <= c < "\udc80" or "\udcff" < c <= "\udfff" for c in text)


def _check_program(record: dict) -> str | None:
    if not isinstance(record["id"], str) or not isinstance(record["program"], str):
        return "program id and name must be text"
    parents = record["parents"]
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        return "program parents must be a list of ids"
    return None
