# SPDX-License-Identifier: Apache-2.0
"""`eval --task track2d` on a real DAVIS video, with perfect and with perturbed masks."""

import json

import numpy as np
import pytest

from pc3dcli.formats.images import read_label_image, write_png


@pytest.fixture
def davis(shared_data):
    return shared_data / "video_davis"


def metrics(run, pred, gt, *arguments):
    result = run("eval", pred, "--task", "track2d", "--gt", gt, "--json", *arguments)
    assert result.code == 0, result.err
    records = [json.loads(line) for line in result.out.splitlines()]
    return {r["name"]: r["value"] for r in records if r["type"] == "metric" and "class" not in r}


def changed(davis, folder, change):
    """Write the video with each (labels 0 and 1, number of the frame) changed."""
    target = folder / "car-shadow"
    target.mkdir(parents=True)
    for number, path in enumerate(sorted((davis / "Annotations" / "car-shadow").glob("*.png"))):
        write_png(target / path.name, change((read_label_image(path) > 0).astype(np.uint16), number))
    return folder


@pytest.mark.parametrize("preset", ["davis", "davis-unsupervised"])
def test_perfect_masks(run, davis, preset):
    found = metrics(run, davis / "Annotations", davis, "--preset", preset)
    assert all(found[name] == 1 for name in ("jf", "j", "f", "idf1", "ap", "ap50", "ap75", "consistency"))
    assert found["id_switches"] == found["fragmentations"] == 0


def test_shifted_masks(run, davis, tmp_path):
    pred = changed(davis, tmp_path, lambda labels, number: np.roll(labels, (3, 4), (0, 1)))
    found = metrics(run, pred, davis)
    assert found["f"] == 1  # contours 5 pixels apart: within the 8 of this size
    assert 0.8 < found["j"] < 0.95 and found["idf1"] == 1


def test_a_track_that_breaks(run, davis, tmp_path):
    pred = changed(davis, tmp_path, lambda labels, number: labels * (0 if number == 15 else 1 + (number > 20)))
    found = metrics(run, pred, davis)
    assert found["id_switches"] == found["fragmentations"] == 1
    assert found["idf1"] == pytest.approx(2 * 20 / 79)
    assert found["j"] == pytest.approx(19 / 38)
    assert found["consistency"] < 0.7
    assert metrics(run, pred, davis, "--preset", "davis-unsupervised")["j"] == pytest.approx(20 / 40)
