# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from pc3dcli.papers.geomask3d.relation import dense_relation_loss, pair_accuracy


def loss(scores, targets, **options) -> float:
    return dense_relation_loss(torch.tensor([scores]), torch.tensor([targets]), **options).item()


def slow_loss(scores, targets, valid) -> float:
    """The definition of spec section 3.4, pair by pair."""
    total = count = 0
    for s, t, v in zip(scores.tolist(), targets.tolist(), valid.tolist(), strict=True):
        for i in range(len(s)):
            for j in range(len(s)):
                if i != j and t[i] != t[j] and v[i] and v[j]:
                    difference = s[j] - s[i] if t[i] > t[j] else s[i] - s[j]
                    total += math.log1p(math.exp(difference))
                    count += 1
    return total / count if count else 0.0


def test_values_by_hand():
    assert loss([1.0, 1.0, 1.0], [3.0, 2.0, 5.0]) == pytest.approx(math.log(2))
    assert loss([2.0, 0.0], [1.0, 0.0]) == pytest.approx(0.126928, abs=1e-6)
    assert loss([2.0, 0.0], [0.0, 1.0]) == pytest.approx(2.126928, abs=1e-6)


def test_agrees_with_the_definition():
    g = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(3, 7, generator=g), torch.randint(4, (3, 7), generator=g).float()
    for valid in (torch.ones(3, 7, dtype=torch.bool), torch.rand(3, 7, generator=g) < 0.7):
        expected = slow_loss(scores, targets, valid)
        assert dense_relation_loss(scores, targets, valid).item() == pytest.approx(expected, rel=1e-5)


def test_ties_alone_cost_nothing_and_have_a_finite_gradient():
    for form in ("softplus", "official"):
        scores = torch.tensor([[1.0, -200.0]], requires_grad=True)
        value = dense_relation_loss(scores, torch.ones(1, 2), form=form)
        value.backward()
        assert value.item() == 0.0
        assert scores.grad.tolist() == [[0.0, 0.0]]


def test_invariants():
    g = torch.Generator().manual_seed(1)
    scores, targets = torch.randn(2, 9, generator=g), torch.rand(2, 9, generator=g)
    value = dense_relation_loss(scores, targets)
    assert dense_relation_loss(scores + 3.0, targets).item() == pytest.approx(value.item(), abs=1e-6)
    assert torch.equal(dense_relation_loss(scores, targets.exp() * 5), value)
    order = torch.randperm(9, generator=g)
    assert dense_relation_loss(scores[:, order], targets[:, order]).item() == pytest.approx(value.item(), abs=1e-6)


def test_a_wrong_pair_far_apart_still_teaches():
    scores = torch.tensor([[0.0, 50.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0]])
    value = dense_relation_loss(scores, targets)
    value.backward()
    assert value.item() == pytest.approx(50.0)
    assert scores.grad[0].tolist() == pytest.approx([-1.0, 1.0])
    scores.grad = None
    value = dense_relation_loss(scores, targets, form="official")
    value.backward()
    assert value.item() == pytest.approx(13.8, abs=0.05)
    assert scores.grad.abs().max() < 1e-6


def test_both_forms_agree_where_none_is_saturated():
    g = torch.Generator().manual_seed(2)
    scores, targets = torch.rand(4, 12, generator=g) * 4.9, torch.rand(4, 12, generator=g)
    ours, official = (dense_relation_loss(scores, targets, form=form).item() for form in ("softplus", "official"))
    assert ours == pytest.approx(official, abs=2e-4)


def test_half_precision_is_compared_in_single():
    scores = torch.tensor([[3.0, 0.0]], dtype=torch.bfloat16)
    assert dense_relation_loss(scores, torch.tensor([[1.0, 0.0]])).dtype == torch.float32


def test_targets_get_no_gradient():
    targets = torch.rand(1, 4, requires_grad=True)
    dense_relation_loss(torch.rand(1, 4, requires_grad=True), targets).backward()
    assert targets.grad is None


def test_pair_accuracy():
    targets = torch.tensor([[3.0, 2.0, 1.0, 1.0]])
    assert pair_accuracy(targets, targets).item() == 1.0
    assert pair_accuracy(-targets, targets).item() == 0.0
    assert pair_accuracy(torch.zeros(1, 4), targets).item() == 0.5
    assert pair_accuracy(torch.tensor([[2.0, 3.0, 1.0, 1.0]]), targets).item() == pytest.approx(4 / 5)
    assert pair_accuracy(torch.rand(1, 4), torch.zeros(1, 4)).item() == 0.5
    valid = torch.tensor([[True, False, True, True]])
    assert pair_accuracy(torch.tensor([[2.0, 9.0, 1.0, 1.0]]), targets, valid).item() == 1.0
