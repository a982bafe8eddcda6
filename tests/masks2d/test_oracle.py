# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from pc3dcli.errors import FormatError
from pc3dcli.masks2d.oracle import OracleConfig, OracleMasks, OracleTracks, folder_labels

CLEAN = OracleConfig(p_merge=0, p_nested=0, p_eroded=0, p_dilated=0)
INSTANCE = np.zeros((30, 40), np.int32)
PART = np.zeros((30, 40), np.int32)
INSTANCE[5:15, 5:15], PART[5:15, 5:10], PART[5:15, 10:15] = 1, 1, 2
INSTANCE[5:15, 15:25], PART[5:15, 15:20], PART[5:15, 20:25] = 2, 3, 4  # touches object 1
INSTANCE[20:28, 30:38], PART[20:28, 30:38] = 3, 5


def view(t):
    return SimpleNamespace(frame=SimpleNamespace(frame=str(t)), size=(30, 40))


def labels(_):
    return INSTANCE, PART


def names(source, t):
    """Return what the masks of a frame are, as tuples of the parts that they cover."""
    return [tuple(np.unique(PART[m.mask & (PART > 0)]).tolist()) for m in source.masks(view(t))]


def test_whole_and_part_masks_come_as_often_as_asked():
    source = OracleMasks(replace(CLEAN, p_whole=0.7), labels)
    whole = np.mean([(1, 2) in names(source, t) for t in range(600)])
    parts = np.mean([(1,) in names(source, t) and (2,) in names(source, t) for t in range(600)])
    assert abs(whole - 0.7) < 0.06
    assert np.isclose(whole + parts, 1)


def test_merging_needs_a_neighbour():
    source = OracleMasks(replace(CLEAN, p_merge=0.3, p_whole=1), labels)
    seen = [names(source, t) for t in range(600)]
    assert abs(np.mean([n[0] == (1, 2, 3, 4) for n in seen]) - 0.3) < 0.06
    assert all(n[-1] == (5,) for n in seen)


def test_half_of_the_wholes_bring_a_nested_part():
    source = OracleMasks(replace(CLEAN, p_whole=1, p_nested=0.5), labels)
    seen = [names(source, t) for t in range(600)]
    assert abs(np.mean([(1,) in n or (2,) in n for n in seen]) - 0.5) < 0.06
    assert all((1, 2) in n and n.count((5,)) == 1 for n in seen)


def test_boundaries_are_eroded_and_dilated_by_one_pixel():
    source = OracleMasks(replace(CLEAN, p_whole=1, p_eroded=0.15, p_dilated=0.15), labels)
    areas = np.array([source.masks(view(t))[-1].mask.sum() for t in range(800)])
    assert set(areas) == {36, 64, 100}
    assert abs((areas == 36).mean() - 0.15) < 0.04
    assert abs((areas == 100).mean() - 0.15) < 0.04


def test_a_frame_is_the_same_whenever_it_is_asked_for():
    source = OracleMasks(OracleConfig(seed=4), labels)
    first = [source.masks(view(t)) for t in range(20)]
    for t in reversed(range(20)):
        again = OracleMasks(OracleConfig(seed=4), labels).masks(view(t))
        assert all((a.mask == b.mask).all() for a, b in zip(first[t], again, strict=True))
    other = [names(OracleMasks(OracleConfig(seed=5), labels), t) for t in range(20)]
    assert other != [names(source, t) for t in range(20)]


def test_a_seed_keeps_its_meaning_even_where_it_was_hidden():
    shown = SimpleNamespace(instance=INSTANCE, part=PART)
    config = OracleConfig(p_merge=0, p_whole=1, p_nested=0, p_eroded=0, p_dilated=0)
    tracks = OracleTracks(config, lambda _: (shown.instance, shown.part))
    shown.instance, shown.part = np.where(PART == 2, 0, INSTANCE), np.where(PART == 2, 0, PART)
    tracks.add_object(0, view(0), 7, shown.part == 1)  # part 2 is hidden: the oracle saw the whole object
    tracks.add_object(0, view(0), 8, shown.part == 4)  # no oracle mask: the best is part 4
    shown.instance, shown.part = INSTANCE, PART
    masks = tracks.propagate(1, view(1), [7, 8])
    assert (masks[7] == (INSTANCE == 1)).all()
    assert (masks[8] == (PART == 4)).all()
    assert [sorted(m) for m in tracks.reverse(1, [view(0), view(2)], [7])] == [[7], [7]]
    shown.instance = shown.part = np.zeros_like(PART)
    assert tracks.propagate(2, view(2), [7, 8]) == {}
    assert tracks.candidates(2, view(2), [7]) == [7]
    tracks.remove_object(7)
    tracks.add_object(3, view(3), 9, np.ones_like(PART, bool))
    assert tracks.propagate(3, view(3), [9]) == {}


def test_merged_seeds_stay_merged():
    config = replace(CLEAN, p_merge=1, p_whole=1)
    source, tracks = OracleMasks(config, labels), OracleTracks(config, labels)
    tracks.add_object(0, view(0), 1, source.masks(view(0))[0].mask)
    assert (tracks.propagate(5, view(5), [1])[1] == np.isin(INSTANCE, (1, 2))).all()


def test_label_images_of_a_written_world(tmp_path):
    for kind, image in (("instance", INSTANCE), ("part", PART)):
        (tmp_path / kind).mkdir()
        cv2.imwrite(str(tmp_path / kind / "12.png"), image.astype(np.uint16))
    good = SimpleNamespace(root=tmp_path, frame=SimpleNamespace(frame="12"), size=(30, 40))
    instance, part = folder_labels(good)
    assert (instance == INSTANCE).all()
    assert (part == PART).all()
    assert len(OracleMasks(CLEAN).masks(good)) >= 3
    with pytest.raises(FormatError, match="expected"):
        folder_labels(SimpleNamespace(root=tmp_path, frame=SimpleNamespace(frame="12"), size=(31, 40)))
