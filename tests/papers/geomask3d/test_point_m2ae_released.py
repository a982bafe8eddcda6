# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from pc3dcli.errors import WeightsError
from pc3dcli.papers.geomask3d.point_m2ae import PointM2ae, PointM2aeConfig
from pc3dcli.papers.geomask3d.point_m2ae_heads import PointM2aeClassifier, PointM2aeParts
from pc3dcli.papers.geomask3d.point_m2ae_released import from_released, to_released

SHAPES = {  # section 2.7
    "mask_token": (1, 384),
    "h_encoder.token_embed.0.first_conv.0.weight": (128, 3, 1),
    "h_encoder.token_embed.0.first_conv.3.weight": (256, 128, 1),
    "h_encoder.token_embed.0.second_conv.0.weight": (512, 512, 1),
    "h_encoder.token_embed.0.second_conv.1.running_mean": (512,),
    "h_encoder.token_embed.0.second_conv.3.weight": (96, 512, 1),
    "h_encoder.token_embed.1.first_conv.3.weight": (96, 96, 1),
    "h_encoder.token_embed.1.second_conv.0.weight": (192, 192, 1),
    "h_encoder.token_embed.2.first_conv.0.weight": (192, 192, 1),
    "h_encoder.token_embed.2.second_conv.3.weight": (384, 384, 1),
    "h_encoder.encoder_pos_embeds.1.0.weight": (192, 3),
    "h_encoder.encoder_pos_embeds.1.2.weight": (192, 192),
    "h_encoder.encoder_blocks.2.blocks.4.attn.qkv.weight": (1152, 384),
    "h_encoder.encoder_norms.0.bias": (96,),
    "h_decoder.0.blocks.0.mlp.fc1.weight": (1536, 384),
    "h_decoder.1.blocks.0.norm2.weight": (192,),
    "decoder_pos_embeds.0.2.weight": (384, 384),
    "token_prop.0.fuse.net.0.weight": (192, 576, 1),
    "token_prop.0.fuse.net.1.running_var": (192,),
    "token_prop.0.extraction.operation.0.net1.0.weight": (192, 192, 1),
    "token_prop.0.extraction.operation.0.net2.1.num_batches_tracked": (),
    "decoder_norm.weight": (192,),
    "rec_head.weight": (48, 192, 1),
}


@pytest.fixture(scope="module")
def model():
    return PointM2ae(PointM2aeConfig())


@pytest.fixture(scope="module")
def released(model):
    return to_released(model.state_dict())


def assert_same(tensors, model):
    state = model.state_dict()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_released_names_and_shapes(released):
    assert len(released) == 293
    for name, shape in SHAPES.items():
        assert tuple(released[name].shape) == shape, name


@pytest.mark.parametrize("prefix", ["", "module."])
def test_both_ways(model, released, prefix):
    assert_same(from_released({prefix + name: value for name, value in released.items()}, "pretrain"), model)


def test_names_of_the_first_release(model, released):
    first = {
        name.replace("h_encoder.token_embed.", "MAE_encoder.encoders.")
        .replace("h_encoder.encoder_blocks.", "MAE_encoder.blocks.")
        .replace("h_encoder.", "MAE_encoder."): value
        for name, value in released.items()
    }
    assert not any(name.startswith("h_encoder") for name in first)
    assert_same(from_released(first, "pretrain"), model)


@pytest.mark.parametrize(
    ("kind", "number", "build"),
    [("classify", 249, lambda: PointM2aeClassifier(PointM2aeConfig(), 40)),
     ("parts", None, lambda: PointM2aeParts(PointM2aeConfig()))],
)  # fmt: skip
def test_downstream_models_both_ways(kind, number, build):
    model = build()
    released = to_released(model.state_dict())
    assert number is None or len(released) == number
    assert_same(from_released(released, kind), model)


def test_parts_keep_their_released_names():
    released = to_released(PointM2aeParts(PointM2aeConfig()).state_dict())
    shapes = {"convs1.weight": (1024, 6208, 1), "bns3.bias": (256,), "label_conv.0.weight": (64, 16, 1),
              "propagations.2.mlp_convs.0.weight": (1536, 387, 1), "propagations.0.mlp_bns.1.bias": (1024,),
              "convs4.bias": (50,)}  # fmt: skip
    assert {name: tuple(released[name].shape) for name in shapes} == shapes


def test_module_is_removed_in_front_only():
    with pytest.raises(WeightsError, match=r"found h_encoder\.module\.token_embed"):
        from_released({"h_encoder.module.token_embed.0.first_conv.0.bias": torch.zeros(128)}, "pretrain")


def test_weights_of_another_model_are_refused_by_name(released):
    point_mae = {"module.MAE_encoder.encoder.first_conv.0.weight": torch.zeros(128, 3, 1)}
    with pytest.raises(WeightsError, match=r"found module\.MAE_encoder\.encoder\.first_conv\.0\.weight, expected"):
        from_released(point_mae, "pretrain")
    with pytest.raises(WeightsError, match="and .* more, expected names of a released Point-M2AE .classify"):
        from_released(released, "classify")
