# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from pc3dcli.nn.chamfer import chamfer_l1, chamfer_l2

FORMS = {"l2": chamfer_l2, "l1": chamfer_l1}


def by_definition(a, b, form):
    gaps = [[float((p - q).square().sum()) for q in b] for p in a]
    gaps = gaps if form == "l2" else [[g**0.5 for g in row] for row in gaps]
    total = sum(min(row) for row in gaps) / len(a) + sum(min(column) for column in zip(*gaps, strict=True)) / len(b)
    return total if form == "l2" else total / 2


def sets(*shape, seed=0):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed))


def test_hand_case():
    a, b = torch.tensor([[0.0, 0, 0], [1, 0, 0]]), torch.zeros(1, 3)
    assert chamfer_l2(a, b).item() == 0.5
    assert chamfer_l1(a, b).item() == 0.25


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "m"), [(5, 5), (16, 8), (1, 7)])
def test_equals_the_definition(form, n, m):
    a, b = sets(2, 3, n), sets(2, 3, m, seed=1)
    found = FORMS[form](a, b)
    assert found.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert found[i, j].item() == pytest.approx(by_definition(a[i, j], b[i, j], form), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_invariants(form):
    distance = FORMS[form]
    a, b = sets(12), sets(9, seed=1)
    value = distance(a, b)
    torch.testing.assert_close(distance(b, a), value)
    torch.testing.assert_close(distance(a.flip(0), b[torch.randperm(9)]), value)
    torch.testing.assert_close(distance(a + 4, b + 4), value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(distance(3 * a, 3 * b), value * (9 if form == "l2" else 3))
    assert distance(a, a).item() == 0


@pytest.mark.parametrize("form", FORMS)
def test_gradient_reaches_both_and_is_right(form, monkeypatch):
    a, b = sets(6).requires_grad_(), sets(4, seed=1).requires_grad_()
    FORMS[form](a, b).backward()
    step = 1e-2
    for changed in (a, b):
        for place in [(0, 0), (2, 1), (3, 2)]:
            values = []
            for sign in (1, -1):
                moved = changed.detach().clone()
                moved[place] += sign * step
                values.append(FORMS[form](*(moved if x is changed else x for x in (a, b))).item())
            assert changed.grad[place].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=2e-3)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_equal_sets_is_finite(form):
    a = sets(3, 6).requires_grad_()
    FORMS[form](a, a.detach().clone()).sum().backward()
    assert torch.equal(a.grad, torch.zeros_like(a))


def test_the_first_of_equally_near_points_gets_the_gradient():
    b = torch.tensor([[1.0, 0, 0], [-1, 0, 0]], requires_grad=True)
    chamfer_l2(torch.zeros(1, 3), b).backward()
    assert b.grad[:, 0].tolist() == [2 + 1, -1]


def test_float32_under_autocast():
    a, b = sets(5), sets(5, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = chamfer_l2(a.bfloat16(), b)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, chamfer_l2(a.bfloat16().float(), b))
