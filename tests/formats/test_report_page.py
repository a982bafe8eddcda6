# SPDX-License-Identifier: Apache-2.0
import base64
import hashlib
import json
import re

import numpy as np
import pytest

from pc3dcli.formats.report_page import CURVE_BINS, Report, build_report, thinned

HOSTILE = "</script><script>document.title='owned'</script><!--"


def result_of(**changes):
    result = {
        "schema": "pc3d.eval/1",
        "task": "semantic",
        "preset": "scannet200",
        "tool_version": "0.1.0",
        "options": {"groups": None, "classes": HOSTILE, "label_void": [1, 3]},
        "inputs": {"scenes": 2, "gt_digest": "sha256:aa", "pred_digest": None},
        "metrics": {"miou": 0.5, "macc": None, "head_miou": 0.75, "tail_miou": 0.25},
        "per_class": {HOSTILE: {"iou": 0.1234567, "gt": 3}, "desk": {"iou": None, "gt": 0}},
        "counts": {"gt": 3, "pred": 4, "ignored_pred": 0, "classes": 2, "undefined_classes": 1},
        "warnings": [],
    }
    return result | changes


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_hostile_names_stay_data():
    page = build_report(Report(result_of(task=HOSTILE), rule=HOSTILE, footnote=HOSTILE))
    assert page.count("<script") == 2 and page.count("</script>") == 2 and "<!--" not in page
    assert data_of(page)["classes"]["rows"][0][0] == HOSTILE == data_of(page)["rule"]


