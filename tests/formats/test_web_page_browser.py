# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser without a network: it draws, and mouse, keys and list do what the help says."""

import json

import cv2
import numpy as np
import pytest

from pc3dcli.formats.overlay import jpeg_bytes
from pc3dcli.formats.web_page import PageCloud, PageFrames, PageInstance, PagePatches, PageValues, build_page

LABEL = "<img src=x onerror=document.title='owned'>chair"
LEFT, RIGHT, GREY = (200, 30, 30), (30, 60, 200), (150, 150, 150)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """Two squares of 2 m side by side, 0.2 m apart, and loose points in front of both: 3 left, 8 right."""
    x, y = np.meshgrid(np.arange(-2.1, 2.1, 0.03), np.arange(-1, 1, 0.03))
    xyz = np.stack((x, y, 0 * x), -1).reshape(-1, 3)
    xyz = xyz[np.abs(xyz[:, 0]) > 0.1]
    xyz = np.concatenate((xyz, np.stack((np.linspace(-2, 2, 50), np.full(50, -1.5), np.zeros(50)), -1)))
    is_square = xyz[:, 1] > -1.2
    left, right = (np.flatnonzero(is_square & (xyz[:, 0] * sign > 0)) for sign in (-1, 1))
    cloud = PageCloud(
        title="test scene",
        xyz=xyz,
        rgb=np.tile(np.array([40, 160, 60], np.uint8), (len(xyz), 1)),
        level_from_world=np.eye(3),
        radius=np.full(len(xyz), 0.03),
        normal=np.tile((0.0, 0.0, 1.0), (len(xyz), 1)),
    )
    instances = [
        PageInstance(3, left, np.array(LEFT), np.array((250, 220, 80)), label=LABEL, score=0.75),
        PageInstance(8, right, np.array(RIGHT), np.array((20, 40, 90)), label=None, score=0.125),
    ]
    ramp = np.array([[20, 40, 90], [250, 220, 80]], np.uint8)
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(build_page(cloud, instances, none_color=GREY, ramp=ramp), encoding="utf-8")
    return path


class Page:
    """The opened page, seen from above: +x to the right."""

    def __init__(self, session, path):
        self.session = session
        session.get_log("performance"), session.get_log("browser")  # forget earlier pages
        session.get(path.as_uri())
        self.canvas = session.find_element("id", "view")
        self.key("t")

    def settle(self) -> None:
        script = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()));"
        self.session.execute_async_script(script)

    def key(self, key: str) -> None:
        self.canvas.send_keys(key)
        self.settle()

    def click(self, right: float, down: float, *, times: int = 1) -> None:
        """Click at a share of the canvas from its middle, each from -0.5 to 0.5."""
        from selenium.webdriver.common.action_chains import ActionChains

        size = self.canvas.size
        chain = ActionChains(self.session)
        chain.move_to_element_with_offset(self.canvas, int(right * size["width"]), int(down * size["height"]))
        (chain.click() if times == 1 else chain.double_click()).perform()
        self.settle()

    def picture(self) -> np.ndarray:
        data = np.frombuffer(self.canvas.screenshot_as_png, np.uint8)
        return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def share(self, color) -> float:
        """Share of the picture that has the hue of `color`."""
        pixels = self.picture().astype(float) + 1e-6
        cosine = (pixels @ np.array(color, float)) / np.linalg.norm(pixels, axis=-1) / np.linalg.norm(color)
        return float((cosine > 0.995).mean())

    def text(self, name: str) -> str:
        return self.session.find_element("id", name).text

    def row(self, index: int):
        return self.session.find_element("css selector", f'#list li[data-index="{index}"]')


@pytest.fixture
def page(browser, page_file) -> Page:
    return Page(browser, page_file)


