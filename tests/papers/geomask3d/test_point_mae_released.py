# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.nn import functional as F

from pc3dcli.errors import WeightsError
from pc3dcli.papers.geomask3d.gc_head import GcHead
from pc3dcli.papers.geomask3d.point_mae import PointMae, PointMaeConfig
from pc3dcli.papers.geomask3d.point_mae_released import from_released, to_released

TINY = PointMaeConfig(num_points=128, num_patches=16, patch_size=8, dim=24, depth=2, heads=3, decoder_depth=2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PointMae(TINY)


@pytest.fixture
def released(model):
    return to_released(model.state_dict())


def assert_same(tensors, model):
    state = model.state_dict()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_there_and_back(model, released, prefix):
    assert released["MAE_encoder.encoder.first_conv.0.weight"].shape == (128, 3, 1)
    assert_same(from_released({prefix + name: value for name, value in released.items()}, "pretrain"), model)


def test_only_a_leading_prefix_is_taken_off(released):
    released["MAE_encoder.module.norm.weight"] = released.pop("MAE_encoder.norm.weight")
    with pytest.raises(WeightsError, match=r"MAE_encoder\.module\.norm\.weight"):
        from_released(released, "pretrain")


def gm3d_of(released):
    """The layout of GeoMask3D's checkpoints, section 2.4, with a complexity head of one block."""
    layout = {name.replace("MAE_encoder.norm.", "MAE_encoder.norm_p."): value for name, value in released.items()}
    layout |= {"norm_p.weight": torch.ones(24), "norm_p.bias": torch.zeros(24)}
    layout |= {"mask_token_loss_pred": torch.randn(1, 1, 24)}
    layout |= {
        name.replace("MAE_decoder.", "MAE_decoder_loss_pred."): value + 1
        for name, value in released.items()
        if name.startswith(("MAE_decoder.norm.", "MAE_decoder.blocks.0."))
    }
    score = torch.nn.Sequential(torch.nn.Conv1d(24, 1024, 1), torch.nn.BatchNorm1d(1024), torch.nn.Identity())
    score.append(torch.nn.Conv1d(1024, 24, 1))
    layout |= {f"increase_dim_2.{name}": value for name, value in score.state_dict().items()}
    return layout | {
        "increase_dim_just_network_without_feature.0.weight": torch.zeros(24, 24, 1),
        "increase_dim_just_network_without_feature.0.bias": torch.zeros(24),
    }


def base_of(tensors):
    return {name: value for name, value in tensors.items() if not name.startswith("gc_head.")}


def test_gm3d_layout(model, released):
    assert_same(base_of(from_released(gm3d_of(released), "pretrain")), model)


def test_gm3d_complexity_head(released):
    torch.manual_seed(1)
    layout = gm3d_of(released)
    tensors = from_released(layout, "pretrain")
    head = GcHead(24, 1, 3).eval()
    head.load_state_dict({name.removeprefix("gc_head."): value for name, value in tensors.items() if name[:3] == "gc_"})
    assert torch.equal(head.mask_token, layout["mask_token_loss_pred"])
    assert torch.equal(head.blocks.blocks[0].norm1.bias, layout["MAE_decoder_loss_pred.blocks.0.norm1.bias"])
    tokens = torch.randn(5, 24)
    first, last = ([layout[f"increase_dim_2.{i}.{part}"] for part in ("weight", "bias")] for i in (0, 3))
    inside = F.leaky_relu(head.score[1](F.linear(tokens, first[0][..., 0], first[1])), 0.2)
    outputs = F.linear(inside, last[0][..., 0], last[1])
    expected = outputs.mean(1) - last[1].mean()
    torch.testing.assert_close(head.score(tokens)[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_gm3d_layout_whose_point_head_has_its_other_name(model, released):
    layout = gm3d_of(released)
    for part in ("weight", "bias"):
        layout[f"increase_dim_just_network_without_feature.0.{part}"] = layout.pop(f"increase_dim.0.{part}")
    assert_same(base_of(from_released(layout, "pretrain")), model)


def test_gm3d_parts_in_a_point_mae_checkpoint_are_foreign(released):
    with pytest.raises(WeightsError, match="mask_token_loss_pred"):
        from_released(
            released | {"increase_dim_2.0.bias": torch.zeros(9)} | {"mask_token_loss_pred": torch.zeros(1)}, "pretrain"
        )


def test_foreign_names_are_named(released):
    point_m2ae = {"h_encoder.encoder_norms.0.bias": torch.zeros(96), "rec_head.bias": torch.zeros(48)}
    with pytest.raises(WeightsError, match=r"h_encoder\.encoder_norms\.0\.bias, rec_head\.bias, expected"):
        from_released(released | point_m2ae, "pretrain")
    with pytest.raises(WeightsError, match=r"mask_token.* and \d+ more"):
        from_released(released, "classify")


def test_norm_p_of_a_fine_tuned_model():
    tensors = {"norm_p.weight": torch.ones(4), "norm_p.bias": torch.zeros(4), "cls_pos": torch.zeros(1, 1, 4)}
    assert set(from_released(tensors, "classify")) == {"encoder.norm.weight", "encoder.norm.bias", "cls_pos"}
