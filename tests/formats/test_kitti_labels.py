# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.kitti_labels import find_labels, find_results, parse_rows, read_labels, read_results, read_split

LABEL = b"Car 0.00 2 -1.55 548.00 171.33 572.40 194.42 1.48 1.56 3.62 -2.72 0.82 48.22 -1.62"


def test_reads_labels_and_results(tmp_path):
    (tmp_path / "000000.txt").write_bytes(
        LABEL + b"\r\nDontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10\r\n\r\n"
    )
    types, values = read_labels(tmp_path / "000000.txt")
    assert types == ["car", "dontcare"] and values.shape == (2, 14)
    assert values[0].tolist() == [0, 2, -1.55, 548, 171.33, 572.4, 194.42, 1.48, 1.56, 3.62, -2.72, 0.82, 48.22, -1.62]
    (tmp_path / "000001.txt").write_bytes(LABEL + b" 9.5e-1")  # no newline at the end
    types, values = read_results(tmp_path / "000001.txt")
    assert types == ["car"] and values.shape == (1, 15) and values[0, 14] == 0.95


@pytest.mark.parametrize("text", [b"", b"\n", b"\r\n\n  \n"])
def test_files_may_be_empty(text):
    types, values = parse_rows(text, "f", 16)
    assert types == [] and values.shape == (0, 15)


def test_an_integer_may_have_a_point():
    assert parse_rows(LABEL.replace(b" 2 ", b" +2.0 "), "f", 15)[1][0, 1] == 2


@pytest.mark.parametrize(
    ("line", "columns", "message"),
    [
        (LABEL + b" 0.5", 15, "found 16 columns, expected the 15 of a label"),
        (LABEL, 16, "found 15 columns, expected the 16 of a result"),
        (b"Car", 15, "found 1 columns"),
        (LABEL + b" nan", 16, "found 'nan' for score, expected a finite number"),
        (LABEL + b" inf", 16, "found 'inf' for score"),
        (LABEL + b" 1e999", 16, "found '1e999' for score"),
        (LABEL + b" 1_0", 16, "found '1_0' for score"),
        (LABEL + b" 0x10", 16, "found '0x10' for score"),
        (LABEL + "\u0661".encode().rjust(3), 16, "for score"),
        (LABEL.replace(b"548.00", b"548,00"), 15, "found '548,00' for x1"),
        (LABEL.replace(b" 2 ", b" 1.5 "), 15, "found '1.5' for occluded, expected an integer"),
        (LABEL.replace(b"Car", b"C\xc3\xa4r"), 15, "not ASCII"),
        (b"", 15, "found 0 columns"),  # an empty line that is not at the end
    ],
)
def test_faults_name_the_line(line, columns, message):
    good = LABEL + b" 0.5" * (columns - 15)
    with pytest.raises(FormatError, match=message) as caught:
        parse_rows(b"\n".join([good, line, good]), "folder/000007.txt", columns)
    assert (caught.value.file, caught.value.line) == ("folder/000007.txt", 2)


def test_an_underscore_in_a_type_is_no_fault():
    assert parse_rows(LABEL.replace(b"Car", b"Person_sitting"), "f", 15)[0] == ["person_sitting"]


def test_rows_that_make_up_for_each_other_are_found():
    with pytest.raises(FormatError, match="found 16 columns") as caught:
        parse_rows(LABEL + b" 1\n" + LABEL.rsplit(b" ", 1)[0], "f", 15)
    assert caught.value.line == 1


@pytest.mark.parametrize("place", [".", "label_2", "training/label_2"])
def test_finds_labels(tmp_path, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for name in ("000010.txt", "000002.txt", "readme.txt", "12.txt"):
        (tmp_path / place / name).touch()
    assert list(find_labels(tmp_path)) == ["000002", "000010"]


def test_finds_results_in_data_before_the_folder(tmp_path):
    (tmp_path / "000001.txt").touch()
    assert list(find_results(tmp_path)) == ["000001"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "000002.txt").touch()
    assert list(find_results(tmp_path)) == ["000002"]


def test_no_files_is_an_error_that_names_the_places(tmp_path):
    with pytest.raises(InputError, match="no KITTI labels; tried NNNNNN.txt, label_2/NNNNNN.txt"):
        find_labels(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_results(tmp_path / "gone")


def test_a_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "000000.txt").mkdir()
    with pytest.raises(InputError, match="not a regular file"):
        read_labels(tmp_path / "000000.txt")


def test_split(tmp_path):
    path = tmp_path / "val.txt"
    path.write_bytes(b"000010\r\n000002\n\n")
    assert read_split(path) == ["000002", "000010"]
    for text, message in ((b"000001\n12\n", "found '12'"), (b"000001\n000001\n", "000001 again"), (b"", "found ''")):
        path.write_bytes(text)
        with pytest.raises(FormatError, match=message):
            read_split(path)
    with pytest.raises(InputError):
        read_split(tmp_path / "gone.txt")


def test_values_are_finite_doubles():
    assert parse_rows(LABEL, "f", 15)[1].dtype == np.float64
