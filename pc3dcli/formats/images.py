# SPDX-License-Identifier: Apache-2.0
"""PNG and JPEG images, read strictly: a damaged file is an error, never a half-filled array.

OpenCV decodes.  Before it runs, the header is parsed here (so that a size can be refused before anything is
allocated), PNG chunk checksums and the JPEG end marker are checked, and what the C libraries would print on stderr is
caught: libjpeg fills the rest of a damaged picture with grey and only mentions it there.
Orientation tags are ignored, because intrinsics belong to the stored grid.
"""

from __future__ import annotations

import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from pc3dcli.errors import FormatError, InputError

MAX_SIDE = 16384  # pixels; ours, twice the widest camera we know of
MAX_PIXELS_PER_BYTE = 1032  # deflate cannot pack more, and neither can JPEG (a block of 64 pixels takes a bit or more)
MAX_BYTES = 1 << 30  # ours: no single picture is larger
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # colour type -> bit depths
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_STDERR_LOCK = threading.Lock()
_HARMLESS = (b"libpng warning", b"unknown JFIF revision", b"before marker 0xd9")  # padding of many cameras
_DAMAGE = (b"libpng error", b"grfmt_", b"Corrupt JPEG", b"Premature end of JPEG", b"Invalid SOS", b"Inconsistent prog")

File = str | PathLike[str]


class ImageHeader(NamedTuple):
    kind: str  # "png" or "jpeg"
    height: int
    width: int
    bits: int  # per channel
    channels: int
    is_palette: bool


def image_size(path: File) -> tuple[int, int]:
    """Return (H, W) from the header of a PNG or JPEG file; nothing is decoded.

    raises  InputError when the file cannot be read, FormatError when its header is not that of a PNG or JPEG
    """
    with _opened(path) as stream:
        start = stream.read(1 << 16)
        header = _parse_header(start, path, partial=True)
        if header is None:  # a JPEG whose metadata fills the first 64 KiB
            header = _parse_header(start + stream.read(MAX_BYTES), path)
    return header.height, header.width


def read_color(path: File) -> np.ndarray:
    """Read a PNG or JPEG as (H, W, 3) uint8, RGB; grey is repeated, transparency dropped."""
    return decode_color(read_bytes(path), path)


def read_depth_raw(path: File) -> np.ndarray:
    """Read a 16-bit single-channel PNG as (H, W) uint16, in stored units; 0 usually means missing."""
    return decode_depth(read_bytes(path), path)


def read_label_image(path: File) -> np.ndarray:
    """Read a label PNG as (H, W) int32: grey values of 1 to 16 bits, or the indices of a palette image."""
    data = read_bytes(path)
    header = _checked_header(data, path)
    if header.kind != "png" or header.channels != 1:
        found = f"{header.kind} with {header.channels} channels"
        raise FormatError(f"found a {found}, expected a grey or palette PNG of labels", file=path)
    if header.is_palette:
        data = _palette_as_grey(data)
    labels = _decode(data, header, path, color=False).astype(np.int32)
    if header.bits < 8:  # libpng stretches few bits over the range 0..255
        labels //= 255 // (2**header.bits - 1)
    return labels


def decode_color(data: bytes, file: File) -> np.ndarray:
    """Decode the bytes of a PNG or JPEG to (H, W, 3) uint8 RGB; `file` is named in errors."""
    import cv2

    image = _decode(data, _checked_header(data, file), file, color=True)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def decode_depth(data: bytes, file: File) -> np.ndarray:
    """Decode the bytes of a 16-bit single-channel PNG to (H, W) uint16; `file` is named in errors."""
    header = _checked_header(data, file)
    if header.kind != "png" or header.channels != 1 or header.bits != 16 or header.is_palette:
        found = f"{header.kind} with {header.channels} channel(s) of {header.bits} bits"
        raise FormatError(f"found a {found}, expected a depth PNG with 1 channel of 16 bits", file=file)
    return _decode(data, header, file, color=False)


