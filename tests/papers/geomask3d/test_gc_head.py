# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from pc3dcli.papers.geomask3d.gc_head import HEAD_WIDTH, GcHead


def inputs(hidden: torch.Tensor, dim: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    B, G = hidden.shape
    g = torch.Generator().manual_seed(0)
    return torch.randn(B, int((~hidden[0]).sum()), dim, generator=g), torch.randn(B, G, dim, generator=g)


@pytest.fixture
def head() -> GcHead:
    torch.manual_seed(0)
    head = GcHead(16, depth=2, heads=4, drop_path=0.1).eval()
    torch.nn.init.normal_(head.mask_token)
    return head


def test_scores_hidden_patches_or_all_that_are_seen(head):
    hidden = torch.tensor([[True, False, True, False, True], [True, True, True, False, False]])
    visible, positions = inputs(hidden)
    assert head(visible, positions, hidden).shape == (2, 3)
    nothing = torch.zeros_like(hidden)
    visible, positions = inputs(nothing)
    assert head(visible, positions, nothing).shape == (2, 5)


def test_a_score_belongs_to_its_patch(head):
    """With one patch order or another, each hidden patch keeps its score."""
    hidden = torch.tensor([[True, False, True, False, True, False]])
    visible, positions = inputs(hidden)
    scores = head(visible, positions, hidden)[0]
    order = torch.tensor([4, 5, 0, 3, 2, 1])
    visible_of = dict(zip((1, 3, 5), visible[0], strict=True))
    moved_visible = torch.stack([visible_of[i] for i in order.tolist() if i in visible_of])[None]
    moved = head(moved_visible, positions[:, order], hidden[:, order])[0]
    score_of = dict(zip((0, 2, 4), scores.tolist(), strict=True))
    expected = [score_of[i] for i in order.tolist() if i in score_of]
    assert moved.tolist() == pytest.approx(expected, abs=1e-6)


def test_one_unit_is_the_mean_of_many(head):
    """The released head has as many outputs as channels and averages them: our unit is the mean of their weights."""
    many = torch.nn.Linear(HEAD_WIDTH, 16)
    values = torch.randn(7, HEAD_WIDTH)
    unit = torch.nn.Linear(HEAD_WIDTH, 1, bias=False)
    with torch.no_grad():
        unit.weight.copy_(many.weight.mean(0, keepdim=True))
    expected = many(values).mean(1) - many.bias.mean()
    torch.testing.assert_close(unit(values)[:, 0], expected)
    fresh = GcHead(384, depth=1).score[3].weight  # at the variance that the mean of 384 default layers starts with
    assert fresh.std().item() == pytest.approx((1 / 32) / 3**0.5 / 384**0.5, rel=0.1)


def test_mask_token_starts_at_zero():
    assert not GcHead(16, depth=1, heads=4).mask_token.any()


def test_every_parameter_learns(head):
    hidden = torch.tensor([[True, False, True, True], [False, True, True, True]])
    visible, positions = inputs(hidden)
    head.train()
    (head(visible, positions, hidden) * torch.arange(6.0).view(2, 3)).sum().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []
