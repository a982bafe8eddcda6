# SPDX-License-Identifier: Apache-2.0
import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from pc3dcli.formats.web_page import (
    MAX_PATCHES,
    PageCloud,
    PageFrames,
    PageInstance,
    PagePatches,
    PageValues,
    build_page,
)

RAMP = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
GREY = (150, 150, 150)
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&quot;'\"\u2028<!--"


class Parts(HTMLParser):
    """Collects what a browser would see: tags, attributes, and the content of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.styles, self.titles = [], {}, [], []
        self.text = ""  # that a reader may see
        self._open = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._open = (tag, dict(attributes))
        self.tags.append(self._open)

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open is None or self._open[0] not in ("script", "style"):
            self.text += data
        if self._open is None:
            return
        tag, attributes = self._open
        if tag == "script":
            self.scripts[attributes.get("id", "program")] = self.scripts.get(attributes.get("id", "program"), "") + data
        elif tag == "style":
            self.styles.append(data)
        elif tag in ("title", "h1"):
            self.titles.append(data)

    @property
    def scene(self) -> dict:
        return json.loads(self.scripts["scene"])


def cloud(count: int = 200, **changes) -> PageCloud:
    rng = np.random.default_rng(0)
    xyz = rng.uniform((-2, -1, 0), (3, 4, 2.5), (count, 3)) + (1e5, -2e5, 50)
    base = PageCloud(
        title="room/0",
        xyz=xyz,
        rgb=rng.integers(0, 256, (count, 3), dtype=np.uint8),
        level_from_world=np.eye(3),
        radius=np.linspace(0.01, 0.04, count),
    )
    return dataclasses.replace(base, **changes)


def instance(number: int, points, **more) -> PageInstance:
    color = np.array([10, number % 256, 30], np.uint8)
    return PageInstance(number, np.asarray(points), color, color, **more)


def page(one: PageCloud, instances=()) -> Parts:
    return Parts(build_page(one, instances, none_color=GREY, ramp=RAMP))


def packed(parts: Parts, name: str, kind: str, width: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(parts.scripts[name]), kind).reshape(-1, width)


def world(parts: Parts) -> np.ndarray:
    scene = parts.scene
    share = packed(parts, "positions", "<u2", 3) / 65535
    return share * scene["extent"] - scene["half"] + np.array(scene["middle"])


def members(parts: Parts, index: int) -> np.ndarray:
    runs = np.array(parts.scene["instances"][index]["runs"]).reshape(-1, 2)
    return np.concatenate([np.arange(start, start + length) for start, length in runs] or [np.zeros(0, int)])


def test_positions_and_colours_survive():
    one = cloud()
    parts = page(one)
    expected, found = one.xyz[np.lexsort(one.xyz.T)], world(parts)[np.lexsort(world(parts).T)]
    assert np.abs(np.sort(expected, 0) - np.sort(found, 0)).max() < 5 / 65535
    nearest = np.linalg.norm(world(parts)[:, None] - one.xyz[None], axis=2).argmin(1)
    assert np.array_equal(packed(parts, "colors", "u1", 3), one.rgb[nearest])
    radii = packed(parts, "radii", "u1", 1)[:, 0] / 255 * parts.scene["radius"]
    assert np.abs(radii - one.radius[nearest]).max() < 0.04 / 255 + 1e-9


def test_overlapping_instances_keep_all_their_points():
    rng = np.random.default_rng(1)
    one = cloud()
    masks = [np.sort(rng.choice(200, size, replace=False)) for size in (120, 60, 5, 0)]
    parts = page(one, [instance(7 + k, mask) for k, mask in enumerate(masks)])
    for index, mask in enumerate(masks):
        at = members(parts, index)
        nearest = np.linalg.norm(world(parts)[at][:, None] - one.xyz[None], axis=2).argmin(1)
        assert np.array_equal(np.sort(nearest), mask)
        assert parts.scene["instances"][index]["points"] == len(mask)
    assert [one["id"] for one in parts.scene["instances"]] == [7, 8, 9, 10]


def test_separate_instances_are_single_runs():
    parts = page(cloud(), [instance(0, np.arange(0, 200, 3)), instance(1, np.arange(1, 200, 3))])
    assert [len(one["runs"]) for one in parts.scene["instances"]] == [2, 2]


def test_missing_parts_are_empty():
    parts = page(cloud(rgb=None))
    assert parts.scripts.get("colors", "") == "" and parts.scripts.get("normals", "") == ""
    one = page(cloud(), [instance(0, [1], label=None, score=None)]).scene["instances"][0]
    assert one["label"] is None and one["score"] is None


def test_normals_travel_as_bytes():
    normal = np.random.default_rng(2).normal(size=(200, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    found = packed(page(cloud(normal=normal)), "normals", "i1", 3) / 127
    assert np.abs(np.sort(found, 0) - np.sort(normal, 0)).max() < 1 / 127


def test_totals_say_what_was_left_out():
    scene = page(cloud(num_points=5000), [instance(3, [1, 2], num_points=77)]).scene
    assert scene["count"] == 200 and scene["total"] == 5000 and scene["instances"][0]["total"] == 77


def values(count: int, name: str = "heat", **changes) -> PageValues:
    number = np.arange(count) / 8
    base = PageValues(
        name, "Score", "how hard it is.", number, (0.5, 2.0), ("easy", "hard"), np.array([1.0, np.nan, 3])
    )
    return dataclasses.replace(base, **changes)


def test_numbers_and_patches_follow_their_points():
    one = cloud(rgb=None, is_object=True, facts=("chair",), num_points=40)
    patches = PagePatches(np.arange(200) % 3, np.array([2, 3, 1]))
    found = [values(200), values(200, "difficulty", values=np.arange(200) * -2.0)]
    parts = [instance(0, np.arange(0, 200, 3), label="seat")]
    text = build_page(one, parts, none_color=GREY, ramp=RAMP, values=found, patches=patches)
    page_parts = Parts(text)
    nearest = np.linalg.norm(world(page_parts)[:, None] - one.xyz[None], axis=2).argmin(1)
    assert (nearest != np.arange(200)).any()  # they have another order there
    numbers = packed(page_parts, "values", "<f4", 200)
    np.testing.assert_allclose(numbers, [nearest / 8, nearest * -2.0])
    assert np.array_equal(packed(page_parts, "patches", "<u2", 1)[:, 0], nearest % 3)
    scene = page_parts.scene
    assert scene["ranks"] == [2, 3, 1] and scene["noun"] == "part"
    assert scene["summary"] == ["chair", "40 points, 1 part, 3 patches"]
    assert scene["values"][0] == {
        "name": "heat", "title": "Score", "note": "how hard it is.", "ends": ["easy", "hard"], "low": 0.5, "high": 2.0,
        "ofPatch": [1.0, None, 3.0],
    }  # fmt: skip


def test_the_summary_counts_what_there_is():
    assert page(cloud()).scene["summary"] == ["200 points"]
    found = page(cloud(num_points=5000), [instance(3, [1, 2])]).scene["summary"]
    assert found == ["200 of 5,000 points, 1 instance"]


def test_the_markup_itself_speaks_of_no_instances_walls_or_floors():
    """The program adds such text where the page has them."""
    assert not re.search("instance|wall|floor|mask", page(cloud()).text, re.IGNORECASE)
    assert not page(cloud(), [instance(3, [1])]).scene["hasPale"]
    assert page(cloud(), [instance(3, [1]), instance(4, [2], is_pale=True)]).scene["hasPale"]


def test_too_many_patches_are_refused():
    patches = PagePatches(np.zeros(200, int), np.arange(MAX_PATCHES + 1))
    with pytest.raises(ValueError, match="65001 patches"):
        build_page(cloud(), [], none_color=GREY, ramp=RAMP, patches=patches)


def test_cut_height_is_relative_to_the_middle():
    one = cloud()
    middle = (one.xyz[:, 2].min() + one.xyz[:, 2].max()) / 2
    assert page(cloud(cut_height=middle + 0.5)).scene["cut"] == pytest.approx(0.5)
    assert page(cloud(cut_height=1e6)).scene["cut"] is None


def test_untrusted_text_stays_text():
    parts = page(cloud(title=EVIL), [instance(0, [1], label=EVIL)])
    plain = page(cloud(), [instance(0, [1], label="chair")])
    assert [tag for tag, _ in parts.tags] == [tag for tag, _ in plain.tags]  # nothing became markup
    assert set(parts.titles) == {EVIL} and len(parts.titles) == 2
    assert parts.scene["instances"][0]["label"] == EVIL
    assert "<" not in parts.scripts["scene"]


def test_a_title_that_names_a_place_of_the_template_is_not_filled_in():
    assert page(cloud(title="@SCENE@ @SCRIPT@")).titles == ["@SCENE@ @SCRIPT@"] * 2


def test_policy_allows_only_our_own_script_and_style():
    parts = page(cloud())
    (policy,) = [a["content"] for tag, a in parts.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    for kind, text in (("script", parts.scripts["program"]), ("style", parts.styles[0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_nothing_is_loaded_from_anywhere():
    text = build_page(cloud(), [], none_color=GREY, ramp=RAMP)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    for _, attributes in Parts(text).tags:
        assert "src" not in attributes and "srcset" not in attributes and attributes.get("href", "data:,") == "data:,"
        assert not any(name.startswith("on") or name == "style" for name in attributes)


def test_frames_and_origin_travel_in_the_scene():
    frames = PageFrames((("frame 3", b"\xff\xd8jpeg"), (EVIL, b"two")), num_frames=40)
    parts = Parts(build_page(cloud(), [], none_color=GREY, ramp=RAMP, frames=frames, origin=[EVIL]))
    assert [base64.b64decode(one["jpeg"]) for one in parts.scene["frames"]] == [b"\xff\xd8jpeg", b"two"]
    assert [one["caption"] for one in parts.scene["frames"]] == ["frame 3", EVIL] and parts.scene["numFrames"] == 40
    assert parts.scene["origin"] == [EVIL] and "<" not in parts.scripts["scene"]
    assert page(cloud()).scene["frames"] == []


def test_same_input_same_page():
    make = lambda: build_page(cloud(), [instance(0, [1, 5])], none_color=GREY, ramp=RAMP)  # noqa: E731
    assert make() == make()


@pytest.mark.parametrize("xyz", [np.zeros((0, 3)), np.array([[0, 0, np.nan]])])
def test_points_are_needed(xyz):
    with pytest.raises(ValueError, match="finite"):
        build_page(cloud(xyz=xyz), [], none_color=GREY, ramp=RAMP)


@pytest.mark.parametrize("count", [1, 2])
def test_tiny_clouds_have_a_page(count):
    scene = page(cloud(count)).scene
    assert scene["reach"] > 0 and min(scene["extent"]) > 0 and scene["heights"][0] < scene["heights"][1]


def test_size_of_300_000_points():
    count = 300_000
    rng = np.random.default_rng(0)
    owner = rng.integers(0, 60, count)  # in no order at all: the worst for runs
    big = PageCloud(
        title="big",
        xyz=rng.uniform(0, 5, (count, 3)).astype(np.float32),
        rgb=rng.integers(0, 256, (count, 3), dtype=np.uint8),
        level_from_world=np.eye(3),
        radius=np.full(count, 0.01),
        normal=np.tile((0.0, 0, 1), (count, 1)),
    )
    text = build_page(big, [instance(k, np.flatnonzero(owner == k)) for k in range(60)], none_color=GREY, ramp=RAMP)
    assert len(text) < 8e6
