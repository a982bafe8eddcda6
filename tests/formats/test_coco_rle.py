# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.errors import FormatError
from pc3dcli.formats.coco_rle import decode_mask, decode_masks, decode_points, encode_mask, encode_points, paint_labels


def slow_counts(mask: np.ndarray) -> str:
    """The compressed text from its definition: column-major runs, zeros first, differences to the run two before,
    six-bit groups from the lowest, 0x20 to continue, plus 48."""
    runs, value = [0], False
    for pixel in mask.reshape(-1, order="F").tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    text = ""
    for i, run in enumerate(runs):
        x = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            code = x & 31
            x >>= 5
            more = x != -1 if code & 16 else x != 0
            text += chr(48 + (code | 32 * more))
    return text


def masks():
    rng = np.random.default_rng(0)
    yield np.zeros((3, 5), bool)
    yield np.ones((3, 5), bool)
    yield np.ones((1, 1), bool)
    yield np.array([[False], [True]])
    yield np.array([[True, False, True, False, True, False]])
    for size in ((1, 40), (40, 1), (37, 53), (480, 640)):
        yield rng.random(size) < 0.5
        yield rng.random(size) < 0.003
    blob = np.zeros((968, 1296), bool)
    blob[100:700, 300:900] = True
    yield blob


@pytest.mark.parametrize("mask", list(masks()), ids=lambda mask: f"{mask.shape}-{mask.sum()}")
def test_round_trip_and_definition(mask):
    rle = encode_mask(mask)
    assert rle == {"size": list(mask.shape), "counts": slow_counts(mask)}
    assert type(rle["size"][0]) is int
    decoded = decode_mask(rle)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, mask)


def test_column_major():
    mask = np.zeros((2, 3), bool)
    mask[1, 0] = True  # second pixel of the first column
    assert encode_mask(mask)["counts"] == slow_counts(mask) == "114"


def test_layout_of_the_array_does_not_matter():
    mask = np.random.default_rng(1).random((7, 9)) < 0.5
    assert encode_mask(np.asfortranarray(mask)) == encode_mask(mask) == encode_mask(mask.astype(np.uint8))
    assert encode_mask(mask.T.T[::1]) == encode_mask(mask)


@pytest.mark.parametrize("num_points", [1, 2, 1000])
def test_points(num_points):
    mask = np.random.default_rng(num_points).random(num_points) < 0.3
    rle = encode_points(mask)
    assert rle["size"] == [num_points, 1]
    np.testing.assert_array_equal(decode_points(rle, num_points), mask)
    with pytest.raises(FormatError, match=f"{num_points} x 1 points, expected {num_points + 1} x 1"):
        decode_points(rle, num_points + 1)


def test_an_image_mask_is_no_point_mask():
    with pytest.raises(FormatError, match="2 x 3 points"):
        decode_points(encode_mask(np.zeros((2, 3), bool)), 6)


@pytest.mark.parametrize(
    "size",
    [None, [2], [2, 3, 1], ["2", "3"], [2.0, 3.0], [True, 6], [-2, -3], [2, 1 << 31], [1 << 16, 1 << 16], "23", 6],
)
def test_refused_sizes(size):
    with pytest.raises(FormatError, match="rle"):
        decode_mask({"size": size, "counts": "06"})


@pytest.mark.parametrize("rle", [None, "06", [2, 3], {}, {"counts": "06"}, {"size": [2, 3]}, 3])
def test_refused_objects(rle):
    with pytest.raises(FormatError, match="rle"):
        decode_mask(rle)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([0, 6], "counts are list"),
        (b"06", "counts are bytes"),
        (None, "counts are NoneType"),
        ("07", "do not sum to 6"),
        ("05", "do not sum to 6"),
        ("", "do not sum to 6"),
        ("0", "do not sum to 6"),
        ("6\n", "outside COCO's alphabet"),
        ("6 ", "outside COCO's alphabet"),
        ("6~", "outside COCO's alphabet"),
        ("6é", "outside COCO's alphabet"),
        ("6\ud800", "outside COCO's alphabet"),
        ("P", "end inside a number"),
        ("0V", "end inside a number"),
        ("8N", "do not sum to 6"),  # 8 and -2
        ("P" * 40 + "0", "more than 35 bits"),
    ],
)
def test_refused_counts(counts, message):
    with pytest.raises(FormatError, match=message):
        decode_mask({"size": [2, 3], "counts": counts})


