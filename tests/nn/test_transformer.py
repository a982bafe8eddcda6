# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from pc3dcli.nn.transformer import Attention, Block, Transformer


def test_fused_attention_equals_the_formula():
    torch.manual_seed(0)
    attention = Attention(24, 3)
    x = torch.randn(2, 7, 24)
    attend = torch.rand(2, 1, 7, 7) < 0.6
    attend |= torch.eye(7, dtype=torch.bool)
    for mask in (None, attend, attend[:, :, :1] | True, attend[:1]):
        attention.fused = True
        fused = attention(x, mask)
        attention.fused = False
        torch.testing.assert_close(fused, attention(x, mask), rtol=1e-5, atol=1e-6)


def test_masked_tokens_do_not_matter():
    torch.manual_seed(0)
    model = Transformer(16, 2, 2).eval()
    x, positions = torch.randn(1, 6, 16), torch.randn(1, 6, 16)
    attend = torch.ones(1, 6, 6, dtype=torch.bool)
    attend[:, :, 4:] = False
    padded = model(x, positions, attend)[:, :4]
    torch.testing.assert_close(padded, model(x[:, :4], positions[:, :4]), rtol=1e-5, atol=1e-6)


def test_positions_are_added_before_every_block():
    torch.manual_seed(0)
    model = Transformer(16, 3, 2).eval()
    x, positions = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    expected = x
    for block in model.blocks:
        y = expected + positions
        y = y + block.attn(block.norm1(y))
        expected = y + block.mlp(block.norm2(y))
    torch.testing.assert_close(model(x, positions), expected)


def test_drop_path_rises_and_keeps_the_mean():
    rates = [block.drop_path for block in Transformer(16, 5, 2, 0.2).blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert [block.drop_path for block in Transformer(16, 2, 2, [0.3, 0.1]).blocks] == [0.3, 0.1]
    torch.manual_seed(0)
    block = Block(8, 2, 0.25)
    x, branch = torch.zeros(4000, 1, 8), torch.ones(4000, 1, 8)
    added = block._add(x, branch)
    assert sorted(added.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert added.mean().item() == pytest.approx(1, abs=0.03)
    assert (added.std(2) == 0).all()  # a sample as a whole
    assert torch.equal(block.eval()._add(x, branch), branch)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="heads"):
        Attention(10, 3)
    with pytest.raises(ValueError, match="rates"):
        Transformer(16, 3, 2, [0.1])


def test_the_last_tokens_alone_and_outputs_between_are_those_of_the_whole():
    torch.manual_seed(0)
    model = Transformer(16, 3, 2).eval()
    x, positions = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    attend = torch.rand(2, 5, 5) < 0.6
    attend |= torch.eye(5, dtype=torch.bool)
    for mask in (None, attend, attend[:, None, :1] | True):
        whole = model(x, positions, mask)
        for num in (5, 2):
            shortened = model(x, positions, mask, num_last=num)
            torch.testing.assert_close(shortened, whole[:, 5 - num :], rtol=1e-5, atol=1e-6)
    whole = model(x, positions)
    first, last = model.taps(x, positions, [0, 2])
    torch.testing.assert_close(last, whole)
    torch.testing.assert_close(first, model.blocks[0](x + positions))
