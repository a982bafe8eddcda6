# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest
import torch
from torch.nn import functional as F

from pc3dcli.papers.granularity.mask_decoder import MaskPrediction
from pc3dcli.papers.granularity.mask_loss import LossConfig, SceneTargets, mask_losses, match


def targets(num=30, instances=4, seed=0, share=0.3) -> SceneTargets:
    generator = torch.Generator().manual_seed(seed)
    return SceneTargets((torch.rand(instances, num, generator=generator) < share).float())


def counted(t: SceneTargets, share: float) -> SceneTargets:
    """The same with some voxels that do not count."""
    return SceneTargets(
        t.masks, (torch.rand(t.masks.shape, generator=torch.Generator().manual_seed(5)) >= share).float()
    )


def with_masks(classes, masks) -> MaskPrediction:
    """A prediction of these mask logits (Q, n)."""
    return MaskPrediction(classes, masks, torch.eye(masks.shape[1], dtype=masks.dtype))


def prediction(num=30, queries=7, seed=1) -> MaskPrediction:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(queries, 2, generator=generator, dtype=torch.float64)
    return with_masks(classes, 2 * torch.randn(queries, num, generator=generator, dtype=torch.float64))


def by_definition(p: MaskPrediction, t: SceneTargets, config: LossConfig) -> float:
    """The loss of one scene and one prediction, over all ways to match."""
    prob, logits = p.masks().sigmoid(), p.masks()
    M, Q = len(t.masks), len(logits)

    def parts(q, m):
        keep = slice(None) if t.counted is None else t.counted[m] > 0
        x, y, s = logits[q, keep], t.masks[m, keep].double(), prob[q, keep]
        bce = F.binary_cross_entropy_with_logits(x, y) if len(x) else torch.tensor(0.0)
        return bce, 1 - (2 * (s * y).sum() + 1) / (s.sum() + y.sum() + 1)

    def cost(q, m):
        bce, dice = parts(q, m)
        return config.bce_weight * bce + config.dice_weight * dice - config.class_weight * p.classes[q].softmax(0)[0]

    best = min(itertools.permutations(range(Q), M), key=lambda qs: sum(float(cost(q, m)) for m, q in enumerate(qs)))
    pairs = [parts(q, m) for m, q in enumerate(best)]
    label = torch.full((Q,), 1)
    label[list(best)] = 0
    weight = torch.tensor([1.0, config.no_object_weight], dtype=torch.float64)
    total = config.class_weight * F.cross_entropy(p.classes, label, weight)
    total += config.bce_weight * sum(b for b, _ in pairs) / M + config.dice_weight * sum(d for _, d in pairs) / M
    return float(total)


@pytest.mark.parametrize("config", [LossConfig(), LossConfig(class_weight=0), LossConfig(1.0, 2.0, 3.0, 0.5)])
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_loss_equals_the_definition(config, ignored):
    t = counted(targets(), ignored) if ignored else targets()
    loss, parts = mask_losses([[prediction()]], [t], config)
    assert float(loss) == pytest.approx(by_definition(prediction(), t, config), rel=1e-5)
    assert sum(float(value) for value in parts.values()) == pytest.approx(float(loss))
    assert ("loss_class" in parts) == (config.class_weight > 0)


def test_predictions_and_scenes_add_up():
    first, second = prediction(seed=1), prediction(seed=2)
    t = targets()
    config = LossConfig(class_weight=0)
    alone = [float(mask_losses([[p]], [t], config)[0]) for p in (first, second)]
    assert float(mask_losses([[first, second]], [t], config)[0]) == pytest.approx(sum(alone))
    assert float(mask_losses([[first], [second]], [t, t], config)[0]) == pytest.approx(sum(alone))


def test_order_of_instances_and_of_queries_changes_nothing():
    p, t = prediction(), targets()
    expected = float(mask_losses([[p]], [t], LossConfig())[0])
    shuffled = SceneTargets(t.masks[[2, 0, 3, 1]])
    assert float(mask_losses([[p]], [shuffled], LossConfig())[0]) == pytest.approx(expected, rel=1e-6)
    order = [3, 6, 0, 1, 5, 2, 4]
    moved = MaskPrediction(p.classes[order], p.embeddings[order], p.features)
    assert float(mask_losses([[moved]], [t], LossConfig())[0]) == pytest.approx(expected, rel=1e-6)


def test_perfect_logits_cost_nothing():
    t = targets()
    perfect = with_masks(torch.tensor([[20.0, -20.0]] * 4), 40.0 * t.masks - 20.0)
    loss, _ = mask_losses([[perfect]], [t], LossConfig())
    assert float(loss) < 1e-4


def test_ignored_voxels_have_no_gradient():
    t = targets()
    t = SceneTargets(t.masks, torch.ones_like(t.masks).index_fill_(1, torch.tensor([3, 8]), 0))
    p = prediction()
    logits = p.masks().clone().requires_grad_()
    mask_losses([[with_masks(p.classes, logits)]], [t], LossConfig())[0].backward()
    assert not logits.grad[:, [3, 8]].any()
    assert logits.grad[:, 0].any()


def test_scene_without_instances_teaches_no_object_alone():
    t = SceneTargets(torch.zeros(0, 30))
    p = prediction()
    logits, classes = p.masks().clone().requires_grad_(), p.classes.clone().requires_grad_()
    loss, parts = mask_losses([[with_masks(classes, logits)]], [t], LossConfig())
    loss.backward()
    assert float(parts["loss_bce"]) == 0 and not logits.grad.any()
    assert (classes.grad[:, 1] < 0).all()
    without = mask_losses([[with_masks(classes, logits)]], [t], LossConfig(class_weight=0))[0]
    without.backward()
    assert float(without.detach()) == 0


def test_more_instances_than_queries_match_what_there_is():
    query, instance = match(prediction(queries=3), targets(instances=9), LossConfig())
    assert sorted(query.tolist()) == [0, 1, 2] and len(set(instance.tolist())) == 3
    assert mask_losses([[prediction(queries=3)]], [targets(instances=9)], LossConfig())[0].isfinite()


def test_an_instance_that_is_all_ignored_is_finite():
    t = targets()
    t = SceneTargets(t.masks, torch.zeros_like(t.masks))
    assert mask_losses([[prediction()]], [t], LossConfig())[0].isfinite()


def test_a_loss_that_is_not_finite_is_returned_as_such():
    t = targets()
    p = with_masks(torch.full((7, 2), torch.nan), torch.full((7, 30), torch.nan))
    assert not mask_losses([[p]], [t], LossConfig())[0].isfinite()


def test_any_object_class_is_an_object():
    t = targets()
    two = prediction()
    three = MaskPrediction(
        torch.cat((two.classes[:, :1] - torch.log(torch.tensor(2.0)),) * 2 + (two.classes[:, 1:],), dim=1),
        two.embeddings,
        two.features,
    )  # the object's probability in two halves
    losses = [float(mask_losses([[p]], [t], LossConfig())[0]) for p in (two, three)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_extreme_logits_are_finite():
    t = targets()
    p = with_masks(torch.full((7, 2), 1e4), torch.full((7, 30), -1e4).requires_grad_())
    loss, _ = mask_losses([[p]], [t], LossConfig())
    loss.backward()
    assert loss.isfinite() and p.embeddings.grad.isfinite().all()
