"""Names of metrics for people, and what the tasks count."""

import pytest

from pc3dcli.formats.result_names import class_groups, columns_of, counted, mean_names, shown_name, unit_of


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ap50", "AP50"),
        ("head_ap", "head AP"),
        ("miou", "mIoU"),
        ("map", "mAP"),
        ("mate", "mATE"),
        ("jf", "J&F"),
        ("idf1", "IDF1"),
        ("3d_r40_moderate", "3D R40 moderate"),
    ],
)
def test_names_for_people(name, text):
    assert shown_name(name) == text


def test_columns_of_rows_end_with_the_count():
    assert columns_of([{"gt": 1, "iou": 0.5}, {"acc": 0.5}]) == ["iou", "acc", "gt"]


def test_means_and_groups_of_classes():
    result = {"per_class": {"chair": {"iou": 0.5, "gt": 1}}, "metrics": {"miou": 0.5, "oa": 0.5, "head_miou": 0.5}}
    assert mean_names(result) == {"iou": "miou", "gt": None} and class_groups(result) == ["head"]


@pytest.mark.parametrize(
    ("task", "unit"), [("instance", "scene"), ("nuscenes", "scene"), ("kitti", "frame"), ("parts", "shape")]
)
def test_tasks_count_what_their_field_counts(task, unit):
    assert unit_of(task) == unit and counted(1, unit) == f"1 {unit}" and counted(2, unit) == f"2 {unit}s"
