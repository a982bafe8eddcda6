# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.semantickitti import LABEL_BITS, check_labels, find_scans, label_map, read_labels, write_labels


def test_the_classes_of_both_tasks():
    single, multi = label_map("single"), label_map("multi")
    assert (len(single.names), len(multi.names)) == (19, 25)
    assert single.names[:5] == ("car", "bicycle", "motorcycle", "truck", "other-vehicle")
    assert multi.names[:19] == single.names
    assert multi.names[19:] == (
        "moving-car", "moving-bicyclist", "moving-person", "moving-motorcyclist", "moving-other-vehicle", "moving-truck"
    )  # fmt: skip
    for labels in (single, multi):
        classes = dict(zip(labels.raw_labels.tolist(), labels.class_ids.tolist(), strict=True))
        assert len(classes) == 34 and labels.num_raw == 260
        assert [classes[raw] for raw in (0, 1, 52, 99)] == [0, 0, 0, 0]
        expected = {20: [5, 5, 9, 1, 5, 4], 26: [5, 5, 9, 20, 24, 25]}[len(labels.names) + 1]
        assert [classes[raw] for raw in (13, 16, 60, 252, 257, 258)] == expected


def test_low_half_is_the_label(tmp_path):
    path = tmp_path / "x.label"
    path.write_bytes(np.array([10, (7 << 16) | 252, (65535 << 16) | 81], "<u4").tobytes())
    assert (read_labels(path) & LABEL_BITS).tolist() == [10, 252, 81]
    path.write_bytes(b"")
    assert read_labels(path).tolist() == []
    path.write_bytes(b"1234567")
    with pytest.raises(FormatError, match="multiple of 4"):
        read_labels(path)
    with pytest.raises(InputError):
        read_labels(tmp_path / "none.label")
    with pytest.raises(InputError):
        read_labels(tmp_path)


@pytest.mark.parametrize("raw", [2, 12, 100, 260, 359, 65535])
def test_unknown_labels_are_refused(tmp_path, raw):
    with pytest.raises(FormatError, match=f"point 1 has raw label {raw}"):
        check_labels(np.array([10 + (3 << 16), raw], np.uint32), label_map("single"), tmp_path)


def test_find_scans(tmp_path):
    for name in ("00/labels/000001", "00/labels/000000", "08/labels/000000", "11/velodyne/000000", "x/labels/000000"):
        write_labels(tmp_path / "sequences" / f"{name}.label", [10])
    names = ["00/000000", "00/000001", "08/000000"]
    assert list(find_scans(tmp_path, "labels")) == names
    assert list(find_scans(tmp_path / "sequences", "labels")) == names
    assert list(find_scans(tmp_path, "labels", ("08",))) == ["08/000000"]
    for arguments in (("predictions",), ("labels", ("11",)), ("labels", ("05",))):
        with pytest.raises(InputError):
            find_scans(tmp_path, *arguments)
    with pytest.raises(InputError):
        find_scans(tmp_path / "none", "labels")
