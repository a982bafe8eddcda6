# SPDX-License-Identifier: Apache-2.0
"""The report in a real browser without a network: it sorts, draws, filters and shows hostile names as text."""

import json

import cv2
import numpy as np
import pytest

from pc3dcli.formats.report_page import Report, build_report

HOSTILE = "</script><img src=x onerror=document.title='owned'>"
AP = {"chair": 0.25, "desk": None, HOSTILE: 0.75, "sofa": 0.5}
SCENES = 30


def result_of(**changes):
    per_class = {name: {"ap": ap, "gt": 0 if ap is None else int(40 * ap)} for name, ap in AP.items()}
    scenes = {f"scene{number}": {"ap": None if number == 7 else (number * 7 % SCENES) / 40} for number in range(SCENES)}
    result = {
        "schema": "pc3d.eval/1",
        "task": "instance",
        "preset": "scannet",
        "tool_version": "0.1.0",
        "options": {"min_region": 100, "classes": HOSTILE},
        "inputs": {"scenes": SCENES, "gt_digest": "sha256:aa", "pred_digest": None},
        "metrics": {"ap": 0.5, "ap50": None},
        "intervals": {"ap": [0.45, 0.5625]},
        "per_class": per_class,
        "per_scene": scenes,
        "size_bins": {"<500": {"gt": 3, "rc": 0.5}, "rest": {"gt": 0, "rc": None}},
        "breakdowns": {"distance": {"0-20": {"map": 0.5, "mate": 1.25}}},
        "confusion": [
            {"gt": "chair", "pred": "chair", "count": 30},
            {"gt": "chair", "pred": HOSTILE, "count": 10},
            {"gt": None, "pred": "chair", "count": 1234},
        ],
        "counts": {"gt": 60, "pred": 4, "ignored_pred": 1, "classes": 4, "undefined_classes": 1},
        "warnings": [{"code": "c", "file": HOSTILE, "detail": f"number {number}"} for number in range(5)],
    }
    return result | changes


def curve(scale):
    return {"x": [0, 0.5 * scale, scale], "y": [1, 0.8, 0.2], "x_name": "recall", "y_name": "precision"}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    curves = {name: curve(ap) for name, ap in AP.items() if ap is not None}
    text = build_report(Report(result_of(), "the rule", "a footnote\nof two lines", SCENES - 1, curves))
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def page(browser, page_file):
    browser.get_log("performance"), browser.get_log("browser")  # forget earlier pages
    browser.get(page_file.as_uri())
    return browser


def find(page, selector):
    return page.find_elements("css selector", selector)


def column(page, place, number):
    """Return the texts of a column of a table's body, from 1."""
    script = "return [...document.querySelectorAll(arguments[0])].map((cell) => cell.textContent)"
    return page.execute_script(script, f"#{place} tbody tr > :nth-child({number})")


def sort(page, place, number):
    button = find(page, f"#{place} thead th:nth-child({number}) button")[0]
    page.execute_script("arguments[0].click()", button)
    return button.find_element("xpath", "..").get_attribute("aria-sort")


def picture(element):
    return cv2.imdecode(np.frombuffer(element.screenshot_as_png, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)


def test_loads_offline_without_a_request_or_an_error(page):
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in urls if url.startswith("file:")]) == 1  # the page itself
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_says_the_rule_first(page):
    head = find(page, "header")[0].text
    for words in (
        "instance, preset scannet",
        "the rule \u00b7 30 scenes",
        "a footnote\nof two lines",
        "29 of 30 scenes",
    ):
        assert words in head
    tiles = [tile.text.split("\n") for tile in find(page, "#tiles > div")]
    assert tiles == [["AP", "0.5000", "95 %: 0.4500 to 0.5625"], ["AP50", "-"]]
    links = [link.text for link in find(page, "nav a")]
    assert links == ["Warnings", "Classes", "Curves", "Confusion", "Breakdown", "Scenes", "Details"]


def test_a_click_sorts_and_undefined_stays_last(page):
    assert column(page, "class-table", 1) == list(AP)
    assert sort(page, "class-table", 2) == "descending"
    assert column(page, "class-table", 2) == ["0.7500", "0.5000", "0.2500", "-"]
    assert sort(page, "class-table", 2) == "ascending"
    assert column(page, "class-table", 2) == ["0.2500", "0.5000", "0.7500", "-"]
    assert sort(page, "class-table", 1) == "ascending"
    assert column(page, "class-table", 1) == [HOSTILE, "chair", "desk", "sofa"]
    assert sort(page, "class-table", 3) == "descending"
    assert column(page, "class-table", 3) == ["30", "20", "10", "0"]
    assert [cell.text for cell in find(page, "#class-table tfoot tr > *")] == ["mean", "0.5000", "60"]


def test_hostile_names_are_text(page):
    assert page.title == "instance, preset scannet" and find(page, "img, [onerror]") == []
    assert HOSTILE in column(page, "class-table", 1) and HOSTILE in find(page, ".key")[0].text
    assert HOSTILE in find(page, "#warning-list")[0].text and HOSTILE in column(page, "pairs", 2)


