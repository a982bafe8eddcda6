# SPDX-License-Identifier: Apache-2.0
import pytest

from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.formats.class_lists import instance_classes, semantic_classes


def test_the_scannet_lists():
    scannet = instance_classes("scannet")
    assert scannet.ids == (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)
    assert scannet.names[0] == "cabinet" and scannet.names[-1] == "otherfurniture" and scannet.groups == ()
    large = instance_classes("scannet200")
    assert len(large.ids) == 198 and not {"wall", "floor"} & set(large.names)
    assert [large.groups.count(group) for group in ("head", "common", "tail")] == [64, 68, 66]


def test_plain_list_with_instances(tmp_path):
    (tmp_path / "all.txt").write_text("wall\r\nchair\r\noffice chair\r\n")
    (tmp_path / "some.txt").write_text("office chair\nchair\n")
    classes = instance_classes(str(tmp_path / "all.txt"), tmp_path / "some.txt")
    assert classes.ids == (1, 2) and classes.names == ("chair", "office chair") and classes.source == "all.txt"
    assert instance_classes(str(tmp_path / "all.txt")).ids == (0, 1, 2)


def test_table_with_columns_in_any_order(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("# a comment\nname\tid\tgroup\twhat\tinstance\nwall\t1\thead\tx\t0\ncup\t70\ttail\tx\t1\n")
    classes = instance_classes(str(path))
    assert (classes.ids, classes.names, classes.groups) == ((70,), ("cup",), ("tail",))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("chair\n\ntable\n", 2),
        ("chair\nchair\n", 2),
        ("id\tname\n3\n", 2),
        ("id\tname\nx\tchair\n", 2),
        ("id\tname\n3\tchair\n3\ttable\n", 3),
        ("", None),
    ],
)
def test_malformed_lists_name_the_line(tmp_path, text, line):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(FormatError) as error:
        instance_classes(str(path))
    assert error.value.line == line


def test_unknown_names(tmp_path):
    with pytest.raises(UsageError, match="no class list"):
        instance_classes("scannet21")
    for name in ("missing.txt", str(tmp_path / "missing")):
        with pytest.raises(InputError, match="no such file of classes"):
            instance_classes(name)
    (tmp_path / "all.txt").write_text("wall\nchair\n")
    (tmp_path / "some.txt").write_text("chiar\n")
    with pytest.raises(FormatError, match="chiar"):
        instance_classes(str(tmp_path / "all.txt"), tmp_path / "some.txt")
    with pytest.raises(InputError):
        instance_classes(str(tmp_path / "all.txt"), tmp_path / "missing.txt")


def test_semantic_classes_are_all_of_the_list(tmp_path):
    scannet, scannet200 = semantic_classes("scannet"), semantic_classes("scannet200")
    assert len(scannet.ids) == 20 and scannet.names[:2] == ("wall", "floor") and scannet.groups == ()
    assert len(scannet200.ids) == len(scannet200.groups) == 200 and scannet200.groups[0] == "head"
    path = tmp_path / "names.txt"
    path.write_text("wall\nlamp\n")
    assert semantic_classes(str(path)).ids == (0, 1)
    with pytest.raises(UsageError):
        semantic_classes("nyu")
