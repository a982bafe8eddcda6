# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest
import torch

from pc3dcli.errors import WeightsError
from pc3dcli.nn.kernel_maps import Sites
from pc3dcli.nn.sparse import InverseConv, SparseTensor, StridedConv, SubmanifoldConv
from pc3dcli.nn.sparse_unet import ResidualBlock
from pc3dcli.papers.granularity.mask3d_released import from_released, is_released, sizes
from pc3dcli.papers.granularity.segmenter import Segmenter, SegmenterConfig

PLANES, DEPTHS = (32, 64, 128, 256, 256, 128, 96, 96), (2, 3, 4, 6, 2, 2, 2, 2)


def norm(prefix: str, width: int) -> dict[str, tuple]:
    return {f"{prefix}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")} | {
        f"{prefix}.num_batches_tracked": ()
    }


def released_shapes() -> dict[str, tuple]:
    """Names and shapes of section 10 of the spec."""
    backbone = {"conv0p1s1.kernel": (125, 3, 32), "final.kernel": (96, 1), "final.bias": (1, 1)}
    for name, width in zip(("conv1p1s2", "conv2p2s2", "conv3p4s2", "conv4p8s2"), (32, 32, 64, 128), strict=True):
        backbone[f"{name}.kernel"] = (8, width, width)
    ups = (("convtr4p16s2", 256, 256), ("convtr5p8s2", 256, 128), ("convtr6p4s2", 128, 96), ("convtr7p2s2", 96, 96))
    for name, width, out in ups:
        backbone[f"{name}.kernel"] = (8, width, out)
    for i, width in enumerate((32, 32, 32, 64, 128)):
        backbone |= norm(f"bn{i}.bn", width)
    for i, width in enumerate((256, 128, 96, 96)):
        backbone |= norm(f"bntr{i + 4}.bn", width)
    entries = (32, 32, 64, 128, 384, 192, 128, 128)
    for block, (width, out, depth) in enumerate(zip(entries, PLANES, DEPTHS, strict=True), 1):
        for j in range(depth):
            prefix, first = f"block{block}.{j}", width if j == 0 else out
            backbone |= {f"{prefix}.conv1.kernel": (27, first, out), f"{prefix}.conv2.kernel": (27, out, out)}
            backbone |= norm(f"{prefix}.norm1.bn", out) | norm(f"{prefix}.norm2.bn", out)
            if first != out:
                backbone |= {f"{prefix}.downsample.0.kernel": (first, out)} | norm(f"{prefix}.downsample.1.bn", out)
    shapes = {f"backbone.{name}": shape for name, shape in backbone.items()}
    shapes |= {"mask_features_head.kernel": (96, 128), "mask_features_head.bias": (1, 128), "pos_enc.gauss_B": (3, 64)}
    shapes |= {"class_embed_head.weight": (2, 128), "class_embed_head.bias": (2,)}
    shapes |= {"decoder_norm.weight": (128,), "decoder_norm.bias": (128,)}
    for i in (0, 2):
        shapes |= {f"query_projection.layers.{i}.weight": (128, 128, 1), f"query_projection.layers.{i}.bias": (128,)}
        shapes |= {f"mask_embed_head.{i}.weight": (128, 128), f"mask_embed_head.{i}.bias": (128,)}
    attention = {"in_proj_weight": (384, 128), "in_proj_bias": (384,), "out_proj.weight": (128, 128)}
    attention["out_proj.bias"] = (128,)
    for i, width in enumerate((256, 256, 128, 96)):
        for layer, inner in (("cross_attention", "multihead_attn"), ("self_attention", "self_attn")):
            shapes |= {f"{layer}.0.{i}.{inner}.{name}": shape for name, shape in attention.items()}
            shapes |= {f"{layer}.0.{i}.norm.weight": (128,), f"{layer}.0.{i}.norm.bias": (128,)}
        ffn = {"linear1.weight": (1024, 128), "linear1.bias": (1024,), "linear2.weight": (128, 1024)}
        ffn |= {"linear2.bias": (128,), "norm.weight": (128,), "norm.bias": (128,)}
        shapes |= {f"ffn_attention.0.{i}.{name}": shape for name, shape in ffn.items()}
        shapes |= {f"lin_squeeze.0.{i}.weight": (128, width), f"lin_squeeze.0.{i}.bias": (128,)}
    return {f"model.{name}": shape for name, shape in shapes.items()} | {"criterion.empty_weight": (2,)}


@pytest.fixture(scope="module")
def released() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(shape, generator=generator) if shape else torch.tensor(3)
        for name, shape in released_shapes().items()
    }


def test_a_released_checkpoint_fills_every_tensor(released):
    converted = from_released(released)
    model = Segmenter(SegmenterConfig())
    model.load_state_dict(converted)  # strict: nothing missing, nothing left, shapes equal
    assert is_released(released) and not is_released(converted)
    assert torch.equal(model.decoder.positions.directions, released["model.pos_enc.gauss_B"])