def test_loads_offline_without_a_request_or_an_error(page):
    requests = []
    for entry in page.session.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            requests.append(message["params"]["request"]["url"])
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in requests if url.startswith("file:")]) == 1  # the page itself
    errors = [entry for entry in page.session.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    assert page.text("summary") == "8,961 points, 2 instances"


def test_points_are_drawn_in_their_colours(page):
    assert page.share(LEFT) > 0.08 and page.share(RIGHT) > 0.08
    picture = page.picture()
    middle = picture.shape[1] // 2
    assert np.abs(picture[picture.shape[0] // 2, middle].astype(int) - 250).max() < 10  # paper between the squares


def test_switching_an_instance_off_removes_it(page):
    page.row(0).find_element("css selector", "input").click()
    page.settle()
    assert page.share(LEFT) < 0.001 and page.share(RIGHT) > 0.08
    page.session.find_element("id", "none").click()
    page.settle()
    assert np.ptp(page.picture()[5:-5, 5:-5].reshape(-1, 3), axis=0).max() == 0  # nothing but paper
    page.session.find_element("id", "all").click()
    page.settle()
    assert page.share(LEFT) > 0.08 and page.share(RIGHT) > 0.08


def test_click_shows_id_score_and_label_as_text(page):
    page.click(-0.15, 0)
    shown = page.text("picked").split("\n")
    assert shown[shown.index("Instance") + 1] == "3"
    assert shown[shown.index("Score") + 1] == "0.750"
    assert shown[shown.index("Label") + 1] == LABEL
    assert page.row(0).get_attribute("aria-current") is not None
    assert page.session.title == "test scene" and not page.session.find_elements("css selector", "[onerror]")
    page.click(0.15, 0)
    shown = page.text("picked").split("\n")
    assert shown[shown.index("Instance") + 1] == "8" and shown[shown.index("Label") + 1] == "none"


def test_click_on_paper_and_escape_select_nothing(page):
    page.click(-0.15, 0)
    page.click(0.45, 0.45)
    assert "Click a point" in page.text("picked")
    page.click(-0.15, 0)
    page.key("\ue00c")
    assert "Click a point" in page.text("picked")


def test_clicked_position_is_in_world_coordinates(page):
    page.click(-0.15, 0)
    at = page.text("picked").split("\n")[-1].removesuffix(" m").split(", ")
    assert float(at[0]) == pytest.approx(-0.9, abs=0.5) and abs(float(at[2])) < 0.01


def test_colour_modes(page):
    page.key("1")
    assert page.share((40, 160, 60)) > 0.2 and page.share(LEFT) < 0.001
    page.session.find_element("css selector", "input[value=score]").find_element("xpath", "..").click()
    page.settle()
    assert page.share((250, 220, 80)) > 0.08 and page.session.find_element("id", "legend").is_displayed()
    page.key("2")
    assert page.share(LEFT) > 0.08 and not page.session.find_element("id", "legend").is_displayed()


def test_isolating_the_selected_instance(page):
    page.row(1).find_element("css selector", "button").click()
    page.key("o")
    assert page.share(LEFT) < 0.001 and page.share(RIGHT) > 0.08


def test_surfaces_turn_invisible_from_behind_unless_asked_for(page):
    for _ in range(40):
        page.canvas.send_keys("\ue013")  # up arrow: the camera goes under the floor
    page.settle()
    below = page.share(LEFT)
    page.session.find_element("id", "behind").click()
    page.settle()
    assert below < 0.001 < page.share(LEFT)


@pytest.mark.parametrize("key", ["+", "\ue012", "r"])
def test_keys_move_the_camera(page, key):
    before = page.picture()
    page.key(key)
    assert (page.picture() != before).any()


def test_mouse_turns_moves_and_zooms(page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
    from selenium.webdriver.common.keys import Keys

    for act in (
        lambda chain: chain.drag_and_drop_by_offset(page.canvas, 90, 0),
        lambda chain: chain.key_down(Keys.SHIFT).drag_and_drop_by_offset(page.canvas, 90, 0).key_up(Keys.SHIFT),
        lambda chain: chain.scroll_from_origin(ScrollOrigin.from_element(page.canvas), 0, -300),
    ):
        before = page.picture()
        act(ActionChains(page.session)).perform()
        page.settle()
        assert (page.picture() != before).mean() > 0.02
        assert "Click a point" in page.text("picked")  # a drag is not a click


def test_double_click_centres(page):
    page.click(-0.15, 0, times=2)
    picture = page.picture()
    middle = picture[picture.shape[0] // 2, picture.shape[1] // 2].astype(int)
    assert middle[0] > middle[2] + 50


def test_filter_and_sliders(page):
    page.session.find_element("id", "filter").send_keys("chair")
    assert page.row(0).is_displayed() and not page.row(1).is_displayed()
    before = page.share(LEFT)
    for name, value in (("size", "0.3"), ("cut", "0")):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'));"
        page.session.execute_script(script, page.session.find_element("id", name), value)
        page.settle()
        assert page.share(LEFT) < before
        before = page.share(LEFT) + 0.001


def test_help_opens_by_key_and_button(page):
    dialog = page.session.find_element("id", "help")
    page.key("?")
    assert dialog.is_displayed() and "isolate" in dialog.text.lower()
    dialog.find_element("css selector", "button").click()
    assert not dialog.is_displayed()
    page.session.find_element("id", "help-button").click()
    assert dialog.is_displayed()


@pytest.fixture(scope="module")
def frames_file(page_file, tmp_path_factory):
    """A page without instances, with two frames, one red and one blue, of five."""
    one = np.random.default_rng(0).uniform(0, 1, (50, 3))
    cloud = PageCloud("frames", one, None, np.eye(3), np.full(50, 0.02))
    pictures = [(LABEL, np.full((60, 80, 3), LEFT, np.uint8)), ("frame 4", np.full((60, 80, 3), RIGHT, np.uint8))]
    frames = PageFrames(tuple((text, jpeg_bytes(picture, max_side=80)) for text, picture in pictures), num_frames=5)
    ramp = np.array([[20, 40, 90]], np.uint8)
    path = tmp_path_factory.mktemp("frames") / "page.html"
    text = build_page(cloud, [], none_color=GREY, ramp=ramp, frames=frames, origin=["pc3d track2d 'a <b>' (version 1)"])
    path.write_text(text, encoding="utf-8")
    return path


def test_frames_are_shown_enlarged_and_paged(browser, frames_file):
    page = Page(browser, frames_file)
    assert "2 of 5 frames" in page.text("frames-note")
    strip = browser.find_elements("css selector", "#strip img")
    widths = "const done = arguments[1]; arguments[0].decode().then(() => done(arguments[0].naturalWidth));"
    assert [browser.execute_async_script(widths, picture) for picture in strip] == [80, 80]
    browser.find_elements("css selector", "#strip button")[0].click()
    dialog = browser.find_element("id", "frame")
    assert dialog.is_displayed() and page.text("frame-caption") == f"{LABEL} (1 of 2)"
    assert not browser.find_element("id", "frame-back").is_enabled()
    dialog.send_keys("\ue014")  # right arrow
    assert page.text("frame-caption") == "frame 4 (2 of 2)" and not browser.find_element("id", "frame-on").is_enabled()
    picture = cv2.imdecode(
        np.frombuffer(browser.find_element("id", "frame-picture").screenshot_as_png, np.uint8), cv2.IMREAD_COLOR
    )
    assert np.abs(picture[picture.shape[0] // 2, picture.shape[1] // 2, ::-1].astype(int) - RIGHT).max() < 8
    browser.find_element("id", "frame-back").click()
    assert page.text("frame-caption").endswith("(1 of 2)") and browser.title == "frames"
    dialog.find_element("css selector", "form > button:last-child").click()
    assert not dialog.is_displayed()
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []  # the policy allows pictures inside the page


def test_frames_leave_the_canvas_its_room_and_origin_is_in_the_help(browser, frames_file, page_file):
    page = Page(browser, frames_file)
    canvas, strip = page.canvas.rect, browser.find_element("id", "frames").rect
    assert canvas["height"] > 300 and canvas["y"] + canvas["height"] <= strip["y"] + 1
    page.key("?")
    assert "pc3d track2d 'a <b>' (version 1)" in page.text("origin")
    page = Page(browser, page_file)
    assert not browser.find_element("id", "frames").is_displayed()


def test_key_says_what_grey_means(page):
    assert "no instance (unlabelled)" in page.text("key")
    swatch = page.session.find_element("id", "key-none").value_of_css_property("background-color")
    assert "150, 150, 150" in swatch
    page.key("1")
    assert not page.session.find_element("id", "key").is_displayed()
    page.key("3")
    assert "no score" in page.text("key")


EASY, HARD = (20, 40, 90), (250, 220, 80)


@pytest.fixture(scope="module")
def scored_file(tmp_path_factory):
    """An object: a square, hard at the left by score and at the right by difficulty, two patches, one at each side."""
    x, y = np.meshgrid(np.arange(-2, 2, 0.03), np.arange(-1, 1, 0.03))
    xyz = np.stack((x, y, 0 * x), -1).reshape(-1, 3)
    is_right = (xyz[:, 0] > 0).astype(int)
    cloud = PageCloud("cup_0", xyz, None, np.eye(3), np.full(len(xyz), 0.03), is_object=True, facts=("cup",))
    score = PageValues(
        "heat", "Score", "how hard.", -1.0 * is_right, (-1, 0), ("easy", "hard"), np.array((0.25, -1.25))
    )
    found = np.array((np.nan, 0.5))
    difficulty = PageValues(
        "difficulty", "Measured difficulty", "the error.", is_right / 2, (0, 0.5), ("easy", "hard"), found
    )
    path = tmp_path_factory.mktemp("scored") / "page.html"
    look = {"none_color": GREY, "ramp": np.array([EASY, HARD], np.uint8)}
    patches = PagePatches(is_right, np.array([1, 2]))
    path.write_text(build_page(cloud, [], **look, values=[score, difficulty], patches=patches), encoding="utf-8")
    return path


def test_a_scored_page_speaks_of_scores_alone(browser, scored_file):
    page = Page(browser, scored_file)
    assert page.text("summary") == "cup\n8,978 points, 2 patches"
    assert (page.text("low"), page.text("high")) == ("easy -1.00", "0 hard")
    assert page.text("note") == "How hard."
    assert "its score, measured difficulty and patch" in page.text("picked")
    page.key("?")
    text = browser.find_element("tag name", "body").text.lower()
    assert "measured difficulty: the error." in text and "1 score, 2 measured difficulty" in text
    for word in ("instance", "wall", "floor", "mask", "isolate", "part", "rgb", "frames"):
        assert word not in text


def test_a_click_tells_score_and_rank(browser, scored_file):
    page = Page(browser, scored_file)
    page.click(-0.15, 0)
    shown = page.text("picked").split("\n")
    assert shown[shown.index("Score") + 1] == "0, of its patch 0.250"
    assert shown[shown.index("Measured difficulty") + 1] == "0"  # of a patch that was never decoded
    assert shown[shown.index("Patch") + 1] == "rank 1 of 2, 1 is the hardest"
    assert not shown[-1].endswith("m")
    page.click(0.15, 0)
    shown = page.text("picked").split("\n")
    assert shown[shown.index("Score") + 1] == "-1.00, of its patch -1.25"
    assert shown[shown.index("Measured difficulty") + 1] == "0.500, of its patch 0.500"
    assert shown[shown.index("Patch") + 1].startswith("rank 2 of 2")


def test_difficulty_is_a_second_colouring(browser, scored_file):
    page = Page(browser, scored_file)

    def sides() -> list[bool]:
        halves = np.array_split(page.picture(), 2, axis=1)
        return [bool((np.abs(half.astype(int) - HARD).sum(-1) < 20).mean() > 0.1) for half in halves]

    assert sides() == [True, False]
    browser.find_element("css selector", "input[value=difficulty]").find_element("xpath", "..").click()
    page.settle()
    assert sides() == [False, True]
    assert (page.text("low"), page.text("high")) == ("easy 0", "0.500 hard")
    page.key("1")
    assert sides() == [True, False]


def test_parts_have_names_and_no_ids(browser, tmp_path):
    xyz = np.random.default_rng(0).uniform(-1, 1, (3000, 3)) * (1, 1, 0)
    cloud = PageCloud("cup_0", xyz, None, np.eye(3), np.full(3000, 0.05), is_object=True)
    left = np.flatnonzero(xyz[:, 0] < 0)
    parts = [PageInstance(12, left, np.array(LEFT), np.array(GREY), label="handle", num_points=7)]
    path = tmp_path / "page.html"
    path.write_text(build_page(cloud, parts, none_color=GREY, ramp=np.array([EASY, HARD], np.uint8)), encoding="utf-8")
    page = Page(browser, path)
    assert page.text("list-title") == "Parts" and page.row(0).text.split("\n") == ["handle", "7"]
    assert "no part (unlabelled)" in page.text("key") and "wall" not in page.text("key")
    page.click(-0.1, 0)
    assert page.text("picked").split("\n")[:4] == ["Part", "handle", "Points", "7"]
    page.key("?")
    assert "instance" not in browser.find_element("tag name", "body").text.lower()


def test_key_names_walls_where_there_are_any(browser, page_file, tmp_path):
    assert "walls" not in Page(browser, page_file).text("key")
    text = page_file.read_text(encoding="utf-8").replace('"hasPale":false', '"hasPale":true')
    (tmp_path / "pale.html").write_text(text, encoding="utf-8")
    assert "pale colours: walls, floor" in Page(browser, tmp_path / "pale.html").text("key")


def test_dark_scheme_changes_the_paper(page):
    light = page.picture()[2, 2].mean()
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    page.session.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        page.settle()
        assert page.picture()[10, 10].mean() < 60 < light
    finally:
        page.session.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
