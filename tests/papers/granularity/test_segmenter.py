# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pc3dcli.datasets.voxel_batches import VoxelBatch
from pc3dcli.papers.granularity.segmenter import Segmenter, SegmenterConfig

SMALL = SegmenterConfig(
    stem=8, planes=(8, 8, 12, 16, 16, 12, 8, 8), depths=(1,) * 8, dim=16, heads=2, ffn_dim=32, num_queries=6,
    sampled_voxels=(50, 100, 200, 400), rounds=2,
)  # fmt: skip


def boxes(scene: int, offset: int, seed: int):
    """Three coloured blocks of voxels on a floor, far apart."""
    generator = torch.Generator().manual_seed(seed)
    parts, labels = [], []
    for number in range(3):
        block = torch.cartesian_prod(*[torch.arange(5)] * 3) + torch.tensor([12 * number, offset, 1])
        parts.append(block)
        labels.append(torch.full((len(block),), number))
    floor = torch.cartesian_prod(torch.arange(32), torch.arange(offset - 2, offset + 7), torch.arange(1))
    xyz, label = torch.cat((*parts, floor)), torch.cat((*labels, torch.full((len(floor),), -1)))
    color = torch.randn(4, 3, generator=generator)[label] + 0.05 * torch.randn(len(xyz), 3, generator=generator)
    return torch.cat((torch.full((len(xyz), 1), scene), xyz), dim=1), color, label


def batch_of(*scenes) -> VoxelBatch:
    coords, color, label = (torch.cat(parts) for parts in zip(*scenes, strict=True))
    _, order = torch.unique(coords, dim=0, return_inverse=True)
    order = torch.argsort(order)
    coords, color, label = coords[order], color[order], label[order]
    inside = (label >= 0).nonzero()[:, 0]
    instances = torch.stack((3 * coords[inside, 0] + label[inside], inside))
    scene = torch.arange(len(scenes)).repeat_interleave(3)
    names = [f"s{i}" for i in range(len(scenes))]
    none = torch.zeros(2, 0, dtype=torch.int64)
    return VoxelBatch(coords, color, 0.04 * coords[:, 1:].float(), instances, none, scene, names)


def at(step=0) -> SimpleNamespace:
    return SimpleNamespace(generator=torch.Generator().manual_seed(step))


def predict(model: Segmenter, batch: VoxelBatch):
    return model(batch.coords, batch.features, batch.xyz, 6)


def test_defaults_are_those_of_the_published_network():
    model = Segmenter(SegmenterConfig())
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 39.61  # 37.85 + 1.76


def test_batch_of_two_equals_two_singles():
    torch.manual_seed(0)
    model = Segmenter(SMALL).eval()
    first, second = boxes(0, 0, 1), boxes(1, 3, 2)
    both = predict(model, batch_of(first, second))
    for scene, single in enumerate((first, second)):
        coords = single[0].clone()
        coords[:, 0] = 0
        alone = predict(model, batch_of((coords, *single[1:])))[0]
        torch.testing.assert_close(alone[-1].masks(), both[scene][-1].masks(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(alone[-1].classes, both[scene][-1].classes, rtol=1e-3, atol=1e-4)


def test_moving_the_scene_by_16_voxels_changes_nothing():
    torch.manual_seed(0)
    model = Segmenter(SMALL).eval()
    batch = batch_of(boxes(0, 0, 1))
    shift = torch.tensor([0, 16, -32, 48])
    moved = batch._replace(coords=batch.coords + shift, xyz=batch.xyz + 0.04 * shift[1:])
    first, second = (predict(model, one)[0][-1].masks() for one in (batch, moved))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = Segmenter(SMALL)
    loss, parts = model.training_loss(batch_of(boxes(0, 0, 1), boxes(1, 3, 2)), at())
    loss.backward()
    assert loss.isfinite() and set(parts) == {"loss_class", "loss_bce", "loss_dice"}
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert missing == []


def test_loss_of_a_batch_is_the_sum_of_its_masks_losses():
    """Masks add up over scenes (section 7.2); without the class loss nothing else is shared but BatchNorm."""
    from pc3dcli.papers.granularity.mask_loss import LossConfig

    torch.manual_seed(0)
    model = Segmenter(SMALL, LossConfig(class_weight=0)).eval()
    first, second = boxes(0, 0, 1), boxes(1, 3, 2)
    whole = batch_of(first, second)
    singles = [
        batch_of((coords * torch.tensor([0, 1, 1, 1]), color, label)) for coords, color, label in (first, second)
    ]
    with torch.no_grad():
        every = SegmenterConfig(**(vars(SMALL) | {"sampled_voxels": (10**6,) * 4}))
        model.decoder.config = every
        total = float(model.training_loss(whole, at())[0])
        assert total == pytest.approx(sum(float(model.training_loss(one, at())[0]) for one in singles), rel=1e-4)


def test_a_scene_without_instances_trains():
    torch.manual_seed(0)
    model = Segmenter(SMALL)
    batch = batch_of(boxes(0, 0, 1))
    empty = batch._replace(instances=batch.instances[:, :0], scene=batch.scene[:0])
    loss, parts = model.training_loss(empty, at())
    loss.backward()
    assert loss.isfinite() and float(parts["loss_bce"]) == 0
    assert all(parameter.grad is not None for parameter in model.parameters())  # other processes may have instances


def test_bf16_is_close_to_single_precision():
    torch.manual_seed(0)
    model = Segmenter(SMALL)
    batch = batch_of(boxes(0, 0, 1))
    single, _ = model.training_loss(batch, at())
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = model.training_loss(batch, at())
        places = model.decoder.positions(batch.xyz, batch.xyz.amin(0), batch.xyz.amax(0))
    assert half.dtype == places.dtype == torch.float32
    assert float(half.detach()) == pytest.approx(float(single.detach()), rel=0.03)
    torch.testing.assert_close(places, model.decoder.positions(batch.xyz, batch.xyz.amin(0), batch.xyz.amax(0)))


def test_learns_one_scene_by_heart():
    torch.manual_seed(0)
    # without place_waves two blocks share a query for long, with most seeds
    model = Segmenter(replace(SMALL, place_waves=16, place_length=1.0))
    batch = batch_of(boxes(0, 0, 1))
    adam = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for step in range(40):
        loss, _ = model.training_loss(batch, at(step))
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]
    with torch.no_grad():
        found = predict(model, batch)[0][-1]
    masks = torch.zeros(len(batch.coords), 3, dtype=torch.bool)
    masks[batch.instances[1], batch.instances[0]] = True
    inside = (found.masks() > 0).T
    both = (inside[:, :, None] & masks[:, None]).sum(0)
    either = (inside[:, :, None] | masks[:, None]).sum(0)
    assert (both / either.clamp(min=1)).amax(dim=0).min() > 0.9  # of each instance, the best query
