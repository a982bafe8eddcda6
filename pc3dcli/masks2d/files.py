# SPDX-License-Identifier: Apache-2.0
"""Masks that any other tool has written, looked up by frame: label images, or COCO run lengths in JSON.

- a folder of label PNGs, one a frame: grey values of 8 or 16 bits, or palette indices, 0 for none;
- a folder of JSON files, one a frame, as segment-anything writes them: {"annotations": [...]};
- one COCO file, {"images": [...], "annotations": [...]}, or a plain list of annotations or results;
- one NDJSON file: `mask2d` records of pc3d itself, or COCO annotations, one a line.

A file or an image name belongs to a frame when its stem is the frame's id, the stem or the name of the frame's image
(frame-000000 for frame-000000.color.jpg, too), or, for stems of digits, the same number.  Names inside a file are only
compared and never opened.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.coco_rle import decode_mask
from pc3dcli.formats.images import image_size, read_bytes, read_label_image
from pc3dcli.formats.paths import resolve_inside
from pc3dcli.masks2d.mask2d import Mask2d
from pc3dcli.masks2d.quality import mask_quality


@dataclass(frozen=True)
class _Entry:
    """One mask of a JSON file, not decoded yet."""

    rle: dict
    score: float | None
    quality: tuple[float, float] | None  # predicted_iou, stability_score
    file: Path
    line: int | None


class MaskFiles:
    """Masks out of a folder or a file."""

    def __init__(self, path: Path, scene: str | None = None) -> None:
        """Find out which frames have masks; JSON files are read now, label images when they are asked for.

        path    folder or .json, .ndjson, .jsonl file; a folder may hold a folder or file a scene
        scene   scene whose masks are wanted; needed where `path` holds several
        raises  InputError when there is nothing to read, FormatError for a malformed file
        """
        self._path = _of_scene(Path(path), scene)
        self._files: dict[str, str] = {}  # stem to file name, of a folder
        self._entries: dict[str, list[_Entry]] = {}
        if self._path.is_dir():
            self._files = _list_folder(self._path)
        elif self._path.suffix in (".ndjson", ".jsonl"):
            self._entries = _read_lines(self._path, scene)
        else:
            self._entries = _read_coco(self._path)
        names = self._files or self._entries
        if not names:
            hint = "expected <frame>.png, <frame>.json or COCO JSON, of several scenes in a folder <scene>/ each"
            raise InputError("found no masks", file=self._path, hint=hint)
        self._by_number = _by_number(names)

    def masks(self, view) -> list[Mask2d]:
        """Return the masks of a frame, in file order, or by ascending label for a label image; empty ones left out.

        view     has `frame` with its `frame` id and `image` name, and `size` (H, W)
        returns  score: the file's own, or predicted_iou * stability * (1 - edge_touch) where it has these, else 1
        raises   InputError for a frame without masks, FormatError for a damaged file or a mask of another size
        """
        name = self._find(view.frame)
        if name is None:
            raise InputError(f"no masks for frame {view.frame.frame!r}", file=self._path)
        if name in self._entries:
            return _decode_entries(self._entries[name], view.size)
        file = resolve_inside(self._path, self._files[name])
        if file.suffix == ".json":
            entries = _read_coco(file)
            return _decode_entries([entry for found in entries.values() for entry in found], view.size)
        return _decode_labels(file, view.size)

    def _find(self, frame) -> str | None:
        """Return the name under which a frame's masks are known."""
        names = self._files or self._entries
        image = PurePosixPath(frame.image or "")
        known_as = (frame.frame, image.stem, image.stem.removesuffix(".color"), image.name)
        wanted = [name for name in known_as if name in names]
        if wanted:
            return wanted[0]
        return self._by_number.get(int(frame.frame)) if _is_number(frame.frame) else None


