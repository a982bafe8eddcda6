# SPDX-License-Identifier: Apache-2.0
import os
import runpy
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.images import (
    decode_color,
    image_size,
    read_color,
    read_depth_raw,
    read_label_image,
    write_png,
)

small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))
RGB, DEPTH, _ = small["frames"](1)[0]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def hand_made_png(bits: int, color_type: int, rows: list[bytes], width: int, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), bits, color_type, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("array", [RGB, DEPTH, DEPTH.astype(np.uint8)])
def test_write_and_read_back(tmp_path, array):
    file = tmp_path / "x.png"
    write_png(file, array)
    assert image_size(file) == array.shape[:2]
    read = read_color if array.ndim == 3 else read_depth_raw if array.dtype == np.uint16 else read_label_image
    assert np.array_equal(read(file), array)


def test_other_arrays_are_not_written(tmp_path):
    for array in (np.zeros((2, 2), np.int32), np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3), np.uint16)):
        with pytest.raises(ValueError, match="cannot write"):
            write_png(tmp_path / "x.png", array)


def test_channels_are_red_green_blue(tmp_path):
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 250
    (tmp_path / "x.jpg").write_bytes(small["jpeg"](red))
    image = read_color(tmp_path / "x.jpg")
    assert image[..., 0].min() > 240 and image[..., 1:].max() < 15


def test_a_grey_picture_becomes_colour(tmp_path):
    write_png(tmp_path / "x.png", DEPTH.astype(np.uint8))
    assert np.array_equal(read_color(tmp_path / "x.png"), np.repeat(DEPTH.astype(np.uint8)[..., None], 3, axis=2))


def test_orientation_tags_are_ignored():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # rotate by 90 degrees
    data = small["jpeg"](RGB)
    tagged = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    assert cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR).shape[:2] == RGB.shape[1::-1]
    assert np.array_equal(decode_color(tagged, "x"), decode_color(data, "x"))


def test_label_images_keep_indices(tmp_path):
    palette = chunk(b"PLTE", bytes(range(48)))
    file = tmp_path / "x.png"
    for bits, row, expected in [
        (8, bytes([0, 7, 15, 3]), [0, 7, 15, 3]),
        (4, b"\x07\xf3", [0, 7, 15, 3]),
        (2, b"\x1b", [0, 1, 2, 3]),
        (1, b"\x50", [0, 1, 0, 1]),
    ]:
        for color_type, extra in ((3, palette if bits > 2 else chunk(b"PLTE", bytes(3 * 2**bits))), (0, b"")):
            file.write_bytes(hand_made_png(bits, color_type, [row], 4, extra))
            assert read_label_image(file).tolist() == [expected], (bits, color_type)
    write_png(file, np.array([[0, 60000]], np.uint16))
    assert read_label_image(file).tolist() == [[0, 60000]]
    write_png(file, RGB)
    with pytest.raises(FormatError, match="expected a grey or palette PNG"):
        read_label_image(file)


def test_depth_of_8_bits_or_colour_is_refused(tmp_path):
    for array in (DEPTH.astype(np.uint8), RGB):
        write_png(tmp_path / "x.png", array)
        with pytest.raises(FormatError, match="expected a depth PNG with 1 channel of 16 bits"):
            read_depth_raw(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes(small["jpeg"](RGB))
    with pytest.raises(FormatError, match="found a jpeg"):
        read_depth_raw(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_every_truncation_is_refused(kind, capfd):
    data = small[kind](RGB)
    for length in range(1, len(data)):
        with pytest.raises(FormatError):
            decode_color(data[:length], "x")
    assert capfd.readouterr().err == ""


def test_a_jpeg_without_its_end_marker_says_so():
    with pytest.raises(FormatError, match="without its end marker; it is truncated"):
        decode_color(small["jpeg"](RGB)[:-2], "x")


def test_decoding_works_without_any_stderr(monkeypatch):
    def closed(descriptor):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("os.dup", closed)
    assert np.array_equal(decode_color(small["png"](RGB), "x"), RGB)


def test_every_flipped_bit_of_a_png_is_refused(tmp_path):
    data = small["png"](DEPTH)
    file = tmp_path / "x.png"
    for position in range(0, len(data)):
        file.write_bytes(data[:position] + bytes([data[position] ^ 16]) + data[position + 1 :])
        with pytest.raises(FormatError):
            read_depth_raw(file)


def test_a_jpeg_that_libjpeg_only_grumbles_about_is_refused(capfd):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = small["jpeg"](noise)
    broken = data[: len(data) // 2] + data[-2:]  # half of the picture, yet with its end marker
    with pytest.raises(FormatError, match="damaged JPEG: Corrupt JPEG data"):
        decode_color(broken, "x")
    assert capfd.readouterr().err == ""


def test_bytes_of_other_threads_on_stderr_are_passed_on(capfd, monkeypatch):
    import os

    decode = cv2.imdecode

    def decode_and_talk(*args):
        os.write(2, b"progress 50 %\n")
        return decode(*args)

    monkeypatch.setattr(cv2, "imdecode", decode_and_talk)
    assert decode_color(small["jpeg"](RGB), "x").shape == RGB.shape
    assert capfd.readouterr().err == "progress 50 %\n"


def test_a_huge_claim_is_refused_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)
    file = tmp_path / "x.png"
    for width, rows, message in [(20000, 1, "expected 1 to 16384"), (16000, 16000, "truncated or damaged")]:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, rows, 16, 0, 0, 0, 0))
        body = chunk(b"IDAT", zlib.compress(bytes(100)))
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b""))
        with pytest.raises(FormatError, match=message):
            read_depth_raw(file)


def test_a_plain_large_picture_is_not_taken_for_a_lie(tmp_path):
    write_png(tmp_path / "x.png", np.zeros((2000, 3000), np.uint16))  # deflate at its best
    assert read_depth_raw(tmp_path / "x.png").shape == (2000, 3000)
    blank = cv2.imencode(".jpg", np.zeros((2000, 3000, 3), np.uint8))[1].tobytes()
    assert decode_color(blank, "x").shape == (2000, 3000, 3)


def test_header_behind_long_metadata(tmp_path):
    data = small["jpeg"](RGB)
    comment = b"\xff\xfe\xff\xff" + bytes(65533)
    (tmp_path / "x.jpg").write_bytes(data[:2] + comment * 2 + data[2:])
    assert image_size(tmp_path / "x.jpg") == RGB.shape[:2]
    assert read_color(tmp_path / "x.jpg").shape == RGB.shape


def test_missing_empty_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match="x.png: no such file"):
        read_color(tmp_path / "x.png")
    with pytest.raises(InputError, match="cannot read it"):
        read_color(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")  # to open it would wait for ever
    for read in (read_color, image_size):
        with pytest.raises(InputError, match="not a regular file"):
            read(tmp_path / "pipe.png")
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(FormatError, match="empty"):
        read_color(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes(b"GIF89a....")
    with pytest.raises(FormatError, match="expected a PNG or JPEG"):
        image_size(tmp_path / "x.png")