def write_png(path: File, array: np.ndarray) -> None:
    """Write (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB, as PNG.

    raises  ValueError for another shape or dtype, OSError from the file system
    """
    import cv2

    is_color = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    if not is_color and not (array.ndim == 2 and array.dtype in (np.uint8, np.uint16)):
        raise ValueError(f"cannot write {array.dtype} {array.shape} as PNG")
    ok, data = cv2.imencode(".png", cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if is_color else array)
    if not ok:
        raise ValueError(f"cannot encode {array.dtype} {array.shape} as PNG")
    Path(path).write_bytes(data.tobytes())


def write_jpeg(path: File, rgb: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as JPEG of OpenCV's default quality."""
    import cv2

    Path(path).write_bytes(cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes())


def read_bytes(path: File, limit: int = MAX_BYTES) -> bytes:
    """Return the whole content of a file of at most `limit` bytes.

    raises  InputError when it cannot be read, FormatError when it is empty or larger
    """
    with _opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise FormatError(f"found {size} bytes, expected at most {limit}", file=path)
        data = stream.read()
    if not data:
        raise FormatError("the file is empty", file=path)
    return data


@contextmanager
def _opened(path: File) -> Iterator[BinaryIO]:
    """Open a file for reading; a pipe or a device, which may never end, is refused."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise InputError("cannot read it: not a regular file", file=path)
        with Path(path).open("rb") as stream:
            yield stream
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", file=path) from None


def _checked_header(data: bytes, file: File) -> ImageHeader:
    header = _parse_header(data, file)
    pixels = header.height * header.width
    if pixels * header.bits * header.channels // 8 > len(data) * MAX_PIXELS_PER_BYTE * 3 + 65536:
        found = f"a header of {header.width} x {header.height} pixels in a file of {len(data)} bytes"
        raise FormatError(f"found {found}; the file is truncated or damaged", file=file)
    return header


def _parse_header(data: bytes, file: File, partial: bool = False) -> ImageHeader | None:
    """Return the header of a PNG or JPEG; None when `partial` data ends before it."""
    if data.startswith(_PNG):
        header = _png_header(data, file)
    elif data.startswith(b"\xff\xd8"):
        header = _jpeg_header(data, file, partial)
    else:
        raise FormatError(f"found a file that starts with {data[:8]!r}, expected a PNG or JPEG", file=file)
    if header and not (0 < header.height <= MAX_SIDE and 0 < header.width <= MAX_SIDE):
        found = f"{header.width} x {header.height} pixels"
        raise FormatError(f"found {found}, expected 1 to {MAX_SIDE} on each side", file=file)
    return header


def _png_header(data: bytes, file: File) -> ImageHeader:
    if len(data) < 33 or data[8:16] != b"\0\0\0\rIHDR":
        raise FormatError("found no image header after the PNG signature; the file is truncated or damaged", file=file)
    width, height, bits, color_type, compression, filtering, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    if bits not in _PNG_BITS.get(color_type, ()) or compression or filtering or interlace > 1:
        raise FormatError(f"found an impossible PNG header (colour type {color_type}, {bits} bits)", file=file)
    if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        raise FormatError("the checksum of the PNG header is wrong; the file is damaged", file=file)
    return ImageHeader("png", height, width, bits, _PNG_CHANNELS[color_type], color_type == 3)


def _jpeg_header(data: bytes, file: File, partial: bool) -> ImageHeader | None:
    found = _jpeg_marker(data, lambda marker: 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC))
    if found is None or found + 10 > len(data):
        if partial and len(data) == 1 << 16:
            return None
        raise FormatError("found no JPEG frame header; the file is truncated or damaged", file=file)
    bits, height, width, channels = struct.unpack_from(">BHHB", data, found + 4)
    if bits != 8 or channels not in (1, 3, 4):
        raise FormatError(f"found a JPEG with {channels} channels of {bits} bits, expected 1 or 3 of 8", file=file)
    return ImageHeader("jpeg", height, width, bits, channels, False)


def _jpeg_marker(data: bytes, wanted) -> int | None:
    """Return the offset of the first marker segment for which `wanted(code)` holds, None when there is none."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if wanted(marker):
            return position
        if marker in (0xD9, 0xDA):  # the end, or the picture itself
            return None
        is_bare = marker == 1 or 0xD0 <= marker <= 0xD7
        position += 2 if is_bare else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _check_complete(data: bytes, header: ImageHeader, file: File) -> None:
    """Refuse a PNG with a wrong checksum or without IEND, and a JPEG without its end marker."""
    if header.kind == "jpeg":
        scan = _jpeg_marker(data, lambda marker: marker == 0xDA)
        if scan is None or data.rfind(b"\xff\xd9", scan) < 0:
            raise FormatError(f"the JPEG ends at byte {len(data)} without its end marker; it is truncated", file=file)
        return
    view, position = memoryview(data), 8
    while position + 12 <= len(data):
        length, kind = int.from_bytes(view[position : position + 4], "big"), bytes(view[position + 4 : position + 8])
        end = position + 12 + length
        if end > len(data):
            break
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise FormatError(f"the checksum of PNG chunk {kind!r} at byte {position} is wrong", file=file)
        if kind == b"IEND":
            return
        position = end
    raise FormatError(f"the PNG ends after {len(data)} bytes without its end chunk; it is truncated", file=file)


def _decode(data: bytes, header: ImageHeader, file: File, color: bool) -> np.ndarray:
    import cv2

    _check_complete(data, header, file)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION if color else cv2.IMREAD_UNCHANGED
    with _caught_stderr() as complaints:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            image = None
    if image is None or complaints:
        said = complaints[0] if complaints else "the decoder gave up"
        raise FormatError(f"damaged {header.kind.upper()}: {said}", file=file)
    if image.shape[:2] != (header.height, header.width):
        raise FormatError(f"found {image.shape[:2]} pixels, expected {(header.height, header.width)}", file=file)
    return image


@contextmanager
def _caught_stderr() -> Iterator[list[str]]:
    """Collect what libjpeg and libpng write to file descriptor 2 meanwhile; anything else is passed on afterwards.

    The C libraries offer no other way to learn that a picture was only partly decoded.
    """
    complaints: list[str] = []
    with _STDERR_LOCK:
        try:
            saved = os.dup(2)
        except OSError:  # no stderr at all
            yield complaints
            return
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)  # a full pipe must drop text, not block the decoder
        try:
            os.dup2(writer, 2)
            yield complaints
        finally:
            os.dup2(saved, 2)
            _sort_complaints(reader, saved, complaints)
            for descriptor in (saved, reader, writer):
                os.close(descriptor)


def _sort_complaints(reader: int, stderr: int, complaints: list[str]) -> None:
    try:
        text = os.read(reader, 1 << 16)
    except BlockingIOError:
        return
    for line in text.splitlines(keepends=True):
        if any(word in line for word in _HARMLESS):
            continue
        if any(word in line for word in _DAMAGE):
            complaints.append(line.decode(errors="replace").strip())
        else:  # another thread's
            os.write(stderr, line)


def _palette_as_grey(data: bytes) -> bytes:
    """Rewrite a PNG's header from palette to grey, so that a decoder returns the indices and not their colours."""
    header = b"IHDR" + data[16:25] + b"\0" + data[26:29]
    kept, position = [], 33
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] in (b"IDAT", b"IEND"):  # PLTE and tRNS would contradict the new header
            kept.append(data[position:end])
        position = end
    return data[:8] + b"\0\0\0\r" + header + zlib.crc32(header).to_bytes(4, "big") + b"".join(kept)
