# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from pc3dcli.nn.kernel_maps import Sites
from pc3dcli.nn.sparse import SparseTensor
from pc3dcli.nn.sparse_unet import ResidualBlock, SparseUnet, UnetConfig, VoxelNorm

SMALL = UnetConfig(stem=4, planes=(4, 6, 8, 8, 8, 6, 5, 4), depths=(1, 2, 1, 1, 1, 1, 2, 1))


def voxels(num=300, size=24, scenes=2, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randint(0, size, (num, 3), generator=generator)
    return torch.unique(torch.cat((torch.randint(0, scenes, (num, 1), generator=generator), xyz), dim=1), dim=0)


def colors(coords: torch.Tensor) -> torch.Tensor:
    """Features that follow from where a voxel is."""
    return torch.sin(coords[:, 1:].float() @ torch.tensor([[0.3, 1.1, 0.2], [0.7, 0.2, 1.9], [1.3, 0.6, 0.4]]))


def test_parameters_of_res16unet34c():
    """Section 7.1: 37.85 M without the unused last layer."""
    unet = SparseUnet(UnetConfig(), 3)
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6, 2) == 37.85
    assert UnetConfig().out_channels == (256, 256, 128, 96, 96)
    shapes = [tuple(layer.weight.shape) for layer in (unet.stem, *unet.down, *unet.up)]
    assert shapes == [
        (125, 3, 32), (8, 32, 32), (8, 32, 32), (8, 64, 64), (8, 128, 128),
        (8, 256, 256), (8, 256, 128), (8, 128, 96), (8, 96, 96),
    ]  # fmt: skip
    shortcuts = [block[0].shortcut for block in (*unet.encoder, *unet.decoder)]
    widths = [None if layer is None else (layer.in_features, layer.out_features) for layer in shortcuts]
    assert widths == [None, (32, 64), (64, 128), (128, 256), (384, 256), (192, 128), (128, 96), (128, 96)]


def test_outputs_are_the_levels():
    torch.manual_seed(0)
    unet = SparseUnet(SMALL, 3)
    coords = voxels()
    levels = unet(SparseTensor(colors(coords), Sites(coords)))
    assert [level.features.shape[1] for level in levels] == list(SMALL.out_channels)
    for level, out in zip((4, 3, 2, 1, 0), levels, strict=True):
        stride = coords.new_tensor([1, 2**level, 2**level, 2**level])
        expected = torch.unique(torch.div(coords, stride, rounding_mode="floor"), dim=0)
        assert torch.equal(out.sites.coords, expected)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    unet = SparseUnet(SMALL, 3)
    coords = voxels()
    sum(level.features.square().mean() for level in unet(SparseTensor(colors(coords), Sites(coords)))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in unet.parameters())


def test_batch_of_two_equals_two_singles():
    torch.manual_seed(0)
    unet = SparseUnet(SMALL, 3).eval()
    coords = voxels()
    both = unet(SparseTensor(colors(coords), Sites(coords)))[-1].features
    for scene in (0, 1):
        of_scene = coords[:, 0] == scene
        alone = unet(SparseTensor(colors(coords[of_scene]), Sites(coords[of_scene])))[-1].features
        torch.testing.assert_close(alone, both[of_scene], rtol=1e-4, atol=1e-5)


def test_moving_the_scene_by_16_voxels_changes_nothing():
    torch.manual_seed(0)
    unet = SparseUnet(SMALL, 3).eval()
    coords = voxels()
    features = colors(coords)
    moved = coords + torch.tensor([0, 16, -32, 48])
    first, second = (unet(SparseTensor(features, Sites(at)))[-1].features for at in (coords, moved))
    assert torch.equal(first, second)


def test_one_voxel_trains():
    torch.manual_seed(0)
    unet = SparseUnet(SMALL, 3)
    levels = unet(SparseTensor(torch.ones(1, 3), Sites(torch.tensor([[0, 3, 3, 3]]))))
    levels[-1].features.sum().backward()
    assert all(level.features.isfinite().all() and len(level.features) == 1 for level in levels)


def test_one_voxel_leaves_statistics_alone():
    norm = VoxelNorm(2)
    assert ResidualBlock(3, 4).norm1.momentum == 0.1 and ResidualBlock(3, 4).shortcut_norm.momentum == 0.02
    norm(torch.tensor([[1.0, 5.0]]))
    assert norm.running_mean.tolist() == [0, 0]
    norm(torch.tensor([[1.0, 5.0], [3.0, 7.0]]))
    torch.testing.assert_close(norm.running_mean, 0.02 * torch.tensor([2.0, 6.0]))


def test_a_block_of_zero_convolutions_is_its_shortcut():
    block = ResidualBlock(3, 3).eval()
    with torch.no_grad():
        block.conv2.weight.zero_()
    coords = voxels()
    x = SparseTensor(colors(coords), Sites(coords))
    torch.testing.assert_close(block(x).features, x.features.relu())


@pytest.mark.parametrize("change", [{"planes": (1, 2)}, {"depths": (0,) * 8}, {"stem_kernel": 4}, {"stem": 0}])
def test_impossible_shapes_are_refused(change):
    with pytest.raises(ValueError, match="must be|has 8"):
        UnetConfig(**change)