def _of_scene(path: Path, scene: str | None) -> Path:
    """Return the folder or file of a scene: `path`, or what it holds for that scene."""
    if not path.exists():
        raise InputError("no such file or folder", file=path)
    if scene is None or not path.is_dir() or ".." in PurePosixPath(scene).parts or scene.startswith("/"):
        return path
    if path.joinpath(scene).is_dir():
        return path.joinpath(scene)
    named = [f"{scene}{suffix}" for suffix in (".json", ".ndjson", ".jsonl")]
    return next((resolve_inside(path, name) for name in named if path.joinpath(name).is_file()), path)


def _list_folder(folder: Path) -> dict[str, str]:
    """Return the label images and JSON files of a folder by stem."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".png", ".json"))
    stems: dict[str, str] = {}
    for name in names:
        stem = PurePosixPath(name).stem
        if stem in stems:
            raise FormatError(f"found both {stems[stem]} and {name}, expected one file a frame", file=folder)
        stems[stem] = name
    return stems


def _by_number(names) -> dict[int, str]:
    """Return names of digits by their value, but for values that several names have."""
    numbers: dict[int, list[str]] = {}
    for name in names:
        if _is_number(name):
            numbers.setdefault(int(name), []).append(name)
    return {number: found[0] for number, found in numbers.items() if len(found) == 1}


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 20


def _decode_labels(file: Path, size: tuple[int, int]) -> list[Mask2d]:
    _check_size(image_size(file), size, file, None)  # from the header, before anything is decoded
    labels = read_label_image(file)
    return [Mask2d(labels == label, 1.0) for label in np.unique(labels) if label != 0]


def _decode_entries(entries: list[_Entry], size: tuple[int, int]) -> list[Mask2d]:
    found = []
    for entry in entries:
        mask = _decode_entry(entry, size)
        if not mask.any():
            continue
        score = 1.0 if entry.score is None else entry.score
        found.append(Mask2d(mask, mask_quality(mask, *entry.quality) if entry.quality else score))
    return found


def _decode_entry(entry: _Entry, size: tuple[int, int]) -> np.ndarray:
    _check_size(entry.rle.get("size"), size, entry.file, entry.line)
    try:
        if isinstance(entry.rle.get("counts"), list):
            return _decode_plain_counts(entry.rle["counts"], size)
        return decode_mask(entry.rle)
    except FormatError as error:
        raise FormatError(error.message, file=entry.file, line=entry.line) from None


def _decode_plain_counts(counts: list, size: tuple[int, int]) -> np.ndarray:
    """Decode COCO's uncompressed run lengths, column by column, the first run outside the mask."""
    if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != size[0] * size[1]:
        raise FormatError(f"rle runs are not counts that sum to {size[0] * size[1]} pixels")
    is_inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(is_inside, counts).reshape(size[1], size[0]).T


def _check_size(found, expected: tuple[int, int], file: Path, line: int | None) -> None:
    if not isinstance(found, list | tuple) or tuple(found) != tuple(expected):
        text = f"{found[0]} x {found[1]}" if isinstance(found, list | tuple) and len(found) == 2 else repr(found)
        raise FormatError(
            f"the mask is {text} pixels (height x width), expected {expected[0]} x {expected[1]} as the frame",
            file=file,
            line=line,
            hint="make the masks on the frames as they are, or scale them with nearest neighbour",
        )


def _read_coco(file: Path) -> dict[str, list[_Entry]]:
    """Read a COCO or segment-anything file into entries by image stem; images without annotations have none."""
    try:
        content = json.loads(read_bytes(file))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", file=file) from None
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        images, annotations = _image_names(content, file), content["annotations"]
    elif isinstance(content, list):
        images, annotations = {}, content
    else:
        raise FormatError('expected an object with "annotations", or a list of them', file=file)
    entries: dict[str, list[_Entry]] = {name: [] for name in images.values()}
    for annotation in annotations:
        name, entry = _parse_annotation(annotation, images, file, None)
        entries.setdefault(name, []).append(entry)
    return entries


