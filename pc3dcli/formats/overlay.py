# SPDX-License-Identifier: Apache-2.0
"""Masks and ids drawn over pictures, and contact sheets of several pictures.

Made for looking, not for reading back: blended fills, contours, and each id written where its region is widest.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

OPACITY = 0.45  # of a fill; ours
FONT = cv2.FONT_HERSHEY_SIMPLEX
PAPER = (250, 250, 248)  # behind contact sheets
INK = (40, 40, 40)


def overlay_masks(
    image: np.ndarray, masks: Sequence[np.ndarray], names: Sequence[str], colors: np.ndarray
) -> np.ndarray:
    """Draw masks over an image, larger ones first, so that parts stay visible on their wholes.

    image    (H, W, 3) uint8 RGB
    masks    M arrays (H, W) bool
    names    M short texts, usually ids, written on the masks; "" writes nothing
    colors   (M, 3) uint8 RGB
    returns  (H, W, 3) uint8 RGB
    raises   ValueError when a mask has another size than the image
    """
    picture = image.copy()
    areas = [int(np.count_nonzero(mask)) for mask in masks]
    order = sorted(range(len(masks)), key=lambda index: (-areas[index], index))
    contours = {}
    for index in order:
        mask = np.ascontiguousarray(masks[index], np.uint8)
        if mask.shape != image.shape[:2]:
            raise ValueError(f"mask of {mask.shape} over an image of {image.shape[:2]}")
        if areas[index] == 0:
            continue
        inside = mask.view(bool)
        fill = np.broadcast_to(colors[index], (areas[index], 3))
        picture[inside] = np.rint((1 - OPACITY) * picture[inside] + OPACITY * fill).astype(np.uint8)
        contours[index], _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for index in contours:  # after every fill: no contour is painted over
        cv2.drawContours(picture, contours[index], -1, _text_color(colors[index]), 2, cv2.LINE_AA)
        cv2.drawContours(picture, contours[index], -1, [int(value) for value in colors[index]], 1, cv2.LINE_AA)
    for index in contours:
        write_at_widest(picture, masks[index], names[index], colors[index])
    return picture


def label_regions(
    image: np.ndarray, ids: np.ndarray, names: dict[int, str], colors: dict[int, np.ndarray]
) -> np.ndarray:
    """Write names on the regions of an id picture, such as a rendered cloud.

    image    (H, W, 3) uint8 RGB
    ids      (H, W) integers, negative for none
    names    id -> text; ids without one, and regions too small for theirs, get no text
    colors   id -> (3,) uint8 RGB, the colour of the text's plate
    returns  (H, W, 3) uint8 RGB
    """
    picture = image.copy()
    for number, (rows, columns) in _extents(ids).items():
        if number in names:
            write_at_widest(picture, ids == number, names[number], colors[number], within=(rows, columns))
    return picture


def write_at_widest(
    picture: np.ndarray,
    mask: np.ndarray,
    text: str,
    color: np.ndarray,
    *,
    within: tuple[slice, slice] = (slice(None), slice(None)),
) -> None:
    """Write `text` into `picture` (H, W, 3) on a plate of `color`, at the point of `mask` farthest from its border.

    within  rows and columns that hold the mask; elsewhere it is not looked at
    """
    scale = _font_scale(picture.shape[0])
    part = np.pad(np.ascontiguousarray(mask[within], np.uint8), 1)  # the picture's border is a border of the mask
    distance = cv2.distanceTransform(part, cv2.DIST_L2, 3)
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    if not text or distance[row, column] < 10 * scale:  # the text would cover what it names
        return
    (width, height), _ = cv2.getTextSize(text, FONT, scale, 1)
    x = (within[1].start or 0) + int(column) - 1 - width // 2
    y = (within[0].start or 0) + int(row) - 1 + height // 2
    x = min(max(x, 2), max(picture.shape[1] - width - 3, 2))
    plate = (x - 3, y - height - 3), (x + width + 2, y + 3)
    cv2.rectangle(picture, *plate, [int(value) for value in color], cv2.FILLED)
    cv2.putText(picture, text, (x, y), FONT, scale, _text_color(color), max(1, round(scale * 1.6)), cv2.LINE_AA)


def draw_mark(picture: np.ndarray, place: tuple[int, int], text: str) -> np.ndarray:
    """Return the (H, W, 3) uint8 RGB picture with a short text in a disc around the pixel place (x, y)."""
    picture = picture.copy()
    scale = _font_scale(picture.shape[0])
    (width, height), _ = cv2.getTextSize(text, FONT, scale, 1)
    radius = round(0.5 * max(cv2.getTextSize("10", FONT, scale, 1)[0]) + 4)
    cv2.circle(picture, place, radius, PAPER, cv2.FILLED, cv2.LINE_AA)
    cv2.circle(picture, place, radius, INK, 1, cv2.LINE_AA)
    corner = (place[0] - width // 2, place[1] + height // 2)
    cv2.putText(picture, text, corner, FONT, scale, INK, 1, cv2.LINE_AA)
    return picture


def draw_legend(picture: np.ndarray, entries: Sequence[tuple[str, Sequence[int] | None]]) -> np.ndarray:
    """Return the (H, W, 3) uint8 RGB picture with entries on a plate in its lower left corner.

    entries  (text, RGB), or (text, None) for a line without a colour; other letters than ASCII show as "?"
    """
    if not entries:
        return picture
    picture = picture.copy()
    scale = _font_scale(picture.shape[0])
    lines = [(text.encode("ascii", "replace").decode(), color) for text, color in entries]
    height = cv2.getTextSize("0", FONT, scale, 1)[0][1]
    line, box = 2 * height, height + 2
    starts = [8 if color is None else 16 + box for _, color in lines]
    ends = [start + cv2.getTextSize(text, FONT, scale, 1)[0][0] for (text, _), start in zip(lines, starts, strict=True)]
    top = picture.shape[0] - line * len(lines) - 8
    cv2.rectangle(picture, (0, top - 6), (max(ends) + 8, picture.shape[0]), PAPER, cv2.FILLED)
    for row, ((text, color), start) in enumerate(zip(lines, starts, strict=True)):
        base = top + row * line + box
        if color is not None:
            cv2.rectangle(picture, (8, base - box + 1), (8 + box, base + 1), [int(v) for v in color], cv2.FILLED)
            cv2.rectangle(picture, (8, base - box + 1), (8 + box, base + 1), INK, 1)
        cv2.putText(picture, text, (start, base), FONT, scale, INK, 1, cv2.LINE_AA)
    return picture


def contact_sheet(
    images: Sequence[np.ndarray], captions: Sequence[str], *, columns: int | None = None, cell_width: int = 640
) -> np.ndarray:
    """Lay pictures out in a grid with a caption above each.

    images      one or more (H, W, 3) uint8 RGB; each is scaled to the width of a cell
    captions    one a picture; characters outside ASCII show as "?", which the drawing font lacks
    columns     None for a grid about as wide as high
    cell_width  pixels
    returns     (H, W, 3) uint8 RGB
    """
    if not images:
        raise ValueError("a contact sheet needs a picture")
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    columns = min(columns, len(images))
    cells = [_cell(image, caption, cell_width) for image, caption in zip(images, captions, strict=True)]
    rows = []
    for start in range(0, len(cells), columns):
        row = cells[start : start + columns]
        height = max(cell.shape[0] for cell in row)
        row += [np.zeros((0, row[0].shape[1], 3), np.uint8)] * (columns - len(row))
        rows.append(np.concatenate([_extended(cell, height) for cell in row], 1))
    return cv2.copyMakeBorder(np.concatenate(rows), 0, 8, 0, 8, cv2.BORDER_CONSTANT, value=PAPER)


def draw_header(picture: np.ndarray, title: str, entries: Sequence[tuple[str, Sequence[int]]]) -> np.ndarray:
    """Return the (H, W, 3) uint8 RGB picture below a band with a title and a row of (text, RGB) entries."""
    headed = cv2.copyMakeBorder(picture, 60, 0, 0, 0, cv2.BORDER_CONSTANT, value=PAPER)
    cv2.putText(headed, title, (8, 23), FONT, 0.6, INK, 1, cv2.LINE_AA)
    x = 8
    for text, color in entries:
        cv2.rectangle(headed, (x, 36), (x + 13, 49), [int(value) for value in color], cv2.FILLED)
        cv2.putText(headed, text, (x + 20, 48), FONT, 0.5, INK, 1, cv2.LINE_AA)
        x += 20 + cv2.getTextSize(text, FONT, 0.5, 1)[0][0] + 24
    return headed


def shorten_middle(text: str, length: int) -> str:
    """Return the text with its middle replaced by "..." where it has more than `length` letters, at least 5."""
    if len(text) <= length:
        return text
    kept = max(length, 5) - 3
    return f"{text[: kept // 2]}...{text[len(text) - (kept - kept // 2) :]}"


def png_bytes(image: np.ndarray) -> bytes:
    """Return a (H, W, 3) uint8 RGB picture as the content of a PNG file."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def jpeg_bytes(image: np.ndarray, *, max_side: int, quality: int = 80) -> bytes:
    """Return a (H, W, 3) uint8 RGB picture as the content of a JPEG file, scaled down to `max_side` pixels."""
    scale = min(1.0, max_side / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


def caption_length(cell_width: int) -> int:
    """Return how many letters of a caption a contact sheet with cells of so many pixels shows."""
    return cell_width // 10


def _cell(image: np.ndarray, caption: str, width: int) -> np.ndarray:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    shrinks = width < image.shape[1]
    scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    cell = cv2.copyMakeBorder(scaled, 30, 0, 8, 0, cv2.BORDER_CONSTANT, value=PAPER)
    text = caption.encode("ascii", "replace").decode()
    cv2.putText(cell, text[: caption_length(width)], (8, 21), FONT, 0.5, INK, 1, cv2.LINE_AA)
    return cell


def _extended(cell: np.ndarray, height: int) -> np.ndarray:
    filler = np.full((height - cell.shape[0], cell.shape[1], 3), PAPER, np.uint8)
    return np.concatenate((cell, filler))


def _extents(ids: np.ndarray) -> dict[int, tuple[slice, slice]]:
    """Return the bounding rows and columns of each id that is not negative, ids ascending."""
    flat = np.flatnonzero(ids >= 0)
    if flat.size == 0:
        return {}
    values, which = np.unique(ids.reshape(-1)[flat], return_inverse=True)
    rows, columns = np.divmod(flat, ids.shape[1])
    bounds = []
    for place in (rows, columns):
        first, last = np.full(len(values), ids.size), np.zeros(len(values), np.int64)
        np.minimum.at(first, which, place)
        np.maximum.at(last, which, place)
        bounds.append((first, last + 1))
    (top, bottom), (left, right) = bounds
    return {
        int(value): (slice(int(top[i]), int(bottom[i])), slice(int(left[i]), int(right[i])))
        for i, value in enumerate(values)
    }


def _font_scale(height: int) -> float:
    return float(np.clip(height / 1100, 0.4, 1.0))


def _text_color(color: np.ndarray) -> tuple[int, int, int]:
    """Return black or white, whichever stands out more from `color`."""
    return (255, 255, 255) if float(np.asarray(color, np.float64) @ (0.2126, 0.7152, 0.0722)) < 130 else (0, 0, 0)
