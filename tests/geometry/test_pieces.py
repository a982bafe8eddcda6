# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.geometry.pieces import overlapping_pieces


def some_voxels() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.unique(rng.integers(0, [60, 20, 5], (4000, 3)), axis=0)


def test_what_fits_is_one_piece():
    coords = some_voxels()
    (piece,) = overlapping_pieces(coords, len(coords), 3)
    assert piece.tolist() == list(range(len(coords)))


@pytest.mark.parametrize("num", [100, 700, 2000])
def test_pieces_cover_all_and_see_their_margin(num):
    coords = some_voxels()
    bare, wide = list(overlapping_pieces(coords, num, 0)), list(overlapping_pieces(coords, num, 4))
    assert len(bare) == len(wide) > 1
    assert np.unique(np.concatenate(bare)).tolist() == list(range(len(coords)))
    for inside, seen in zip(bare, wide, strict=True):
        low, high = coords[inside, :2].min(0) - 4, coords[inside, :2].max(0) + 4
        expected = ((coords[:, :2] >= low) & (coords[:, :2] <= high)).all(1)
        assert seen.tolist() == np.flatnonzero(expected).tolist()


def test_a_column_that_cannot_be_cut_is_one_piece():
    coords = np.stack([np.zeros(50), np.zeros(50), np.arange(50)], axis=1).astype(np.int64)
    (piece,) = overlapping_pieces(coords, 10, 1)
    assert len(piece) == 50


def test_a_wall_that_holds_more_than_half_is_cut():
    wall = np.stack([np.full(2000, 30), np.arange(2000) % 40, np.arange(2000) // 40], axis=1)
    rest = np.stack([np.arange(500) % 30, np.arange(500) // 30, np.zeros(500)], axis=1)
    pieces = list(overlapping_pieces(np.concatenate((wall, rest)).astype(np.int64), 1000, 0))
    assert len(pieces) > 2 and sum(map(len, pieces)) >= 2500
