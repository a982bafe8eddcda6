# SPDX-License-Identifier: Apache-2.0
import json
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.coco_rle import encode_mask
from pc3dcli.masks2d.files import MaskFiles
from pc3dcli.masks2d.quality import edge_touch

H, W = 6, 8


def view(name: str = "000120", image: str | None = None, size: tuple[int, int] = (H, W)) -> SimpleNamespace:
    return SimpleNamespace(frame=SimpleNamespace(frame=name, image=image or f"color/{name}.jpg"), size=size)


def block(top: int = 1, left: int = 2, height: int = 3, width: int = 4) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def write_labels(file: Path, labels: np.ndarray) -> None:
    assert cv2.imwrite(str(file), labels)


def write_palette(file: Path, labels: np.ndarray) -> None:
    """Write a palette PNG, as the tools of video segmentation do."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in labels.astype(np.uint8))
    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], 8, 3, 0, 0, 0)
    palette = bytes(range(256)) * 3
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks))


def write_json(file: Path, content) -> Path:
    file.write_text(json.dumps(content))
    return file


def write_lines(file: Path, records: list) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def mask2d(mask: np.ndarray, frame: str = "000120", scene: str = "s", **more) -> dict:
    return {"type": "mask2d", "scene": scene, "frame": frame, "track": 0, "rle": encode_mask(mask), **more}


# label images


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_images_give_a_mask_a_label(tmp_path, dtype):
    labels = np.zeros((H, W), dtype)
    labels[block()] = 200
    labels[5] = 7
    write_labels(tmp_path / "000120.png", labels)
    found = MaskFiles(tmp_path).masks(view())
    assert [one.score for one in found] == [1.0, 1.0]
    assert np.array_equal(found[0].mask, labels == 7)
    assert np.array_equal(found[1].mask, block())
    assert found[0].mask.dtype == bool


def test_palette_images_give_their_indices(tmp_path):
    labels = np.zeros((H, W), np.uint8)
    labels[block()] = 3
    write_palette(tmp_path / "000120.png", labels)
    assert np.array_equal(MaskFiles(tmp_path).masks(view())[0].mask, block())


def test_an_image_without_labels_has_no_masks(tmp_path):
    write_labels(tmp_path / "000120.png", np.zeros((H, W), np.uint8))
    assert MaskFiles(tmp_path).masks(view()) == []


@pytest.mark.parametrize(
    ("file", "frame", "image"),
    [
        ("000120.png", "000120", "color/120.jpg"),
        ("120.png", "000120", "color/000120.jpg"),
        ("000120.png", "120", "color/120.jpg"),
        ("frame-000120.color.png", "000120", "frame-000120.color.png"),
        ("frame-000120.png", "000120", "frame-000120.color.jpg"),
        ("000120.jpg.png", "120", "color/000120.jpg"),
    ],
)
def test_names_that_belong_to_a_frame(tmp_path, file, frame, image):
    write_labels(tmp_path / file, block().astype(np.uint8))
    assert len(MaskFiles(tmp_path).masks(view(frame, image))) == 1


def test_a_number_that_two_files_have_belongs_to_none(tmp_path):
    for name in ("120.png", "0120.png"):
        write_labels(tmp_path / name, block().astype(np.uint8))
    with pytest.raises(InputError, match="no masks for frame '000120'"):
        MaskFiles(tmp_path).masks(view(image="color/x.jpg"))


def test_a_frame_without_a_file_is_an_error(tmp_path):
    write_labels(tmp_path / "000110.png", block().astype(np.uint8))
    with pytest.raises(InputError, match="no masks for frame '000120'"):
        MaskFiles(tmp_path).masks(view())


def test_a_mask_of_another_size_is_refused_before_it_is_decoded(tmp_path):
    write_labels(tmp_path / "000120.png", np.ones((H, W), np.uint8))
    with pytest.raises(FormatError, match=r"the mask is 6 x 8 pixels \(height x width\), expected 7 x 8 as the frame"):
        MaskFiles(tmp_path).masks(view(size=(7, 8)))


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "colour"])
def test_damaged_label_images_are_format_errors(tmp_path, damage):
    file = tmp_path / "000120.png"
    write_labels(file, block().astype(np.uint8))
    good = file.read_bytes()
    if damage == "colour":
        write_labels(file, np.zeros((H, W, 3), np.uint8))
    else:
        file.write_bytes({"truncated": good[:-20], "empty": b"", "text": b"labels"}[damage])
    with pytest.raises(FormatError):
        MaskFiles(tmp_path).masks(view())


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    write_labels(tmp_path / "secret.png", block().astype(np.uint8))
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / "000120.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(FormatError, match="symbolic link"):
        MaskFiles(folder).masks(view())


def test_a_folder_may_hold_scenes(tmp_path):
    (tmp_path / "a").mkdir()
    write_labels(tmp_path / "a" / "000120.png", block().astype(np.uint8))
    write_lines(tmp_path / "b.ndjson", [mask2d(block(0), scene="b")])
    assert np.array_equal(MaskFiles(tmp_path, scene="a").masks(view())[0].mask, block())
    assert np.array_equal(MaskFiles(tmp_path, scene="b").masks(view())[0].mask, block(0))
    for scene in ("../a", "/a", "c"):
        with pytest.raises(InputError, match="found no masks"):
            MaskFiles(tmp_path, scene=scene)


def test_nothing_to_read_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        MaskFiles(tmp_path / "none")
    with pytest.raises(InputError, match="found no masks"):
        MaskFiles(tmp_path)


# files of segment-anything and COCO


def plain_counts(mask: np.ndarray) -> list[int]:
    """Uncompressed run lengths from their definition: column by column, the first run outside."""
    counts, inside = [0], False
    for pixel in mask.T.reshape(-1):
        if bool(pixel) != inside:
            counts.append(0)
            inside = not inside
        counts[-1] += 1
    return counts


def test_segment_anything_files_by_frame(tmp_path):
    annotation = {"segmentation": encode_mask(block(0)), "predicted_iou": 0.9, "stability_score": 0.98, "area": 12}
    write_json(tmp_path / "000120.json", {"annotations": [annotation]})
    (one,) = MaskFiles(tmp_path).masks(view())
    assert np.array_equal(one.mask, block(0))
    assert one.score == pytest.approx(0.9 * 0.98 * (1 - edge_touch(block(0))))


def test_a_segment_anything_file_names_its_image(tmp_path):
    content = {
        "image": {"image_id": 7, "file_name": "000120.jpg", "height": H, "width": W},
        "annotations": [{"segmentation": encode_mask(block()), "predicted_iou": 0.5, "stability_score": 1.0}],
    }
    assert len(MaskFiles(write_json(tmp_path / "sa_7.json", content)).masks(view())) == 1


@pytest.mark.parametrize("mask", [block(), block(0, 0), np.ones((H, W), bool)])
def test_coco_file_with_both_kinds_of_run_lengths(tmp_path, mask):
    content = {
        "images": [{"id": 1, "file_name": "color/000120.jpg"}, {"id": 2, "file_name": "000121.jpg"}],
        "annotations": [
            {"image_id": 1, "segmentation": encode_mask(mask), "score": 0.25},
            {"image_id": 1, "segmentation": {"size": [H, W], "counts": plain_counts(mask)}},
        ],
    }
    source = MaskFiles(write_json(tmp_path / "coco.json", content))
    found = source.masks(view())
    assert [one.score for one in found] == [0.25, 1.0]
    assert all(np.array_equal(one.mask, mask) for one in found)
    assert source.masks(view("000121")) == []
    with pytest.raises(InputError):
        source.masks(view("000122"))


def test_lists_of_annotations_and_results(tmp_path):
    content = [
        {"file_name": "color/000120.jpg", "segmentation": encode_mask(block())},
        {"image_id": 121, "segmentation": encode_mask(block(0)), "score": 0.5},
    ]
    source = MaskFiles(write_json(tmp_path / "list.json", content))
    assert np.array_equal(source.masks(view())[0].mask, block())
    assert source.masks(view("000121"))[0].score == 0.5


def test_empty_masks_are_left_out(tmp_path):
    content = [{"file_name": "000120.jpg", "segmentation": encode_mask(np.zeros((H, W), bool))}]
    assert MaskFiles(write_json(tmp_path / "list.json", content)).masks(view()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("3", 'expected an object with "annotations"'),
        ('{"annotations": 3}', 'expected an object with "annotations"'),
        ('{"images": 3, "annotations": []}', '"images" is not a list'),
        ('{"images": [{"id": 1}], "annotations": []}', 'lacks "id" or "file_name"'),
        ('[{"image_id": 1}]', "lacks run lengths"),
        ('[{"image_id": 1, "segmentation": [[0, 0, 3, 0, 3, 3]]}]', "lacks run lengths"),
        ("[4]", "lacks run lengths"),
        ('[{"image_id": 120, "segmentation": {}, "score": 1.5}]', '"score" is 1.5'),
        ('[{"image_id": 120, "segmentation": {}, "score": NaN}]', '"score" is nan'),
        ('[{"image_id": 120, "segmentation": {}, "score": true}]', '"score" is True'),
        ('[{"image_id": 120, "segmentation": {}}]', "the mask is None pixels"),
        ('[{"image_id": 120, "segmentation": {"size": [9, 9], "counts": "x"}}]', "the mask is 9 x 9 pixels"),
        ('[{"image_id": 120, "segmentation": {"size": [6, 8], "counts": "x"}}]', "rle"),
        ('[{"image_id": 120, "segmentation": {"size": [6, 8], "counts": [48, 1]}}]', "rle runs"),
        ('[{"image_id": 120, "segmentation": {"size": [6, 8], "counts": [-1, 49]}}]', "rle runs"),
        ('[{"image_id": 120, "segmentation": {"size": [6, 8], "counts": [48.0]}}]', "rle runs"),
        ('[{"image_id": 120, "segmentation": {"size": [6, 8]}}]', "rle counts"),
    ],
)
def test_malformed_json_is_a_format_error_that_names_the_file(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(FormatError, match=message) as caught:
        MaskFiles(tmp_path / "a.json").masks(view())
    assert caught.value.file == tmp_path / "a.json"


def test_two_files_of_a_frame_are_refused(tmp_path):
    write_labels(tmp_path / "000120.png", block().astype(np.uint8))
    write_json(tmp_path / "000120.json", {"annotations": []})
    with pytest.raises(FormatError, match="one file a frame"):
        MaskFiles(tmp_path)


# lines


def test_our_own_stream(tmp_path):
    records = [
        {"type": "header", "format": "pc3d", "version": "1.0"},
        {"type": "scene", "scene": "s", "root": "."},
        {"type": "frame", "scene": "s", "frame": "000120", "image": "a.jpg", "size": [H, W]},
        mask2d(block(), score=0.75),
        mask2d(block(0)),
        {"type": "frame", "scene": "s", "frame": "000121", "image": "b.jpg", "size": [H, W]},
        {"type": "scene_end", "scene": "s", "ok": True},
    ]
    source = MaskFiles(write_lines(tmp_path / "tracks.ndjson", records))
    found = source.masks(view())
    assert [one.score for one in found] == [0.75, 1.0]
    assert np.array_equal(found[0].mask, block())
    assert source.masks(view("000121")) == []


def test_a_stream_of_several_scenes_needs_one_to_be_chosen(tmp_path):
    file = write_lines(tmp_path / "a.jsonl", [mask2d(block(), scene="s"), mask2d(block(0), scene="r")])
    with pytest.raises(InputError, match="2 scenes"):
        MaskFiles(file)
    (one,) = MaskFiles(file, scene="r").masks(view())
    assert np.array_equal(one.mask, block(0))
    with pytest.raises(InputError, match="found no masks"):
        MaskFiles(file, scene="q")


def test_annotations_a_line(tmp_path):
    annotation = {"file_name": "000120.jpg", "segmentation": encode_mask(block())}
    file = write_lines(tmp_path / "a.ndjson", [annotation, annotation])
    assert len(MaskFiles(file).masks(view())) == 2


def test_a_malformed_line_is_named(tmp_path):
    file = tmp_path / "a.ndjson"
    for line, message in (("{", "not JSON"), ("3", "expected a JSON object"), ('{"type":"mask2d"}', "mask2d lacks")):
        file.write_text(json.dumps(mask2d(block())) + "\n\n" + line + "\n")
        with pytest.raises(FormatError, match=message) as caught:
            MaskFiles(file)
        assert (caught.value.file, caught.value.line) == (file, 3)
    file.write_text(json.dumps(mask2d(block())) + "\n" + json.dumps({**mask2d(block()), "rle": {"size": [1, 2]}}))
    with pytest.raises(FormatError, match="the mask is 1 x 2") as caught:
        MaskFiles(file).masks(view())
    assert caught.value.line == 2


def test_random_damage_gives_our_errors_or_masks_of_the_right_size(tmp_path):
    rng = np.random.default_rng(0)
    good = json.dumps([{"image_id": 120, "segmentation": encode_mask(block()), "score": 0.5}] * 2).encode()
    file = tmp_path / "a.json"
    for _ in range(400):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        file.write_bytes(bytes(damaged[: rng.integers(1, len(good) + 1)] if rng.random() < 0.3 else damaged))
        try:
            found = MaskFiles(file).masks(view())
        except (FormatError, InputError):
            continue
        assert all(one.mask.shape == (H, W) and 0 <= one.score <= 1 for one in found)
