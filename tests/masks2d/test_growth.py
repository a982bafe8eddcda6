# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.masks2d.growth import fill_missing, grow_labels, surface_edges

FOCAL = 250.0
V, U = np.mgrid[0:240, 0:320].astype(np.float32)
X, Y = (U - 160) / FOCAL, (V - 120) / FOCAL


def corner(sign):
    """Return the depth of two walls that meet in the vertical line u = 160 at 2 m: hollow (+1) or bulging (-1)."""
    return (2 / (1 + sign * np.abs(X))).astype(np.float32)


def test_hollow_creases_separate_and_bulging_ones_do_not():
    hollow, bulging = surface_edges(corner(1), FOCAL), surface_edges(corner(-1), FOCAL)
    assert hollow[20:-20, 158:163].any(axis=1).all()
    assert not hollow[20:-20, :150].any()
    assert not bulging[20:-20, 20:-20].any()


@pytest.mark.parametrize("slope", [0, 1.5, 4])
def test_planes_have_no_edges_however_slanted(slope):
    plane = (2 / (1 + slope * Y / 2)).astype(np.float32)
    assert not surface_edges(plane, FOCAL)[10:-10, 10:-10].any()


def test_steps_separate():
    depth = np.where(U < 160, 2, 2.2).astype(np.float32)
    assert surface_edges(depth, FOCAL)[:, 158:162].any(axis=1).all()


def test_unknown_surface_continues_over_a_bulge_but_not_over_a_hollow_or_a_step():
    labels = np.where(U < 130, 5, -1).astype(np.int32)
    assert (grow_labels(labels, corner(-1), FOCAL)[0] == 5).all()
    hollow, _ = grow_labels(labels, corner(1), FOCAL)
    assert (hollow[:, :154] == 5).all()
    assert (hollow[:, 170:] == -1).all()
    step, _ = grow_labels(labels, np.where(U < 160, 2, 2.5).astype(np.float32), FOCAL)
    assert (step[:, :160] == 5).all()
    assert (step[:, 160:] == -1).all()


def test_the_longer_contact_decides():
    labels = np.full((240, 320), -1, np.int32)
    labels[:, :100], labels[:60, 200:], labels[60:90, 200:] = 0, 3, 4
    grown, _ = grow_labels(labels, np.full((240, 320), 2, np.float32), FOCAL)
    assert (grown[100:140, 120:180] == 0).all()
    assert (grown[labels >= 0] == labels[labels >= 0]).all()


def test_a_strip_beside_a_leg_belongs_to_the_floor():
    depth = np.full((240, 320), 3, np.float32)
    depth[:, 100:110] = 2.5
    labels = np.zeros((240, 320), np.int32)
    labels[:, 100:110], labels[:, 110:113] = 7, -1
    assert (grow_labels(labels, depth, FOCAL)[0][:, 110:113] == 0).all()


def test_holes_take_the_nearest_label_within_reach():
    labels = np.where(U < 160, 1, 2).astype(np.int32)
    holes = (U > 150) & (U < 180)
    labels[holes] = -1
    fill_missing(labels, holes, reach=8)
    assert (labels[:, 151:159] == 1).all()
    assert (labels[:, 172:180] == 2).all()
    assert (labels[:, 160:171] == -1).all()
    everything = np.full((4, 4), -1, np.int32)
    fill_missing(everything, np.ones((4, 4), bool), 8)
    assert (everything == -1).all()
