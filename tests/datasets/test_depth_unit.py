# SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np
import pytest

from pc3dcli.datasets.depth_unit import DepthSample, sample_depth
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
