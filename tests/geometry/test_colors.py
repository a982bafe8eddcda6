# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.geometry.colors import (
    NONE_COLOR,
    PALETTE_SIZE,
    color_distance,
    instance_colors,
    is_large_plane,
    pale,
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


def box(size, at=(0.0, 0.0, 0.0), count=4000):
    return np.random.default_rng(0).uniform(0, 1, (count, 3)) * size + at


ROOM = np.concatenate((box((6, 5, 0.02)), box((6, 0.02, 2.5)), box((0.02, 5, 2.5)), box((2, 1.6, 0.5), at=(3, 3, 0))))


@pytest.mark.parametrize(
    ("size", "is_plane"),
    [
        ((6, 5, 0.02), True),  # floor
        ((6, 0.02, 2.5), True),  # wall
        ((0.02, 2.5, 2.3), True),  # part of a wall
        ((2, 1.6, 0.5), False),  # bed
        ((5, 4, 2.0), False),  # everything
        ((1.8, 0.9, 0.02), False),  # table top
        ((0.9, 0.02, 2.0), False),  # door
        ((3, 0.02, 0.8), False),  # low cupboard
    ],
)
def test_walls_and_floors_are_large_planes_and_things_are_not(size, is_plane):
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    assert is_large_plane(box(size) @ turn, ROOM @ turn) is is_plane


def test_what_sticks_out_of_a_wall_does_not_hide_it():
    headboard = box((1.6, 1.5, 0.6), at=(2, 0, 0), count=500)
    assert is_large_plane(np.concatenate((box((6, 0.02, 2.5)), headboard)), ROOM)


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.zeros((2, 3)), np.ones((5, 3))])
def test_few_or_equal_points_are_no_plane(points):
    assert not is_large_plane(points, ROOM)


def test_pale_colours_stay_apart_from_strong_ones_and_grey():
    strong = np.concatenate((instance_colors(np.arange(32)), [NONE_COLOR])).astype(np.uint8)
    chroma = [np.ptp(colors.astype(int), axis=-1).max() for colors in (pale(strong), strong)]
    assert chroma[0] < 0.3 * chroma[1]
    assert color_distance(pale(strong[:32]), np.array(NONE_COLOR, np.uint8)).min() > 0.1
