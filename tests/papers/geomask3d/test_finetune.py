# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: the losses by their definitions, layer decay name by name, recipes of the notes, and that it learns."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from pc3dcli.papers.geomask3d.finetune import (
    FinetuneConfig,
    Finetuning,
    downstream_fields,
    layer_decay,
    predict_classes,
    recipe,
    smoothed_cross_entropy,
)
from pc3dcli.papers.geomask3d.point_m2ae import PointM2aeConfig
from pc3dcli.papers.geomask3d.point_m2ae_heads import PointM2aeClassifier
from pc3dcli.papers.geomask3d.point_mae import PointMaeConfig
from pc3dcli.papers.geomask3d.point_mae_heads import PointMaeClassifier, PointMaeParts

MAE = PointMaeConfig(num_points=64, num_patches=8, patch_size=8, dim=12, depth=3, heads=2)
M2AE = PointM2aeConfig(
    num_points=64, scale_patches=(32, 16, 8), patch_sizes=(8, 4, 4), dims=(6, 12, 24), depth=2, heads=2
)


def test_smoothing_spreads_over_the_other_classes():
    logits, label = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.5, 0.0]]), torch.tensor([0, 2])
    expected = 0.0
    for row, right in zip(logits.tolist(), label.tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        for index, value in enumerate(row):
            share = 0.7 if index == right else 0.3 / 2
            expected -= share * (value - math.log(total)) / 2
    assert float(smoothed_cross_entropy(logits, label, 0.3)) == pytest.approx(expected, rel=1e-6)
    plain = smoothed_cross_entropy(logits, label, 0.0)
    torch.testing.assert_close(plain, F.cross_entropy(logits, label))
    assert smoothed_cross_entropy(torch.zeros(2, 3, dtype=torch.bfloat16), label, 0.1).dtype == torch.float32


def test_layer_decay_of_point_mae():
    config = FinetuneConfig(layer_decay=0.5)
    model = PointMaeClassifier(MAE, 4)
    scale = {name: layer_decay(name, MAE, config) for name, _ in model.named_parameters()}
    assert scale["encoder.patch_embed.first_conv.0.weight"] == scale["cls_token"] == scale["cls_pos"] == 1 / 8
    assert scale["encoder.pos_embed.0.weight"] == 1 / 8
    assert scale["encoder.blocks.blocks.0.norm1.weight"] == 1 / 4
    assert scale["encoder.blocks.blocks.2.mlp.fc1.weight"] == 1
    assert scale["encoder.norm.weight"] == scale["cls_head_finetune.0.weight"] == 1
    released = FinetuneConfig(layer_decay=0.5, released_decay=True)
    assert layer_decay("encoder.patch_embed.first_conv.0.weight", MAE, released) == 1
    assert layer_decay("encoder.blocks.blocks.0.norm1.weight", MAE, released) == 1 / 4
    assert all(layer_decay(name, MAE, FinetuneConfig()) == 1 for name in scale)


def test_layer_decay_of_point_m2ae():
    model = PointM2aeClassifier(M2AE, 4)
    config = FinetuneConfig(layer_decay=0.5)
    scale = {name: layer_decay(name, M2AE, config) for name, _ in model.named_parameters()}
    assert scale["h_encoder.encoder_blocks.2.blocks.1.norm1.weight"] == 1
    assert scale["h_encoder.encoder_blocks.1.blocks.0.norm1.weight"] == 1 / 8
    assert scale["h_encoder.encoder_pos_embeds.2.0.weight"] == 1 / 4  # before the blocks of its scale
    assert min(scale.values()) == scale["h_encoder.encoder_pos_embeds.0.0.weight"] == 1 / 64
    assert scale["norm.weight"] == scale["cls_head_finetune.8.weight"] == 1
    released = FinetuneConfig(layer_decay=0.5, released_decay=True)
    assert {layer_decay(name, M2AE, released) for name in scale} == {1.0}


def test_recipes_are_those_of_the_notes():
    beside, training = recipe("classify", "point-mae")
    assert beside == {} and (training["epochs"], training["batch_size"], training["lr"]) == (300, 32, 5e-4)
    assert (training["clip"], training["warmup_epochs"], training["schedule"]) == (10, 10, "epoch")
    assert recipe("classify", "point-m2ae")[0] == {"label_smoothing": 0.3}
    assert recipe("classify", "point-m2ae", is_scan=True)[0] == {}
    beside, training = recipe("classify", "point-mae", "gm3d")
    assert beside == {"layer_decay": 0.75} and (training["epochs"], training["clip"]) == (500, 0)
    assert recipe("few-shot", "point-mae", "gm3d")[1]["lr"] == 1e-3
    assert recipe("few-shot", "point-m2ae", "gm3d")[1]["lr"] == recipe("few-shot", "point-mae")[1]["lr"] == 5e-4
    beside, training = recipe("parts", "point-mae")
    assert beside == {"augment": "parts"} and (training["batch_size"], training["lr"]) == (16, 2e-4)
    with pytest.raises(ValueError, match="layer_decay"):
        FinetuneConfig(layer_decay=0)


def test_downstream_models_have_the_points_of_the_notes():
    mae = {"num_points": 1024, "num_patches": 64}
    assert downstream_fields("parts", "point-mae", mae) == {"num_points": 2048, "num_patches": 128}
    assert downstream_fields("classify", "point-mae", mae) == mae
    scan = downstream_fields("classify", "point-mae", mae, is_scan=True)  # cfgs/finetune_scan_*.yaml
    assert scan == {"num_points": 2048, "num_patches": 128}
    m2ae = {"num_points": 2048, "scale_patches": (512, 256, 64)}
    assert downstream_fields("few-shot", "point-m2ae", m2ae)["num_points"] == 1024
    assert downstream_fields("classify", "point-m2ae", m2ae, is_scan=True) == m2ae
    assert downstream_fields("parts", "point-m2ae", m2ae) == m2ae


@pytest.mark.parametrize("kind", ["classify", "parts"])
def test_learns_a_small_batch(kind):
    torch.manual_seed(0)
    model = PointMaeClassifier(MAE, 4) if kind == "classify" else PointMaeParts(MAE, 6, 2)
    learner = Finetuning(model, kind, FinetuneConfig())
    generator = torch.Generator().manual_seed(0)
    clouds = torch.rand(8, 64, 3, generator=generator) * 2 - 1
    label = torch.arange(8) % (4 if kind == "classify" else 2)
    clouds[:, :, 2] *= 0.1 + label[:, None]
    batch = SimpleNamespace(clouds=clouds, label=label, part=3 * label[:, None] + (clouds[..., 0] > 0))
    adam = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss, named = learner.training_loss(batch, None)
        loss.backward()
        assert all(p.grad is not None for p in learner.parameters())
        adam.step()
        adam.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0] and set(named) == {"accuracy"} and not named["accuracy"].requires_grad
    assert learner.exported().keys() == model.state_dict().keys()
    assert learner.rate_scale("model.encoder.norm.weight") == 1


def test_prediction_is_in_eval_mode_and_leaves_the_mode():
    torch.manual_seed(0)
    model = PointMaeClassifier(MAE, 4)
    clouds = torch.rand(3, 64, 3)
    first = predict_classes(model, clouds)
    assert model.training and not first.requires_grad
    torch.testing.assert_close(first, predict_classes(model, clouds))
    torch.testing.assert_close(first[1:2], predict_classes(model, clouds[1:2]), rtol=1e-4, atol=1e-5)
