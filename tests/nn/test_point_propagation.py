# SPDX-License-Identifier: Apache-2.0
import torch

from pc3dcli.nn.point_propagation import PointPropagation
from pc3dcli.nn.point_sampling import interpolate3


def test_equals_interpolation_first():
    torch.manual_seed(0)
    model = PointPropagation(6, 12, 5)
    clouds, centers, tokens = torch.randn(2, 30, 3), torch.randn(2, 8, 3), torch.randn(2, 8, 6)
    mixed = torch.cat((clouds, interpolate3(clouds, centers, tokens)), dim=2).flatten(0, 1)
    for linear, norm in zip(model.mlp_convs, model.mlp_bns, strict=True):
        mixed = norm(linear(mixed)).relu()
    torch.testing.assert_close(model(clouds, centers, tokens), mixed.view(2, 30, 5), rtol=1e-4, atol=1e-5)