def _image_names(content: dict, file: Path) -> dict:
    """Return the stem of each image by its id; a file of segment-anything describes one `image`."""
    images = content.get("images", [content["image"]] if "image" in content else [])
    if not isinstance(images, list):
        raise FormatError('"images" is not a list', file=file)
    names = {}
    for image in images:
        name = image.get("file_name") if isinstance(image, dict) else None
        image_id = image.get("id", image.get("image_id")) if isinstance(image, dict) else None
        if not isinstance(name, str) or not isinstance(image_id, int | str):
            raise FormatError('an image lacks "id" or "file_name"', file=file)
        names[image_id] = PurePosixPath(name).stem
    return names


def _read_lines(file: Path, scene: str | None) -> dict[str, list[_Entry]]:
    """Read `mask2d` records and COCO annotations, one a line; other records are skipped."""
    entries: dict[str, list[_Entry]] = {}
    scenes = set()
    try:
        with file.open("rb") as stream:
            for number, text in enumerate(stream, 1):
                record = _parse_line(text, file, number)
                kind = record.get("type")
                if kind == "mask2d" and scene in (None, record.get("scene")):
                    scenes.add(record.get("scene"))
                    name, entry = _parse_mask2d(record, file, number)
                elif kind == "frame" and scene in (None, record.get("scene")) and isinstance(record.get("frame"), str):
                    entries.setdefault(record["frame"], [])
                    continue
                elif kind is None and "segmentation" in record:
                    name, entry = _parse_annotation(record, {}, file, number)
                else:
                    continue
                entries.setdefault(name, []).append(entry)
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", file=file) from None
    if len(scenes) > 1:
        raise InputError(f"found masks of {len(scenes)} scenes, expected one, or a scene to choose", file=file)
    return entries


def _parse_line(text: bytes, file: Path, line: int) -> dict:
    if not text.strip():
        return {}
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", file=file, line=line) from None
    if not isinstance(record, dict):
        raise FormatError(f"expected a JSON object, found {type(record).__name__}", file=file, line=line)
    return record


def _parse_mask2d(record: dict, file: Path, line: int) -> tuple[str, _Entry]:
    if not isinstance(record.get("frame"), str) or not isinstance(record.get("rle"), dict):
        raise FormatError('mask2d lacks "frame" or "rle"', file=file, line=line)
    return record["frame"], _Entry(record["rle"], _number(record, "score", file, line), None, file, line)


def _parse_annotation(annotation, images: dict, file: Path, line: int | None) -> tuple[str, _Entry]:
    """Return the stem of the image that a COCO annotation belongs to, and the annotation."""
    segmentation = annotation.get("segmentation") if isinstance(annotation, dict) else None
    if not isinstance(segmentation, dict):
        hint = "convert polygons with pycocotools.coco.COCO.annToRLE" if isinstance(segmentation, list) else None
        raise FormatError('an annotation lacks run lengths in "segmentation"', file=file, line=line, hint=hint)
    image_id = annotation.get("image_id")
    name = annotation.get("file_name")
    if isinstance(name, str):
        name = PurePosixPath(name).stem
    elif isinstance(image_id, int | str):
        name = images.get(image_id, str(image_id))
    else:  # a file of one image: its name decides
        name = next(iter(images.values()), file.stem)
    quality = tuple(_number(annotation, key, file, line) for key in ("predicted_iou", "stability_score"))
    known = None if None in quality else quality
    return name, _Entry(segmentation, _number(annotation, "score", file, line), known, file, line)


def _number(record: dict, key: str, file: Path, line: int | None) -> float | None:
    """Return a score of a record, None when it has none."""
    value = record.get(key)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    limit = 1.0 if key == "score" else 2.0  # SAM's own estimate exceeds 1 a little
    if not is_number or not 0 <= value <= limit:
        raise FormatError(f'"{key}" is {value!r}, expected a number in [0, 1]', file=file, line=line)
    return float(value)
