# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from pc3dcli.nn import point_sampling
from pc3dcli.nn.point_sampling import farthest_points, gather_points, interpolate3, nearest_points


def farthest_by_definition(points: torch.Tensor, num: int, skip: bool) -> list[int]:
    """One cloud (N, 3) in Python, the released kernel with ties to the lowest index."""
    nearest, picked = [1e10] * len(points), [0]
    while len(picked) < num:
        best, best_index = -1.0, 0
        for i, point in enumerate(points):
            if skip and float(point.square().sum()) <= 1e-3:
                continue
            nearest[i] = min(nearest[i], float((point - points[picked[-1]]).square().sum()))
            if nearest[i] > best:
                best, best_index = nearest[i], i
        picked.append(best_index)
    return picked


def test_farthest_points_of_a_line():
    line = torch.tensor([1.0, 2.0, 3.0, 11.0])
    cloud = torch.stack((line, torch.zeros(4), torch.zeros(4)), dim=1)
    assert farthest_points(cloud[None], 4).tolist() == [[0, 3, 2, 1]]


@pytest.mark.parametrize("skip", [True, False])
def test_farthest_points_equal_the_definition(skip):
    clouds = torch.randn(3, 40, 3, generator=torch.Generator().manual_seed(0))
    clouds[0, 3:9] *= 1e-3  # near the origin
    clouds[1, 20:] = clouds[1, :20]  # every point twice
    clouds[2] = (clouds[2] * 2).round()  # many equal distances
    expected = [farthest_by_definition(cloud, 20, skip) for cloud in clouds]
    assert farthest_points(clouds, 20, skip_near_origin=skip).tolist() == expected


def test_farthest_points_near_the_origin_are_skipped_but_for_the_first():
    cloud = torch.tensor([[0.0, 0, 0], [0.02, 0, 0], [0, 0.02, 0], [1, 0, 0]])[None]
    assert farthest_points(cloud, 3).tolist() == [[0, 3, 3]]
    assert farthest_points(cloud, 3, skip_near_origin=False).tolist() == [[0, 3, 1]]
    assert farthest_points(cloud[:, :3], 3).tolist() == [[0, 0, 0]]  # every candidate is skipped


def test_farthest_points_begin_with_those_of_a_smaller_number():
    clouds = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(1))
    clouds += torch.tensor([3.0, 0, 0])  # nothing near the origin
    order = farthest_points(clouds, 200)
    assert torch.equal(farthest_points(clouds, 50), order[:, :50])
    assert torch.equal(order.sort(1).values, torch.arange(200).expand(2, -1))
    ordered = gather_points(clouds, order)
    assert torch.equal(farthest_points(ordered, 60), torch.arange(60).expand(2, -1))


def test_farthest_points_of_a_batch_are_those_of_its_clouds():
    clouds = torch.randn(3, 64, 3, generator=torch.Generator().manual_seed(2))
    together = farthest_points(clouds, 10)
    assert torch.equal(together, torch.cat([farthest_points(cloud[None], 10) for cloud in clouds]))


@pytest.mark.parametrize("chunk", [1 << 20, 100])
def test_nearest_points_equal_the_definition(chunk, monkeypatch):
    monkeypatch.setitem(point_sampling.CHUNK_ELEMENTS, "cpu", chunk)
    clouds = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    clouds[1] = clouds[1].round()  # equal distances
    found = nearest_points(clouds[:, :12], clouds, 7)
    for b in range(2):
        for m in range(12):
            gaps = [(float((clouds[b, m] - point).square().sum()), n) for n, point in enumerate(clouds[b])]
            assert found[b, m].tolist() == [n for _, n in sorted(gaps)[:7]]


def test_the_nearest_point_of_a_centre_is_itself_and_translation_changes_nothing():
    clouds = torch.randn(2, 256, 3, generator=torch.Generator().manual_seed(3))
    clouds = (clouds * 64).round() / 64  # coordinates that a translation keeps exact
    order = farthest_points(clouds, 16, skip_near_origin=False)
    neighbors = nearest_points(gather_points(clouds, order), clouds, 8)
    assert torch.equal(neighbors[:, :, 0], order)
    far = clouds + torch.tensor([256.0, -128.0, 64.0])
    assert torch.equal(nearest_points(gather_points(far, order), far, 8), neighbors)


def test_nearest_points_of_no_query():
    assert nearest_points(torch.zeros(2, 0, 3), torch.zeros(2, 5, 3), 3).shape == (2, 0, 3)


def test_a_cloud_of_fewer_points_than_neighbours_is_refused():
    with pytest.raises(ValueError, match="clouds of 5 points, expected at least the 8"):
        nearest_points(torch.zeros(1, 2, 3), torch.zeros(1, 5, 3), 8)


def test_gather_points_takes_any_shape_of_index():
    values = torch.arange(12.0).view(2, 3, 2)
    index = torch.tensor([[[0, 2], [1, 1]], [[2, 0], [0, 1]]])
    gathered = gather_points(values, index)
    assert gathered.shape == (2, 2, 2, 2)
    assert torch.equal(gathered[1, 0, 0], values[1, 2])
    assert torch.equal(gather_points(values, index[:, 0, 0]), torch.stack((values[0, 0], values[1, 2])))


def test_interpolation_weights():
    query = torch.zeros(1, 1, 3)
    source = torch.tensor([[[1.0, 0, 0], [0, 2, 0], [0, 0, -2], [0, 9, 0]]])
    weights = interpolate3(query, source, torch.eye(4)[None])
    torch.testing.assert_close(weights[0, 0], torch.tensor([2 / 3, 1 / 6, 1 / 6, 0]), rtol=1e-5, atol=1e-7)
    at_source = interpolate3(source, source, torch.eye(4)[None])
    torch.testing.assert_close(at_source[0], torch.eye(4), rtol=0, atol=1e-6)


def test_interpolation_with_fewer_than_three_sources_and_its_gradient():
    features = torch.randn(1, 2, 5, dtype=torch.float32).requires_grad_()
    query, source = torch.randn(1, 9, 3), torch.randn(1, 2, 3)
    interpolate3(query, source, features).sum().backward()
    torch.testing.assert_close(features.grad.sum((0, 1)), torch.full((5,), 9.0))