def test_queries_of_a_checkpoint_may_start_with_features(released):
    shapes = {"0.weight": (128, 96), "0.bias": (128,), "2.weight": (128, 128), "2.bias": (128,)}
    more = {f"model.np_feature_projection.{name}": torch.rand(shape) for name, shape in shapes.items()}
    converted = from_released(released | more)
    assert sizes(converted)["query_features"] is True
    Segmenter(SegmenterConfig(query_features=True)).load_state_dict(converted)


def test_sizes_are_those_of_the_network(released):
    expected = SegmenterConfig()
    found = sizes(from_released(released))
    assert found == {name: getattr(expected, name) for name in found}
    assert {"planes", "depths", "stem", "dim", "num_classes"} <= found.keys()


def minkowski(x: SparseTensor, kernel, outputs, stride: int, transposed=False) -> torch.Tensor:
    """Convolve as MinkowskiEngine does: the first coordinate of an offset is fastest, odd kernels are centred.

    transposed  outputs are fine, x is coarse: a fine voxel takes what its coarse one gives at its offset
    """
    side = round(len(kernel) ** (1 / 3))
    first = -(side // 2) if side % 2 else 0
    offsets = [(a, b, c) for c, b, a in itertools.product(range(first, first + side), repeat=3)]
    at = {tuple(row): f for row, f in zip(x.sites.coords.tolist(), x.features, strict=True)}
    rows = []
    for b, *o in outputs.tolist():
        total = torch.zeros(kernel.shape[2])
        for k, d in enumerate(offsets):
            if transposed:
                place = tuple((o[i] - d[i]) // stride for i in range(3))
                met = at.get((b, *place)) if all((o[i] - d[i]) % stride == 0 for i in range(3)) else None
            else:
                met = at.get((b, *(stride * o[i] + d[i] for i in range(3))))
            if met is not None:
                total = total + met @ kernel[k]
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.backbone.conv0p1s1.kernel", "same"),
        ("model.backbone.block1.0.conv1.kernel", "same"),
        ("model.backbone.conv1p1s2.kernel", "down"),
        ("model.backbone.convtr7p2s2.kernel", "up"),
    ],
)
def test_a_converted_kernel_does_what_minkowski_engine_does(name, kind):
    """Section 10: the permutation of offsets, on random voxels."""
    generator = torch.Generator().manual_seed(1)
    count = {"model.backbone.conv0p1s1.kernel": 125, "model.backbone.block1.0.conv1.kernel": 27}.get(name, 8)
    kernel = torch.randn(count, 3, 4, generator=generator)
    weight = next(iter(from_released({name: kernel}).values()))
    side = round(count ** (1 / 3))
    layers = {"same": lambda: SubmanifoldConv(3, 4, side), "down": lambda: StridedConv(3, 4, 2, 2)}
    layer = layers.get(kind, lambda: InverseConv(3, 4, 2, 2))()
    layer.load_state_dict({"weight": weight})
    coords = torch.unique(torch.randint(0, 7, (150, 4), generator=generator) % torch.tensor([2, 7, 7, 7]), dim=0)
    sites = Sites(coords)
    if kind == "up":
        coarse = sites.strided(2, 2)[0]
        x = SparseTensor(torch.randn(len(coarse), 3, generator=generator), coarse)
        out = layer(x, sites)
    else:
        x = SparseTensor(torch.randn(len(coords), 3, generator=generator), sites)
        out = layer(x)
    expected = minkowski(x, kernel, out.sites.coords, 2 if kind != "same" else 1, transposed=kind == "up")
    torch.testing.assert_close(out.features, expected, rtol=1e-5, atol=1e-5)
    unpermuted = type(layer)(3, 4, side, *([2] if kind != "same" else []))
    unpermuted.load_state_dict({"weight": kernel})
    wrong = unpermuted(x, sites) if kind == "up" else unpermuted(x)
    assert (wrong.features - expected).abs().max() > 0.5


def test_a_shortcut_is_a_linear_layer():
    kernel = torch.randn(3, 4)
    prefix = "model.backbone.block2.0"
    converted = from_released({f"{prefix}.downsample.0.kernel": kernel})
    block = ResidualBlock(3, 4)
    block.shortcut.load_state_dict({"weight": converted["backbone.encoder.1.0.shortcut.weight"]})
    x = torch.randn(5, 3)
    torch.testing.assert_close(block.shortcut(x), x @ kernel)


@pytest.mark.parametrize("name", ["model.query_feat.weight", "backbone.stem.weight", "model.backbone.conv9.kernel"])
def test_an_unknown_tensor_is_refused(name):
    with pytest.raises(WeightsError, match=f"{name} is in no Mask3D"):
        from_released({name: torch.zeros(1)})


def test_a_kernel_that_is_no_cube_is_refused():
    with pytest.raises(WeightsError, match="cubic kernel"):
        from_released({"model.backbone.conv0p1s1.kernel": torch.zeros(9, 3, 32)})


def test_a_missing_tensor_is_named(released):
    converted = from_released(released)
    del converted["decoder.class_head.weight"]
    with pytest.raises(WeightsError, match=r"decoder\.class_head\.weight"):
        sizes(converted)
