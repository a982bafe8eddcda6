# SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np
import pytest

from pc3dcli.datasets import open_scenes
from pc3dcli.datasets.depth_unit import UNITS, DepthSample, fitting_unit, sample_depth
from pc3dcli.datasets.scene import Frame


def frames(folder, *pictures: np.ndarray, scale: float = 0.001) -> list[Frame]:
    """Write depth images and return their frames."""
    found = []
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number}.png"), picture.astype(np.uint16))
        K = np.array([[4.0, 0, 2], [0, 4, 2], [0, 0, 1]])
        found.append(Frame(str(number), None, picture.shape, K, np.eye(4), f"{number}.png", scale))
    return found


def test_the_first_frames_are_measured(tmp_path):
    pictures = [np.full((4, 4), value) for value in (1000, 2000, 12000, 60000)]  # the fourth is not looked at
    pictures[0][0] = 0
    pictures[1][0] = 65535  # missing as well
    sample = sample_depth(tmp_path, frames(tmp_path, *pictures), 10.0)
    assert sample == DepthSample(0.001, pytest.approx(2.0), 10.0, pytest.approx(16 / 40))
    assert sample.doubt() is None


def test_nothing_measured(tmp_path):
    assert sample_depth(tmp_path, frames(tmp_path, np.zeros((4, 4))), 10.0) is None
    (frame,) = frames(tmp_path, np.zeros((4, 4)))
    assert sample_depth(tmp_path, [Frame("0", "x.png", frame.size, frame.K, np.eye(4))], 10.0) is None


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (
            DepthSample(0.001, 58.0, 10.0, 0.93),
            "93 % of its depth lies beyond 10 m (median 58 m): is the unit right? --depth-scale 0.0001",
        ),
        (DepthSample(0.001, 0.002, 10.0, 0.0), "its median depth is 0.002 m: is the unit right? --depth-scale 1"),
        (DepthSample(0.001, 2.0, 0.5, 0.9), "90 % of its depth lies beyond 0.5 m (median 2 m): see --max-depth"),
        (DepthSample(0.001, 0.3, 10.0, 0.5), None),
    ],
)
def test_doubt(sample, message):
    assert sample.doubt() == message


@pytest.mark.parametrize("unit", [0.01, 0.0002, 0.0001])
def test_the_unit_with_which_frames_agree(scans, unit):
    scene = open_scenes(scans / "room0")[0].open(depth_scale=unit)
    assert fitting_unit(scene.root, scene.frames) == 0.001


@pytest.mark.parametrize("room", ["room0", "room1"])
def test_frames_agree_with_their_own_unit(scans, room):
    scene = open_scenes(scans / room)[0].open()
    for start in range(0, 16, 3):
        assert fitting_unit(scene.root, scene.frames[start:]) is None


def test_frames_that_say_nothing_about_the_unit(tmp_path):
    """A camera that stands still, noise, a single frame, no depth."""
    wall = frames(tmp_path, *[np.full((64, 64), 2000)] * 3, scale=0.1)
    assert 0.1 not in UNITS and fitting_unit(tmp_path, wall) is None
    assert fitting_unit(tmp_path, wall[:1]) is None
    blind = [Frame(str(n), "x.png", (64, 64), wall[0].K, np.eye(4)) for n in range(2)]
    assert fitting_unit(tmp_path, blind) is None
    assert fitting_unit(tmp_path, [wall[0], blind[1]]) is None
    empty = frames(tmp_path, *[np.zeros((64, 64))] * 2)
    assert fitting_unit(tmp_path, empty) is None
    rng = np.random.default_rng(0)
    noise = frames(tmp_path, *rng.integers(500, 5000, (2, 64, 64)))
    assert fitting_unit(tmp_path, noise) is None