def test_empty_images():
    assert decode_mask(encode_mask(np.zeros((0, 5), bool))).shape == (0, 5)
    assert decode_points(encode_points(np.zeros(0, bool)), 0).shape == (0,)


def test_random_texts_are_decoded_to_the_right_size_or_refused():
    """The library writes past the image when a run is too long; whatever comes in, that must not be reached."""
    rng = np.random.default_rng(3)
    accepted = 0
    for _ in range(5000):
        counts = "".join(chr(c) for c in rng.integers(48, 112, rng.integers(1, 4)))
        height, width = rng.integers(1, 6, 2).tolist()
        try:
            mask = decode_mask({"size": [height, width], "counts": counts})
        except FormatError:
            continue
        accepted += 1
        assert mask.shape == (height, width)
    assert accepted


def test_mutated_texts():
    rng = np.random.default_rng(4)
    good = encode_mask(rng.random((20, 30)) < 0.2)
    for _ in range(2000):
        counts = list(good["counts"])
        counts[rng.integers(len(counts))] = chr(rng.integers(48, 112))
        try:
            mask = decode_mask(good | {"counts": "".join(counts)})
        except FormatError:
            continue
        # what is accepted means the same to the library and to the definition
        assert mask.shape == (20, 30)
        assert decode_mask({"size": [20, 30], "counts": slow_counts(mask)}).tolist() == mask.tolist()


def test_paint_labels_small_over_large():
    rng = np.random.default_rng(5)
    masks = [(track, rng.random((9, 11)) < share) for track, share in [(4, 0.1), (0, 0.9), (7, 0.4), (2, 0.0)]]
    expected = np.full((9, 11), -1, np.int32)
    for track, mask in sorted(masks, key=lambda item: -item[1].sum()):
        expected[mask] = track
    labels = paint_labels([(track, encode_mask(mask)) for track, mask in masks], (9, 11))
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected)


def test_paint_labels_of_nothing_and_of_another_size():
    np.testing.assert_array_equal(paint_labels([], (2, 3)), np.full((2, 3), -1))
    with pytest.raises(FormatError, match="mask is 3 x 2, expected 2 x 3"):
        paint_labels([(0, encode_mask(np.ones((2, 3), bool)))], (3, 2))
    with pytest.raises(FormatError, match="do not sum"):
        paint_labels([(0, {"size": [2, 3], "counts": "07"})], (2, 3))


@pytest.mark.parametrize("overlap", [False, True])
def test_painted_labels_match_painting_mask_by_mask(overlap):
    rng = np.random.default_rng(3)
    for _ in range(100):
        size = tuple(int(n) for n in rng.integers(1, 20, 2))
        if overlap:
            masks = [(k, rng.random(size) < rng.random()) for k in range(rng.integers(0, 5))]
        else:
            image = rng.integers(-1, 4, size)
            masks = [(k, image == k) for k in range(4)]
        expected = np.full(size, -1)
        for number, mask in sorted(masks, key=lambda item: -item[1].sum()):
            expected[mask] = number
        painted = paint_labels([(number, encode_mask(mask)) for number, mask in masks], size)
        assert painted.dtype == np.int32 and np.array_equal(painted, expected)


def test_many_at_once_equal_one_by_one():
    """Also where masks of one frame have odd, even and no numbers of runs, and differ in size."""
    every = [mask for mask in masks() if mask.size < 1 << 20] + [np.zeros((0, 0), bool), np.ones((2, 2), bool)]
    decoded = decode_masks([encode_mask(mask) for mask in every])
    assert decode_masks([]) == []
    for mask, found in zip(every, decoded, strict=True):
        np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("wrong", ["8N", "P", "7", ""])
def test_one_bad_mask_among_good_ones(wrong):
    good = encode_mask(np.array([[True, False, True]]))
    with pytest.raises(FormatError):
        decode_masks([good, {"size": [1, 3], "counts": wrong}, good])
