# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.geometry.colors import (
    NONE_COLOR,
    PALETTE_SIZE,
    color_distance,
    instance_colors,
    score_colors,
    tint,
)


def test_an_id_has_one_colour_whatever_its_type_and_neighbours():
    ids = np.array([[3, 48], [200, 3]], np.uint8)
    colors = instance_colors(ids)
    assert colors.shape == (2, 2, 3) and colors.dtype == np.uint8
    assert (colors[0, 0] == colors[1, 1]).all()
    assert (instance_colors(np.array(48)) == colors[0, 1]).all()
    assert (instance_colors(np.array(PALETTE_SIZE + 3)) == colors[0, 0]).all()


def test_none_is_grey():
    assert tuple(instance_colors(np.array(-1))) == NONE_COLOR
    assert tuple(score_colors(np.array(np.nan))) == NONE_COLOR


@pytest.mark.parametrize(("count", "least"), [(8, 0.17), (16, 0.12), (32, 0.09), (64, 0.055), (256, 0.025)])
def test_colours_differ_for_every_kind_of_colour_vision(count, least):
    colors = np.concatenate((instance_colors(np.arange(count)), [NONE_COLOR])).astype(np.uint8)
    distance = color_distance(colors[:, None], colors[None])
    assert distance[~np.eye(count + 1, dtype=bool)].min() > least


def test_distance_is_one_from_black_to_white():
    black, white = np.zeros(3, np.uint8), np.full(3, 255, np.uint8)
    assert color_distance(black, white) == pytest.approx(1, abs=1e-3)
    assert color_distance(white, white) == 0


def test_red_and_green_are_near_for_the_colour_blind():
    red, green, blue = np.array([[180, 90, 0], [110, 130, 0], [0, 90, 200]], np.uint8)
    assert color_distance(red, green) < 0.5 * color_distance(red, blue)


def test_scores_rise_in_lightness():
    colors = score_colors(np.linspace(0, 1, 21)).astype(float)
    luma = colors @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luma) > 0).all()
    assert np.array_equal(score_colors(np.array([-3.0, 7.0])), score_colors(np.array([0.0, 1.0])))


def test_tint_keeps_hue_and_follows_brightness():
    labels = np.full((3, 3), (100, 50, 200), np.uint8)
    rgb = np.array([[40, 40, 40], [80, 80, 80], [160, 160, 160]], np.uint8)
    tinted = tint(labels, rgb).astype(float)
    assert (np.diff(tinted, axis=0) > 0).all()
    assert np.array_equal(tinted[1], labels[1])  # the middle brightness changes nothing
    assert np.array_equal(tint(labels, None), labels)
    assert tint(labels[:0], rgb[:0]).shape == (0, 3)
