# SPDX-License-Identifier: Apache-2.0
import errno
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats import scannet_instances as scannet

N = 6


def listing(tmp_path, text, masks=("m/0.txt", "m/1.txt")):
    for name in masks:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n" * N)
    path = tmp_path / "scene.txt"
    path.write_text(text, newline="")
    return scannet.read_prediction_list(path, tmp_path)


def test_hand_written_prediction_list(tmp_path):
    masks = listing(tmp_path, "m/0.txt 3 0.5\r\n./m//1.txt -4.0 1e-3\r\nm/../m/0.txt 5 -2\r\n\r\n")
    assert [(item.name, item.label_id, item.score, item.line) for item in masks] == [
        ("m/0.txt", 3, 0.5, 1), ("m/1.txt", -4, 0.001, 2), ("m/0.txt", 5, -2.0, 3),
    ]  # fmt: skip
    assert listing(tmp_path, "") == [] == listing(tmp_path, "\n\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("m/0.txt 3", "2 fields"),
        ("m/0.txt  3 0.5", "4 fields"),
        ("m/0.txt 3 0.5 ", "4 fields"),
        ("m/0.txt\t3\t0.5", "1 fields"),
        ("m/0.txt 3.5 0.5", "label id"),
        ("m/0.txt chair 0.5", "label id"),
        ("m/0.txt 3 nan", "finite"),
        ("m/0.txt 3 inf", "finite"),
        ("m/0.txt 3 1e999", "finite"),
        ("m/0.txt 3 1_0", "finite"),
        ("m/0.txt 3 high", "finite"),
        ("/etc/passwd 3 0.5", "absolute"),
        ("../x.txt 3 0.5", "leaves"),
        ("m/../../x.txt 3 0.5", "leaves"),
        ("m/9.txt 3 0.5", "no such file"),
        ("m 3 0.5", "no such file"),
        (" 3 0.5", "path"),
        ("", "1 fields"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    with pytest.raises((FormatError, InputError), match=message) as error:
        listing(tmp_path, f"m/0.txt 3 0.5\n{line}\nm/1.txt 3 0.5\n")
    assert error.value.line == 2 and error.value.file == tmp_path / "scene.txt"


def test_a_neighbour_folder_of_the_same_prefix_is_outside(tmp_path):
    inside, outside = tmp_path / "pred", tmp_path / "pred_evil"
    outside.mkdir()
    (outside / "x.txt").write_text("1\n")
    with pytest.raises(FormatError):
        listing(inside, "../pred_evil/x.txt 3 0.5\n")
    (inside / "link.txt").symlink_to(outside / "x.txt")
    (inside / "folder").symlink_to(outside)
    for name in ("link.txt", "folder/x.txt"):
        with pytest.raises(FormatError, match="symbolic link"):
            listing(inside, f"m/0.txt 3 0.5\n{name} 3 0.5\n", masks=["m/0.txt"])
    (inside / "alias").symlink_to(inside / "m")
    assert listing(inside, "alias/0.txt 3 0.5\n", masks=["m/0.txt"])[0].name == "alias/0.txt"


@pytest.mark.parametrize("text", ["0\n1\n5\n0\n0\n-1\n", "0\r\n1\r\n1\r\n0\r\n0\r\n1", "0.0\n1\n1\n0\n0\n1\n\n"])
def test_text_masks(tmp_path, text):
    path = tmp_path / "m.txt"
    path.write_bytes(text.encode())
    assert scannet.read_mask(path, N).tolist() == [False, True, True, False, False, True]


@pytest.mark.parametrize(
    ("rle", "expected"),
    [
        ({"length": 6, "counts": "2 2 6 1"}, [0, 1, 1, 0, 0, 1]),
        ({"length": 6, "counts": ""}, [0] * 6),
        ({"length": 6.0, "counts": "1 6"}, [1] * 6),
        ({"length": 6, "counts": "1 3 2 3"}, [1, 1, 1, 1, 0, 0]),  # overlapping runs
        ({"length": 6, "counts": "3 0"}, [0] * 6),
    ],
)
def test_run_length_masks(tmp_path, rle, expected):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(rle))
    assert scannet.read_mask(path, N).tolist() == [bool(value) for value in expected]


@pytest.mark.parametrize(
    "text",
    [
        "{}", "{", "[1]", '{"length": 7, "counts": ""}', '{"length": "6", "counts": ""}',
        '{"length": 6, "counts": [1]}', '{"length": null, "counts": ""}',
        '{"length": 6, "counts": "1"}', '{"length": 6, "counts": "0 1"}', '{"length": 6, "counts": "6 2"}',
        '{"length": 6, "counts": "1 -1"}', '{"length": 6, "counts": "a b"}', '{"length": true, "counts": ""}',
        '{"length": 6, "counts": "999999999999999999 999999999999999999"}',
        "1\n1\n", "1\n" * 7, "1\n1\n1\n1\n1\nx\n", "",
    ],
)  # fmt: skip
def test_malformed_masks(tmp_path, text):
    path = tmp_path / "mask"
    path.write_text(text)
    with pytest.raises(FormatError) as error:
        scannet.read_mask(path, N)
    assert error.value.file == path


def arrays(**changes):
    masks = np.zeros((N, 2), bool)
    masks[1:3, 0] = masks[4, 1] = True
    return {"pred_masks": masks, "pred_scores": np.array([0.5, 1.0], np.float32), "pred_classes": np.array([3, 5])} | (
        changes
    )


def write(tmp_path, suffix, content):
    path = tmp_path / f"scene{suffix}"
    content = {name: value for name, value in content.items() if value is not None}
    np.savez(path, **content) if suffix == ".npz" else save_file(content, path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_mask_arrays(tmp_path, suffix, dtype):
    masks = arrays()["pred_masks"]
    read = scannet.read_mask_arrays(write(tmp_path, suffix, arrays(pred_masks=masks.astype(dtype))), N)
    assert np.array_equal(read.masks, masks) and read.masks.dtype == bool
    assert read.scores.tolist() == [0.5, 1.0] and read.label_ids.tolist() == [3, 5]


def test_compressed_fortran_and_the_other_score_name(tmp_path):
    content = arrays(pred_scores=None, pred_score=np.array([1, 0]), pred_classes=np.array([3.0, 5.0]))
    content = {name: value for name, value in content.items() if value is not None}
    content["pred_masks"] = np.asfortranarray(content["pred_masks"])
    np.savez_compressed(tmp_path / "scene.npz", **content)
    read = scannet.read_mask_arrays(tmp_path / "scene.npz", N)
    assert np.array_equal(read.masks, content["pred_masks"]) and read.scores.tolist() == [1, 0]
    assert read.label_ids.tolist() == [3, 5]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pred_masks": None}, "expected pred_masks"),
        ({"pred_scores": None}, "expected pred_masks"),
        ({"pred_score": np.ones(2)}, "expected pred_masks"),
        ({"pred_masks": np.zeros((2, N), bool)}, r"\(2, 6\)"),
        ({"pred_masks": np.zeros((N + 1, 2), bool)}, "ground truth"),
        ({"pred_masks": np.zeros(N, bool)}, "ground truth"),
        ({"pred_masks": np.full((N, 2), 2)}, "0 and 1"),
        ({"pred_masks": np.full((N, 2), 0.3)}, "0 and 1"),
        ({"pred_masks": np.full((N, 2), np.nan)}, "0 and 1"),
        ({"pred_masks": np.full((N, 2), 3, np.uint8).view(bool)}, "booleans"),
        ({"pred_scores": np.ones(3)}, "pred_scores"),
        ({"pred_scores": np.array([1, np.nan])}, "NaN"),
        ({"pred_scores": np.array([1, np.inf])}, "NaN"),
        ({"pred_classes": np.array([3.5, 1])}, "integers"),
        ({"pred_classes": np.array([np.nan, 1])}, "integers"),
        ({"pred_classes": np.array([[3, 5]])}, "pred_classes"),
    ],
)
def test_malformed_arrays(tmp_path, suffix, changes, message):
    with pytest.raises(FormatError, match=message):
        scannet.read_mask_arrays(write(tmp_path, suffix, arrays(**changes)), N)


