# SPDX-License-Identifier: Apache-2.0
import pytest

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.paths import resolve_inside


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "scene"
    (root / "color").mkdir(parents=True)
    (root / "color" / "1.jpg").touch()
    (tmp_path / "secret").touch()
    (tmp_path / "scene_of_others").mkdir()
    (tmp_path / "scene_of_others" / "x").touch()
    return root


@pytest.mark.parametrize("relative", ["color/1.jpg", "./color/1.jpg", "color//1.jpg"])
def test_files_below_the_root(root, relative):
    assert resolve_inside(root, relative) == root / "color" / "1.jpg"


@pytest.mark.parametrize(
    "relative",
    [
        "",
        ".",
        "/",
        "/etc/passwd",
        "//etc/passwd",
        "../secret",
        "color/../../secret",
        "color/../color/1.jpg",
        "..",
        "a\0b",
    ],
)
def test_paths_that_leave_the_root_are_refused_by_their_form(root, relative):
    with pytest.raises(FormatError, match="absolute, empty or contains"):
        resolve_inside(root, relative)


@pytest.mark.parametrize("value", [None, 3, ["color/1.jpg"], {"file": "x"}])
def test_what_is_no_text_is_refused(root, value):
    with pytest.raises(FormatError, match="expected"):
        resolve_inside(root, value)


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "../scene_of_others/x"])
def test_links_out_of_the_root_are_refused(root, target):
    (root / "link").symlink_to(target)
    with pytest.raises(FormatError, match="through a symbolic link"):
        resolve_inside(root, "link")


def test_folder_links_out_of_the_root_are_refused(root):
    (root / "depth").symlink_to("../scene_of_others")
    with pytest.raises(FormatError, match="through a symbolic link"):
        resolve_inside(root, "depth/x")


def test_links_inside_the_root_are_followed(root):
    (root / "link").symlink_to("color/1.jpg")
    assert resolve_inside(root, "link") == root / "link"


def test_a_root_that_is_a_link_itself_is_no_way_out(root, tmp_path):
    (tmp_path / "alias").symlink_to(root)
    assert resolve_inside(tmp_path / "alias", "color/1.jpg").exists()


@pytest.mark.parametrize("relative", ["color/2.jpg", "color", "nowhere/1.jpg", "color/1.jpg/x", "x" * 5000, "\ud800"])
def test_what_is_no_regular_file_is_missing(root, relative):
    with pytest.raises(InputError):
        resolve_inside(root, relative)


def test_loops_of_links_and_pipes_are_no_files(root):
    import os

    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")  # opening it would wait for ever
    for name in ("loop", "pipe"):
        with pytest.raises(InputError):
            resolve_inside(root, name)
