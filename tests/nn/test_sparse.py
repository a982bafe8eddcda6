# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest
import torch
from torch.nn import functional as F

from pc3dcli.nn import sparse
from pc3dcli.nn.kernel_maps import Sites
from pc3dcli.nn.sparse import InverseConv, SparseTensor, StridedConv, SubmanifoldConv, convolve

STRIDED = [(2, 2, 0), (3, 2, 1), (3, 3, 0), (4, 2, 1), (5, 2, 2), (3, 1, 1)]


def some_voxels(num=120, size=7, scenes=2, seed=0, low=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randint(low, low + size, (num, 3), generator=generator)
    scene = torch.randint(0, scenes, (num, 1), generator=generator)
    return torch.unique(torch.cat((scene, xyz), dim=1), dim=0)


def some_tensor(coords: torch.Tensor, channels: int, dtype=torch.float32, seed=1) -> SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    return SparseTensor(torch.randn(len(coords), channels, generator=generator, dtype=dtype), Sites(coords))


def by_definition(x: SparseTensor, weight, outputs, stride: int, padding: int) -> torch.Tensor:
    """Sum over offsets of input[o stride - padding + offset] @ weight[offset], voxel by voxel."""
    side = round(len(weight) ** (1 / 3))
    at = {tuple(row): features for row, features in zip(x.sites.coords.tolist(), x.features, strict=True)}
    rows = []
    for b, *o in outputs.tolist():
        total = x.features.new_zeros(weight.shape[2])
        for k, offset in enumerate(itertools.product(range(side), repeat=3)):
            met = at.get((b, *(o[axis] * stride - padding + offset[axis] for axis in range(3))))
            if met is not None:
                total = total + met @ weight[k]
        rows.append(total)
    return torch.stack(rows)


def dense(x: SparseTensor, size: int, scenes: int) -> torch.Tensor:
    grid = x.features.new_zeros(scenes, x.features.shape[1], size, size, size)
    b, i, j, k = x.sites.coords.unbind(1)
    grid[b, :, i, j, k] = x.features
    return grid


def dense_weight(weight: torch.Tensor) -> torch.Tensor:
    side = round(len(weight) ** (1 / 3))
    return weight.permute(2, 1, 0).reshape(weight.shape[2], weight.shape[1], side, side, side)


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize("low", [0, -5, 10**6])
def test_submanifold_equals_the_definition(kernel_size, low):
    x = some_tensor(some_voxels(low=low), 3)
    layer = SubmanifoldConv(3, 4, kernel_size)
    out = layer(x)
    assert out.sites is x.sites
    expected = by_definition(x, layer.weight, x.sites.coords, 1, kernel_size // 2)
    torch.testing.assert_close(out.features, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_submanifold_equals_a_dense_convolution(kernel_size):
    x = some_tensor(some_voxels(num=300), 3)
    layer = SubmanifoldConv(3, 4, kernel_size)
    grid = F.conv3d(dense(x, 7, 2), dense_weight(layer.weight), padding=kernel_size // 2)
    b, i, j, k = x.sites.coords.unbind(1)
    torch.testing.assert_close(layer(x).features, grid[b, :, i, j, k], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel_size", "stride", "padding"), STRIDED)
@pytest.mark.parametrize("low", [0, -5])
def test_strided_equals_the_definition(kernel_size, stride, padding, low):
    x = some_tensor(some_voxels(low=low), 3)
    layer = StridedConv(3, 4, kernel_size, stride, padding)
    out = layer(x)
    expected = by_definition(x, layer.weight, out.sites.coords, stride, padding)
    torch.testing.assert_close(out.features, expected, rtol=1e-5, atol=1e-5)
    reached = set()
    for b, *c in x.sites.coords.tolist():
        for offset in itertools.product(range(kernel_size), repeat=3):
            moved = [c[axis] + padding - offset[axis] for axis in range(3)]
            if all(value % stride == 0 for value in moved):
                reached.add((b, *(value // stride for value in moved)))
    assert out.sites.coords.tolist() == sorted(map(list, reached))


@pytest.mark.parametrize(("kernel_size", "stride", "padding"), STRIDED[:5])
def test_strided_equals_a_dense_convolution_of_a_full_grid(kernel_size, stride, padding):
    size = 12
    coords = torch.tensor([[0, *xyz] for xyz in itertools.product(range(size), repeat=3)])
    x = some_tensor(coords, 3)
    layer = StridedConv(3, 4, kernel_size, stride, padding)
    grid = F.conv3d(dense(x, size, 1), dense_weight(layer.weight), stride=stride, padding=padding)
    out = layer(x)
    inside = (out.sites.coords[:, 1:] >= 0).all(1) & (out.sites.coords[:, 1:] < grid.shape[-1]).all(1)
    b, i, j, k = out.sites.coords[inside].unbind(1)
    assert int(inside.sum()) == grid.shape[-1] ** 3
    torch.testing.assert_close(out.features[inside], grid[b, :, i, j, k], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel_size", "stride", "padding"), STRIDED[:5])
def test_inverse_is_the_transposed_operator_of_strided(kernel_size, stride, padding):
    x = some_tensor(some_voxels(), 3, torch.float64)
    down = StridedConv(3, 4, kernel_size, stride, padding).double()
    up = InverseConv(4, 3, kernel_size, stride, padding).double()
    with torch.no_grad():
        up.weight.copy_(down.weight.transpose(1, 2))
        coarse = down(x)
        y = coarse.replace(torch.randn(coarse.features.shape, dtype=torch.float64))
        back = up(y, x.sites)
        assert back.sites is x.sites
        assert float((coarse.features * y.features).sum()) == pytest.approx(float((x.features * back.features).sum()))


def test_inverse_equals_a_dense_transposed_convolution():
    size = 8
    coords = torch.tensor([[0, *xyz] for xyz in itertools.product(range(size), repeat=3)])
    x = some_tensor(coords, 3)
    coarse = StridedConv(3, 5, 2, 2)(x)
    up = InverseConv(5, 4, 2, 2)
    weight = up.weight.permute(1, 2, 0).reshape(5, 4, 2, 2, 2)
    grid = F.conv_transpose3d(dense(coarse, size // 2, 1), weight, stride=2)
    b, i, j, k = coords.unbind(1)
    torch.testing.assert_close(up(coarse, x.sites).features, grid[b, :, i, j, k], rtol=1e-5, atol=1e-5)


def test_inverse_refuses_voxels_of_another_cloud():
    x, other = some_tensor(some_voxels(seed=0), 3), some_tensor(some_voxels(seed=1), 3)
    coarse = StridedConv(3, 3, 2, 2)(x)
    with pytest.raises(AssertionError, match="fine ones"):
        InverseConv(3, 3, 2, 2)(coarse, other.sites)


@pytest.mark.parametrize("kind", ["submanifold", "strided", "overlapping", "inverse"])
def test_gradients_equal_finite_differences(kind, monkeypatch):
    monkeypatch.setattr(sparse, "BLOCK_BYTES", 64 * 4 * 3)  # several blocks
    sites = Sites(some_voxels(num=90, size=6))
    kernel_map = {
        "submanifold": lambda: sites.submanifold(3),
        "strided": lambda: sites.strided(2, 2)[1],
        "overlapping": lambda: sites.strided(3, 2, 1)[1],
        "inverse": lambda: sites.strided(2, 2)[1].transposed,
    }[kind]()
    features = torch.randn(kernel_map.num_inputs, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(kernel_map.pairs), 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, w: convolve(f, w, kernel_map), (features, weight))


def test_gradients_that_are_not_wanted_are_not_made():
    sites = Sites(some_voxels())
    features = torch.randn(len(sites), 2)
    weight = torch.randn(27, 2, 3, requires_grad=True)
    convolve(features, weight, sites.submanifold(3)).sum().backward()
    assert features.grad is None and weight.grad is not None
    weight = weight.detach()
    convolve(features.requires_grad_(), weight, sites.submanifold(3)).sum().backward()
    assert features.grad is not None and weight.grad is None


@pytest.mark.parametrize("num_bytes", [1, 5000, 1 << 30])
def test_size_of_a_block_changes_nothing(num_bytes, monkeypatch):
    x = some_tensor(some_voxels(num=2000, size=14), 16)
    layer = SubmanifoldConv(16, 8, 3)
    expected = by_definition(x, layer.weight, x.sites.coords, 1, 1)
    monkeypatch.setattr(sparse, "BLOCK_BYTES", num_bytes)
    torch.testing.assert_close(layer(x).features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: SubmanifoldConv(3, 4, 3), lambda: StridedConv(3, 4, 3, 2, 1)])
def test_number_of_threads_changes_nothing(make):
    coords = some_voxels(num=900, size=9)
    x, layer, found, before = some_tensor(coords, 3), make(), [], torch.get_num_threads()
    for num in (1, 3):
        torch.set_num_threads(num)
        try:
            features = x.features.clone().requires_grad_()
            out = layer(x.replace(features)).features
            assert len(out) > 64 * num  # several parts
            found.append((out, *torch.autograd.grad(out.square().sum(), (features, layer.weight))))
        finally:
            torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_batch_of_two_equals_two_singles():
    coords = some_voxels()
    x = some_tensor(coords, 3)
    both = SubmanifoldConv(3, 4, 3), StridedConv(4, 5, 2, 2)
    whole = both[1](both[0](x))
    for scene in (0, 1):
        is_in = coords[:, 0] == scene
        single = SparseTensor(x.features[is_in], Sites(coords[is_in]))
        found = both[1](both[0](single))
        of_scene = whole.sites.coords[:, 0] == scene
        assert torch.equal(found.sites.coords, whole.sites.coords[of_scene])
        torch.testing.assert_close(found.features, whole.features[of_scene])


def test_moving_all_voxels_by_the_stride_changes_nothing():
    coords = some_voxels()
    x = some_tensor(coords, 3)
    layers = SubmanifoldConv(3, 4, 5), StridedConv(4, 5, 2, 2)
    moved = SparseTensor(x.features, Sites(coords + torch.tensor([0, 2, -4, 6])))
    assert torch.equal(layers[1](layers[0](x)).features, layers[1](layers[0](moved)).features)


def test_one_voxel():
    x = some_tensor(torch.tensor([[0, 5, 5, 5]]), 3)
    layer = SubmanifoldConv(3, 4, 3)
    torch.testing.assert_close(layer(x).features, x.features @ layer.weight[13])
    coarse = StridedConv(3, 4, 2, 2)(x)
    assert coarse.sites.coords.tolist() == [[0, 2, 2, 2]]


def test_maps_are_built_once_and_shared():
    sites = Sites(some_voxels())
    assert sites.submanifold(3) is sites.submanifold(3)
    assert sites.strided(2, 2) is sites.strided(2, 2)
    assert sites.strided(2, 2)[1].transposed is sites.strided(2, 2)[1].transposed


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_pairs_ascend_and_hold_no_voxel_twice(kernel_size):
    for inputs, outputs in Sites(some_voxels()).submanifold(kernel_size).pairs:
        assert (inputs.diff() > 0).all() and (outputs.diff() > 0).all()
    for inputs, outputs in Sites(some_voxels()).strided(kernel_size, 2, 1)[1].pairs:
        assert (inputs.diff() > 0).all() and (outputs.diff() > 0).all()


@pytest.mark.parametrize(
    "coords", [[[0, 0, 0, 1], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]], [[1, 0, 0, 0], [0, 0, 0, 0]]]
)
def test_voxels_out_of_order_are_refused(coords):
    with pytest.raises(ValueError, match="order"):
        Sites(torch.tensor(coords))


def test_voxels_too_far_apart_are_refused_and_far_ones_are_not():
    far = 10**8
    with pytest.raises(ValueError, match="too many to number"):
        Sites(torch.tensor([[0, 0, 0, 0], [0, far, far, far]]))
    sites = Sites(torch.tensor([[0, far, far, far], [0, far, far, far + 1]]))
    assert [len(inputs) for inputs, _ in sites.submanifold(3).pairs][12:15] == [1, 2, 1]


def test_half_precision_sums_in_single():
    x = some_tensor(some_voxels(num=1500, size=14), 16)
    layer = SubmanifoldConv(16, 16, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x).features.detach()
    assert found.dtype == torch.bfloat16
    rounded = SparseTensor(x.features.bfloat16().float(), x.sites)
    expected = convolve(rounded.features, layer.weight.detach().bfloat16().float(), x.sites.submanifold(5))
    assert float((found.float() - expected).abs().max()) < 0.01 * float(expected.abs().max())


@pytest.mark.parametrize("kind", ["first", "submanifold", "strided", "overlapping", "inverse"])
def test_spconv_gives_the_same(kind):
    pytest.importorskip("spconv.pytorch", reason="pip install 'pc3d[sparse]'")
    layer = {
        "first": SubmanifoldConv(3, 16, 5),
        "submanifold": SubmanifoldConv(16, 24, 3),
        "strided": StridedConv(16, 24, 2, 2),
        "overlapping": StridedConv(16, 24, 3, 2, 1),
        "inverse": InverseConv(16, 24, 2, 2),
    }[kind]
    fine = some_tensor(some_voxels(num=30000, size=60), layer.weight.shape[1])
    x = fine
    if kind == "inverse":
        coarse = fine.sites.strided(2, 2)[0]
        x = SparseTensor(torch.randn(len(coarse), 16), coarse)
    results = []
    for backend in ("torch", "spconv"):
        features = x.features.clone().requires_grad_()
        tensor = SparseTensor(features, x.sites, backend)
        out = layer(tensor, fine.sites) if kind == "inverse" else layer(tensor)
        weights = torch.sin(torch.arange(out.features.numel(), dtype=torch.float32)).view_as(out.features)
        gradients = torch.autograd.grad((out.features * weights).sum(), (features, layer.weight))
        results.append((out.features.detach(), *gradients))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4 * float(ours.abs().max()))