def test_policy_allows_only_our_own_script_and_style():
    page = build_report(Report(result_of()))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; ")
    for kind, pattern in (("script", r"<script>(.*?)</script>"), ("style", r"<style>(.*?)</style>")):
        text = re.search(pattern, page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.findall(r'(?:src|href)="(?!#|data:|result\.)', page) and "@import" not in page and "url(" not in page
    assert not re.search(r"<[^>]+ style=", page)


def test_same_result_same_bytes():
    curves = {"desk": {"x": [0.0, 0.5], "y": [1.0, 0.5], "x_name": "recall", "y_name": "precision"}}
    assert build_report(Report(result_of(), curves=curves)) == build_report(Report(result_of(), curves=curves))


def test_undefined_is_null_and_nan_is_refused():
    data = data_of(build_report(Report(result_of())))
    assert data["classes"]["rows"][1][1:] == [None, 0] and data["metrics"][1] == ["mAcc", "-"]
    with pytest.raises(ValueError, match="JSON"):
        build_report(Report(result_of(metrics={"miou": float("nan")})))


def test_counts_are_told_from_numbers_that_happen_to_be_whole():
    rows = {"a": {"ap": 1.0, "id_switches": 1, "gt": 1}, "b": {"ap": 0.0, "id_switches": None, "gt": 2}}
    metrics = {"miou": 1.0, "id_switches": 1234, "macc": None}
    data = data_of(build_report(Report(result_of(per_class=rows, metrics=metrics))))
    assert data["classes"]["counts"] == [False, True, True]
    assert data["metrics"] == [["mIoU", "1.0000"], ["id switches", "1,234"], ["mAcc", "-"]]


def test_means_stand_under_their_column_and_groups_of_classes_above():
    data = data_of(build_report(Report(result_of())))
    assert data["means"] == [["head", 0.75, None], ["tail", 0.25, None], ["mean", 0.5, 3]]
    metrics = {"ap": 0.5, "ap50": 0.6, "tail_ap": 0.1, "tail_ap50": 0.2}
    per_class = {"desk": {"ap": 0.5, "ap50": 0.6}}
    data = data_of(build_report(Report(result_of(metrics=metrics, per_class=per_class))))
    assert data["means"] == [["tail", 0.1, 0.2], ["mean", 0.5, 0.6]]
    assert [data["metrics"][k][0] for k in data["headline"]] == ["AP", "AP50", "tail AP"]


def test_a_task_without_classes_has_no_means():
    data = data_of(build_report(Report(result_of(per_class={}))))
    assert data["means"] == [] and data["headline"] == [0, 1, 2, 3] and data["classes"]["rows"] == []


def test_scenes_open_at_the_first_metric_that_they_have():
    scenes = {"a": {"acc": 0.1, "macc": 0.2}, "b": {"acc": 0.3}}
    data = data_of(build_report(Report(result_of(per_scene=scenes))))
    assert data["sceneColumn"] == 1 and data["scenes"]["rows"] == [["a", 0.1, 0.2], ["b", 0.3, None]]


def test_confusion_holds_the_classes_that_occur_with_none_last():
    cells = [
        {"gt": None, "pred": "desk", "count": 2},
        {"gt": "desk", "pred": HOSTILE, "count": 5},
        {"gt": "desk", "pred": None, "count": 0},
    ]
    confusion = data_of(build_report(Report(result_of(confusion=cells))))["confusion"]
    assert confusion == {"names": [HOSTILE, "desk", None], "cells": [1, 0, 5, 2, 1, 2]}
    assert data_of(build_report(Report(result_of(confusion=[]))))["confusion"] is None


def test_curves_of_other_axes_are_plots_of_their_own():
    curves = {
        "desk": {"x": [0, 1], "y": [1, 0], "x_name": "recall", "y_name": "precision"},
        "chair": {"x": [0, 9], "y": [0, 1], "x_name": "metres", "y_name": "recall"},
        "none": {"x": [], "y": [], "x_name": "recall", "y_name": "precision"},
    }
    plots = data_of(build_report(Report(result_of(), curves=curves)))["plots"]
    assert [(plot["x"], [curve[0] for curve in plot["curves"]]) for plot in plots] == [
        ("recall", ["desk"]), ("metres", ["chair"])
    ]  # fmt: skip


def test_the_classes_with_most_ground_truth_have_a_colour_first():
    per_class = {f"c{k}": {"ap": 0.5, "gt": k % 10} for k in range(20)}
    curve = {"x": [0.0], "y": [1.0], "x_name": "recall", "y_name": "precision"}
    report = Report(result_of(per_class=per_class), curves=dict.fromkeys(per_class, curve))
    assert data_of(build_report(report))["plots"][0]["chosen"] == [6, 7, 8, 9, 16, 17, 18, 19]


@pytest.mark.parametrize("sign", [1, -1])
def test_thinned_curves_keep_ends_and_extremes_of_each_bin(sign):
    rng = np.random.default_rng(0)
    x = np.sort(rng.random(50_000))[::sign]
    y = rng.random(50_000)
    thin_x, thin_y = thinned(x, y)
    assert thin_x.size <= 4 * CURVE_BINS and (np.diff(thin_x) * sign >= 0).all()
    assert (thin_x[0], thin_x[-1], thin_y.max(), thin_y.min()) == tuple(
        np.round(value, 4) for value in (x[0], x[-1], y.max(), y.min())
    )
    edges = np.linspace(x.min(), x.max(), CURVE_BINS + 1)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside, kept = (x > low) & (x < high), (thin_x > low - 1e-4) & (thin_x < high + 1e-4)
        assert thin_y[kept].max() >= round(y[inside].max(), 4) and thin_y[kept].min() <= round(y[inside].min(), 4)


def test_short_curves_stay_as_they_are():
    x, y = thinned(np.array([0, 0.5, 0.5]), np.array([1, 0.9, 0.12345]))
    assert x.tolist() == [0, 0.5, 0.5] and y.tolist() == [1, 0.9, 0.1234]
    assert thinned(np.zeros(5000), np.linspace(0, 1, 5000))[1].tolist() == [0, 1]  # all at one place


def test_the_page_says_what_the_task_counts():
    assert data_of(build_report(Report(result_of())))["unit"] == "scene"
    assert data_of(build_report(Report(result_of(task="kitti"))))["unit"] == "frame"


def test_no_script_is_said():
    assert "<noscript>" in build_report(Report(result_of()))