def test_pickles_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    path = tmp_path / "scene.npz"
    np.savez(path, **arrays(pred_classes=np.array([Bomb(), None], object)))
    with pytest.raises(FormatError, match="pickled"):
        scannet.read_mask_arrays(path, N)
    assert not (tmp_path / "exploded").exists()


def test_an_array_that_claims_more_than_the_archive_holds(tmp_path):
    path = tmp_path / "scene.npz"
    np.savez(path, **arrays())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    shape = b"{'descr': '|b1', 'fortran_order': False, 'shape': (6, 9999999999999), }"
    text = shape.ljust(117) + b"\n"
    members["pred_masks.npy"] = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\1" * 12
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(FormatError, match="does not fit"):
        scannet.read_mask_arrays(path, N)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_mutated_archives_give_our_error_or_a_sane_answer(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = write(tmp_path, suffix, arrays())
    good = path.read_bytes()
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        if rng.random() < 0.3:
            del data[int(rng.integers(len(data))) :]
        path.write_bytes(data)
        try:
            read = scannet.read_mask_arrays(path, N)
            assert read.masks.shape[0] == N and np.isfinite(read.scores).all()
        except FormatError:
            refused += 1
    assert refused > 50


def test_vertex_masks(tmp_path):
    path = tmp_path / "mask.txt"
    path.write_text("0\n4\n4\n")
    assert scannet.read_vertex_mask(path, N).tolist() == [True, False, False, False, True, False]
    path.write_text("")
    assert not scannet.read_vertex_mask(path, N).any()
    path.write_text("0\n6\n")
    with pytest.raises(FormatError) as error:
        scannet.read_vertex_mask(path, N)
    assert error.value.line == 2


def test_write_and_read_back(tmp_path):
    rng = np.random.default_rng(0)
    masks = rng.random((3, 50)) < 0.5
    scannet.write_prediction(tmp_path, "scene0", iter(masks), [3, 5, 3], [1 / 3, 1.0, 0.0])
    assert scannet.find_scenes(tmp_path) == {"scene0": tmp_path / "scene0.txt"}
    listed = scannet.read_prediction_list(tmp_path / "scene0.txt", tmp_path)
    assert [(item.label_id, item.score) for item in listed] == [(3, 1 / 3), (5, 1.0), (3, 0.0)]
    for item, mask in zip(listed, masks, strict=True):
        assert np.array_equal(scannet.read_mask(item.path, 50), mask)
        assert item.path.read_text() == "".join(f"{int(flag)}\n" for flag in mask)
    ids = rng.integers(-100, 40_000, 50)
    scannet.write_truth(tmp_path / "gt" / "scene0.txt", ids)
    assert np.array_equal(scannet.read_truth(tmp_path / "gt" / "scene0.txt"), ids)
    scannet.write_truth(tmp_path / "gt" / "empty.txt", ids[:0])
    assert scannet.read_truth(tmp_path / "gt" / "empty.txt").size == 0


def test_fewer_masks_replace_more_and_a_full_disk_leaves_no_part_of_one(tmp_path, monkeypatch):
    masks = np.eye(3, 50, dtype=bool)
    scannet.write_prediction(tmp_path, "scene0", iter(masks), [1, 1, 1], [1, 1, 1])
    scannet.write_prediction(tmp_path, "scene0", iter(masks[2:]), [1], [1])
    assert [path.name for path in (tmp_path / "scene0_masks").iterdir()] == ["0000.txt"]

    def full(path, data):
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space") as error:
        scannet.write_prediction(tmp_path, "scene0", iter(masks), [1, 1, 1], [1, 1, 1])
    assert error.value.filename == str(tmp_path / "scene0_masks/0000.txt") and error.value.errno == errno.ENOSPC
    assert np.array_equal(scannet.read_mask(tmp_path / "scene0_masks/0000.txt", 50), masks[2])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0000.txt", "scene0.txt", "scene0_masks"]


def test_finding_scenes(tmp_path):
    for name in ("b.txt", "a.npz", "semantic_instance_evaluation.txt", "note.md"):
        (tmp_path / name).write_text("")
    (tmp_path / "masks").mkdir()
    assert list(scannet.find_scenes(tmp_path)) == ["a", "b"]
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="two files"):
        scannet.find_scenes(tmp_path)


@pytest.mark.parametrize("layout", ["{scene}.txt", "gt/{scene}.txt", "{scene}/gt/{scene}.txt", "{scene}/{scene}.txt"])
def test_finding_truth(tmp_path, layout):
    for scene in ("room1", "room0"):
        path = tmp_path / layout.format(scene=scene)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0\n")
        (tmp_path / scene).mkdir(exist_ok=True)
        (tmp_path / scene / "notes.txt").write_text("x")
    assert list(scannet.find_truth(tmp_path)) == ["room0", "room1"]
