# SPDX-License-Identifier: Apache-2.0
from typing import get_args

import numpy as np
import pytest
import torch

from pc3dcli.datasets.shape_batches import (
    NO_AUGMENT,
    PARTS_AUGMENT,
    SCALE_ROTATE,
    SCALE_SHIFT,
    Augment,
    BatchConfig,
    Sampling,
    ShapeData,
    normalize_clouds,
)
from pc3dcli.datasets.shape_set import open_shapes
from pc3dcli.errors import FormatError
from pc3dcli.geometry.farthest import farthest_order

COUNTS = (100, 100, 60, 100, 100, 100, 100)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Seven shapes, the third with fewer points than the others; the part of a point is its number."""
    folder, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    pos = rng.normal(size=(sum(COUNTS), 3)).astype(np.float32) * 3 + 7
    start = np.cumsum((0, *COUNTS))
    part = np.concatenate([np.arange(count) for count in COUNTS])
    np.savez(folder / "train.npz", pos=pos, start=start, part=part, label=np.arange(7) % 3)
    return open_shapes(folder)


def data(shapes, **settings) -> ShapeData:
    return ShapeData(shapes, BatchConfig(**{"num_points": 64, **settings}))


def test_types_and_sizes(shapes):
    batch = data(shapes, augment=SCALE_SHIFT).batch([4, 0], seed=1, epoch=2)
    assert batch.clouds.shape == batch.plain.shape == (2, 64, 3) and batch.clouds.dtype == torch.float32
    assert batch.label.tolist() == [1, 0] and batch.index.tolist() == [4, 0] and batch.index.dtype == torch.int64
    assert batch.ids == ("train_00004", "train_00000") and torch.equal(batch.part, batch.chosen)
    moved = batch.to("cpu")
    assert torch.equal(moved.clouds, batch.clouds) and moved.ids == batch.ids


@pytest.mark.parametrize("sampling", get_args(Sampling))
def test_a_row_depends_on_its_own_index_alone(shapes, sampling):
    """Batches, order, repetition, the cache and other processes change nothing; seed and epoch do."""
    settings = {"sampling": sampling, "augment": SCALE_SHIFT}
    whole = data(shapes, **settings).batch(range(7), seed=5, epoch=3)
    again = data(shapes, **settings, cache_bytes=0)
    for _ in range(2):
        some = again.batch([6, 2], seed=5, epoch=3)
        assert torch.equal(some.clouds, whole.clouds[[6, 2]]) and torch.equal(some.chosen, whole.chosen[[6, 2]])
    for other in ({"seed": 5, "epoch": 4}, {"seed": 6, "epoch": 3}):
        assert not torch.equal(again.batch([6, 2], **other).clouds, some.clouds)


def test_random_takes_each_point_once_and_then_normalises(shapes):
    batch = data(shapes).batch([0])
    chosen = batch.chosen[0].tolist()
    assert len(set(chosen)) == 64 and chosen != sorted(chosen)
    expected = shapes.read(0).xyz[chosen]
    expected = expected - expected.mean(axis=0)
    assert np.allclose(batch.plain[0], expected / np.linalg.norm(expected, axis=1).max(), atol=1e-6)
    assert torch.equal(batch.plain, batch.clouds)


def test_farthest(shapes):
    test = data(shapes, sampling="farthest", normalize="cloud").batch([0])
    cloud = normalize_clouds(shapes.read(0).xyz[None])[0]
    order = farthest_order(cloud, 75)
    assert test.chosen[0].tolist() == order[:64].tolist() and np.array_equal(test.plain[0], cloud[order[:64]])
    train = data(shapes, sampling="farthest-random", normalize="cloud")
    drawn = [set(train.batch([0], epoch=epoch).chosen[0].tolist()) for epoch in range(20)]
    assert set.union(*drawn) == set(order.tolist()) and all(len(one) == 64 for one in drawn)  # 75 = 64 * 75 / 64
    assert train._num_kept_bytes == 75 * (12 + 8 + 8)


def test_first_and_replacement(shapes):
    assert data(shapes, sampling="first").batch([1]).chosen[0].tolist() == list(range(64))
    chosen = data(shapes, sampling="replacement").batch([1]).chosen[0].numpy()
    assert len(set(chosen.tolist())) < 64 and chosen.max() < 100
    counts = np.bincount(
        np.concatenate([data(shapes, sampling="replacement").batch([1], epoch=e).chosen[0].numpy() for e in range(150)])
    )
    assert counts.size == 100 and (counts > 40).all()


@pytest.mark.parametrize("sampling", ["random", "first", "farthest", "farthest-random"])
def test_shapes_of_fewer_points_give_each_about_equally_often(shapes, sampling):
    counts = np.bincount(data(shapes, num_points=130, sampling=sampling).batch([2]).chosen[0].numpy(), minlength=60)
    assert counts.min() >= 2 and counts.max() <= 3


def test_fewer_points_than_a_patch_are_refused(shapes):
    with pytest.raises(FormatError, match="shape train_00002 has 60 points, a patch has 61"):
        data(shapes, min_points=61).batch([0, 2])
    data(shapes, min_points=60).batch([0, 2])


def test_normalisation(shapes):
    none = data(shapes, normalize="none", sampling="first").batch([3])
    assert np.array_equal(none.plain[0], shapes.read(3).xyz[:64])
    clouds = np.random.default_rng(0).normal(size=(2, 50, 3)) * [[[3]], [[0.01]]] + 1000
    found = normalize_clouds(clouds.astype(np.float32))
    assert np.abs(found.mean(axis=1)).max() < 1e-6
    assert np.linalg.norm(found, axis=2).max(axis=1) == pytest.approx(1, abs=1e-6)
    assert not normalize_clouds(np.ones((1, 4, 3), np.float32)).any()  # one place: no division by zero


def augmented(shapes, augment) -> tuple[np.ndarray, np.ndarray]:
    batches = [data(shapes, augment=augment).batch(range(7), epoch=epoch) for epoch in range(60)]
    return np.concatenate([b.plain for b in batches]), np.concatenate([b.clouds for b in batches])


@pytest.mark.parametrize("augment", [SCALE_SHIFT, PARTS_AUGMENT])
def test_scale_and_shift(shapes, augment):
    plain, clouds = augmented(shapes, augment)
    scale = (clouds[:, 1] - clouds[:, 0]) / (plain[:, 1] - plain[:, 0])  # (420, 3)
    shift = clouds[:, 0] - scale * plain[:, 0]
    assert np.allclose(clouds, plain * scale[:, None] + shift[:, None], atol=1e-4)
    low, high = augment.scale
    assert scale.min() > low - 1e-3 and scale.max() < high + 1e-3
    assert scale.mean() == pytest.approx((low + high) / 2, abs=0.03) and np.abs(shift).max() < augment.shift + 1e-4
    assert np.abs(shift.mean(axis=0)).max() < 0.03 and shift.std() == pytest.approx(augment.shift / 3**0.5, rel=0.1)
    assert (np.ptp(scale, axis=1).max() < 1e-2) == augment.isotropic


def test_rotation(shapes):
    plain, clouds = augmented(shapes, Augment(rotate="z"))
    assert np.allclose(clouds[..., 2], plain[..., 2]) and np.allclose(
        np.linalg.norm(clouds, axis=2), np.linalg.norm(plain, axis=2), atol=1e-5
    )
    moved = np.arctan2(clouds[:, 0, 1], clouds[:, 0, 0]) - np.arctan2(plain[:, 0, 1], plain[:, 0, 0])
    assert abs(np.exp(1j * moved).mean()) < 0.1  # uniform on the circle
    handed = np.linalg.det(np.linalg.lstsq(plain[0], clouds[0], rcond=None)[0])
    assert handed == pytest.approx(1, abs=1e-4)
    plain, clouds = augmented(shapes, SCALE_ROTATE)
    ratio = clouds[..., 1] / plain[..., 1]
    assert ratio.min() > 0.9 - 1e-3 and ratio.max() < 1.1 + 1e-3


def test_order_of_an_epoch(shapes):
    shape_data = data(shapes)
    assert sorted(shape_data.order(0, 0)) == list(range(7)) == sorted(shape_data.order(0, 1))
    assert not np.array_equal(shape_data.order(0, 0), shape_data.order(0, 1))
    assert np.array_equal(shape_data.order(3, 2), data(shapes, augment=NO_AUGMENT).order(3, 2))


def test_cache_stays_below_its_limit(shapes):
    kept = data(shapes, cache_bytes=100 * (12 + 8) * 2)
    kept.batch(range(7))
    assert sorted(kept._kept) == [0, 1] and kept._num_kept_bytes <= kept.config.cache_bytes


def test_sets_without_labels_and_parts(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(20, 3)))
    batch = ShapeData(open_shapes(tmp_path), BatchConfig(num_points=8)).batch([0])
    assert batch.label is None and batch.part is None and batch.to("cpu").label is None