def test_curves_are_drawn_and_switched(page):
    drawing = find(page, "#plots svg")[0]
    paths = find(page, "#plots path.curve")
    assert len(paths) == 3 and all(path.get_attribute("class").startswith("curve on c") for path in paths)
    blue = (11, 98, 196)  # the first colour
    assert (np.abs(picture(drawing) - blue).max(-1) < 30).sum() > 300
    box = find(page, ".key input[type=checkbox]")[0]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    box.click()
    assert len(find(page, "#plots path.on")) == 2
    find(page, ".key button")[1].click()  # None
    assert find(page, "#plots path.on") == []
    find(page, ".key button")[0].click()  # All
    assert len(find(page, "#plots path.on")) == 3


def test_a_curve_is_named_under_the_pointer(page):
    path = next(path for path in find(page, "#plots path.curve") if "c0" in path.get_attribute("class"))
    script = """const [path] = arguments, svg = path.ownerSVGElement;
      const end = path.getPointAtLength(path.getTotalLength());
      path.scrollIntoView({block: 'center'});
      const at = new DOMPoint(end.x + 3, end.y).matrixTransform(svg.getScreenCTM());
      svg.dispatchEvent(new PointerEvent('pointermove', {clientX: at.x, clientY: at.y}));
      return document.getElementById('tip').textContent;"""
    assert page.execute_script(script, path) == "chair\nprecision 0.200\nrecall 0.250"
    assert len(find(page, "#plots path.lit")) == 1


def test_confusion_says_counts_and_shares(page):
    canvas = find(page, "#matrix")[0]
    canvas.send_keys("\ue014")  # arrow right: the first cell, then the next
    canvas.send_keys("\ue014")
    said = find(page, "#cell")[0].text
    assert said == f"true chair, predicted {HOSTILE}: 10; 0.2500 of 40 true; 1.0000 of 10 predicted"
    assert column(page, "pairs", 1) == ["(nothing there)", "chair"] and column(page, "pairs", 3) == ["1,234", "10"]
    page.execute_script("arguments[0].blur()", canvas)
    pixels = picture(canvas)
    assert (np.abs(pixels - (194, 80, 10)).max(-1) < 40).sum() > 300  # all of (nothing there) went to chair
    before = pixels
    page.execute_script("document.querySelector('#share input[value=column]').click()")
    assert (picture(canvas) != before).any()


def test_scenes_open_with_the_worst(page):
    assert len(find(page, "#scene-table tbody tr")) == 20
    assert column(page, "scene-table", 1)[:2] == ["scene0", "scene13"]
    assert len(find(page, "#histogram rect")) == 20 and "median 0.3500" in find(page, "#histogram svg")[0].text
    page.execute_script("document.querySelector('#scene-table caption button').click()")
    assert len(find(page, "#scene-table tbody tr")) == SCENES and column(page, "scene-table", 1)[-1] == "scene7"
    sort(page, "scene-table", 1)
    assert column(page, "scene-table", 1) == [f"scene{number}" for number in range(SCENES)]  # 9 before 10
    find(page, "#scene-filter")[0].send_keys("scene1")
    assert len(find(page, "#scene-table tbody tr")) == 11


def test_breakdowns_warnings_and_digests(page):
    tables = [table.text for table in find(page, "#breakdown-tables > div")]
    assert "mATE" in tables[0] and "1.2500" in tables[0] and "recall by size in vertices" in tables[1]
    assert "c (5)" in find(page, "#warning-list")[0].text and "2 more" in find(page, "#warning-list")[0].text
    details = find(page, "#details")[0].text
    for words in ("min_region", "sha256:aa", "not taken", "result.json", "ignored pred"):
        assert words in details


def test_empty_sections_are_not_shown(browser, tmp_path):
    bare = result_of(per_class={}, warnings=[], breakdowns={}, size_bins={}, confusion=[], per_scene={}, intervals={})
    path = tmp_path / "bare.html"
    path.write_text(build_report(Report(bare)), encoding="utf-8")
    browser.get_log("browser")
    browser.get(path.as_uri())
    assert [link.text for link in find(browser, "nav a")] == ["Details"]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_two_hundred_classes_fit(browser, tmp_path):
    rng = np.random.default_rng(0)
    names = [f"a rather long name of class {number}" for number in range(200)]
    per_class = {name: {"ap": float(rng.random()), "gt": 5} for name in names}
    cells = [{"gt": a, "pred": b, "count": int(rng.integers(1, 9))} for a in names for b in (a, names[0], None)]
    path = tmp_path / "many.html"
    curves = {name: curve(0.5) for name in names}
    text = build_report(Report(result_of(per_class=per_class, confusion=cells), curves=curves))
    path.write_text(text, encoding="utf-8")
    browser.get_log("browser")
    browser.get(path.as_uri())
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    matrix = find(browser, "#matrix")[0].size
    assert matrix["width"] >= 4 * 201 and matrix["height"] < 1400
    assert len(find(browser, "#plots path.curve")) == 200 and len(find(browser, "#plots path.on")) == 8
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [360, 800])
def test_narrow_screens_scroll_only_down(page, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.refresh()
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_scheme_changes_paper_and_matrix(page):
    canvas = find(page, "#matrix")[0]
    light = picture(canvas).mean()
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        assert picture(canvas).mean() < 120 < light
        assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
