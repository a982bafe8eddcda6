# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.commands.instance_segmenter import cut


def some_voxels() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.unique(rng.integers(0, [60, 20, 5], (4000, 3)), axis=0)


def test_what_fits_is_one_piece():
    coords = some_voxels()
    (piece,) = cut(coords, len(coords), 3)
    assert piece.tolist() == list(range(len(coords)))


@pytest.mark.parametrize("num", [100, 700, 2000])
def test_pieces_cover_all_and_see_their_margin(num):
    coords = some_voxels()
    bare, wide = list(cut(coords, num, 0)), list(cut(coords, num, 4))
    assert len(bare) == len(wide) > 1
    assert np.unique(np.concatenate(bare)).tolist() == list(range(len(coords)))
    for inside, seen in zip(bare, wide, strict=True):
        low, high = coords[inside, :2].min(0) - 4, coords[inside, :2].max(0) + 4
        expected = ((coords[:, :2] >= low) & (coords[:, :2] <= high)).all(1)
        assert seen.tolist() == np.flatnonzero(expected).tolist()


def test_a_column_that_cannot_be_cut_is_one_piece():
    coords = np.stack([np.zeros(50), np.zeros(50), np.arange(50)], axis=1).astype(np.int64)
    (piece,) = cut(coords, 10, 1)
    assert len(piece) == 50
