# SPDX-License-Identifier: Apache-2.0
import struct
import zlib

import numpy as np
import pytest

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.images import write_png
from pc3dcli.formats.mask_videos import find_videos, split_videos


def write_palette(path, labels):
    """Write a palette PNG of 8 bits, as DAVIS has them."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = labels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in labels.astype(np.uint8))
    parts = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        chunk(b"PLTE", bytes(range(256)) * 3),
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def write(path, labels, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.asarray(labels, dtype))


@pytest.mark.parametrize(
    "layout",
    ["Annotations/480p/a", "Annotations/a", "480p/a", "a", "a/instance", "a/instance-filt"],
)
def test_layouts(tmp_path, layout):
    write(tmp_path / layout / "00000.png", [[0, 1]])
    write(tmp_path / "JPEGImages" / "a" / "00000.jpg.png", [[9, 9]])
    write(tmp_path / "a" / "color" / "00000.png", [[9, 9]])
    write(tmp_path / layout / "._00000.png", [[9, 9]])
    assert {name: list(video.frames) for name, video in find_videos(tmp_path).items() if name != "JPEGImages"} == {
        "a": ["00000"]
    }


def test_a_folder_of_frames_is_one_video(tmp_path):
    write(tmp_path / "room" / "0.png", [[0, 1]])
    assert list(find_videos(tmp_path / "room")) == ["room"]
    write(tmp_path / "scan" / "instance" / "0.png", [[0, 1]])
    write(tmp_path / "scan" / "color" / "0.png", [[0, 1]])
    assert list(find_videos(tmp_path / "scan")) == ["scan"]


def test_another_part_of_a_data_set_comes_first(tmp_path):
    write(tmp_path / "Annotations" / "480p" / "a" / "0.png", [[0, 1]])
    write(tmp_path / "Annotations_unsupervised" / "480p" / "b" / "0.png", [[0, 1]])
    assert list(find_videos(tmp_path)) == ["a"]
    assert list(find_videos(tmp_path, ("Annotations_unsupervised", "Annotations"))) == ["b"]


def test_frames_are_in_order_of_time(tmp_path):
    for name in ("10", "9", "100"):
        write(tmp_path / "a" / f"{name}.png", [[0, 1]])
    assert list(find_videos(tmp_path)["a"].frames) == ["9", "10", "100"]
    write(tmp_path / "a" / "x.png", [[0, 1]])
    assert list(find_videos(tmp_path)["a"].frames) == ["10", "100", "9", "x"]


def test_palette_and_16_bits(tmp_path):
    write_palette(tmp_path / "a" / "0.png", np.array([[0, 3], [255, 1]]))
    labels, is_void = find_videos(tmp_path)["a"].read_truth("0")
    assert labels.tolist() == [[0, 3], [0, 1]] and is_void.tolist() == [[False, False], [True, False]]
    assert find_videos(tmp_path)["a"].read("0").tolist() == [[0, 3], [255, 1]]  # of predictions: an id
    write(tmp_path / "b" / "0.png", [[0, 255], [40007, 1]], np.uint16)
    labels, is_void = find_videos(tmp_path)["b"].read_truth("0")
    assert labels.tolist() == [[0, 255], [40007, 1]] and not is_void.any()


def test_a_video_of_0_and_255_has_one_object(tmp_path):
    write(tmp_path / "a" / "0.png", [[0, 0]])
    write(tmp_path / "a" / "1.png", [[0, 255]])
    video = find_videos(tmp_path)["a"]
    assert video.is_binary and video.read("1").tolist() == [[0, 1]]
    labels, is_void = video.read_truth("1")
    assert labels.tolist() == [[0, 1]] and not is_void.any()
    write(tmp_path / "a" / "2.png", [[0, 2]])
    assert find_videos(tmp_path)["a"].read_truth("1")[1].tolist() == [[False, True]]
    write(tmp_path / "b" / "0.png", [[0, 255]], np.uint16)
    assert find_videos(tmp_path)["b"].read("0").tolist() == [[0, 255]]
    write(tmp_path / "c" / "0.png", [[0, 0]])
    assert not find_videos(tmp_path)["c"].is_binary


def test_nothing_found(tmp_path):
    with pytest.raises(InputError, match=r"no masks; tried Annotations/480p/\*/\*.png"):
        find_videos(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        find_videos(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        find_videos(tmp_path / "file")


def test_colour_pictures_are_refused(tmp_path):
    write(tmp_path / "a" / "0.png", np.zeros((2, 2, 3)))
    with pytest.raises(FormatError, match="expected a grey or palette PNG"):
        find_videos(tmp_path)["a"].read("0")


def test_splits(tmp_path):
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("b\na\n\na\n")
    assert split_videos("val", tmp_path) == ["a", "b"]
    (tmp_path / "mine.txt").write_text("c\r\n")
    assert split_videos(str(tmp_path / "mine.txt"), tmp_path) == ["c"]
    with pytest.raises(InputError, match="no split 'train'"):
        split_videos("train", tmp_path)
    (tmp_path / "mine.txt").write_text("\n")
    with pytest.raises(FormatError, match="names no video"):
        split_videos(str(tmp_path / "mine.txt"), tmp_path)
