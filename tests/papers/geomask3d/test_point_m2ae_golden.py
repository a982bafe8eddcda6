# SPDX-License-Identifier: Apache-2.0
"""Point-M2AE against values of the released modules (GeoMask3D specification, section 6.1), to 1e-4."""

import pytest
import torch

from pc3dcli.papers.geomask3d.hierarchy import visible_tokens
from pc3dcli.papers.geomask3d.point_m2ae import PointM2ae, PointM2aeConfig
from pc3dcli.papers.geomask3d.point_m2ae_heads import PointM2aeClassifier
from pc3dcli.papers.geomask3d.point_m2ae_released import from_released, to_released

PATCH = torch.arange(64)
SHOWN = ((7 * PATCH + 55) % 64 < 51).expand(2, 64)  # token 0 is visible, so that the released leak changes nothing
LEAKS = (7 * PATCH % 64 < 51).expand(2, 64)


@pytest.fixture(scope="module")
def build(golden_fill):
    def build_filled(model, kind):
        model.load_state_dict(from_released(golden_fill(to_released(model.state_dict())), kind))
        return model.eval()

    return build_filled


@pytest.fixture(scope="module")
def model(build):
    return build(PointM2ae(), "pretrain")


@pytest.fixture(scope="module")
def released(model):
    twin = PointM2ae(PointM2aeConfig(released_masks=True)).eval()
    twin.load_state_dict(model.state_dict())
    return twin


def near(values):
    return pytest.approx(values, rel=1e-4)


def num_parameters(model):
    return sum(p.numel() for p in model.parameters())


def counts(visible):
    return [tuple(scale.sum(1).tolist()) for scale in visible]


@torch.no_grad()
def test_pretraining(model, golden_clouds):
    assert (num_parameters(model), num_parameters(model.h_encoder)) == (15_255_856, 12_654_976)
    clouds = golden_clouds(2048)
    groups = model.group(clouds)
    assert counts(visible_tokens(groups, SHOWN)) == [(327, 284), (93, 78), (13, 13)]
    assert counts(visible_tokens(groups, LEAKS)) == [(327, 320), (92, 94), (13, 13)]
    assert float(model(clouds, SHOWN)) == near(1.775504)


@torch.no_grad()
def test_masks_as_released(released, golden_clouds):
    clouds = golden_clouds(2048)
    leaking = visible_tokens(released.group(clouds), LEAKS, as_released=True)
    assert counts(leaking) == [(333, 320), (93, 94), (13, 13)]
    assert float(released(clouds, SHOWN)) == near(1.753396)
    feature = released.pooled_features(clouds)
    assert feature[0, :4].tolist() == near([1.356825, -0.420507, 1.519229, -1.233153])
    assert float(feature.abs().mean()) == near(1.583612)


@torch.no_grad()
def test_features_of_probes_do_not_attend_to_padding(model, golden_clouds):
    """Ours: the released value above holds attention to padding, since fine tokens that no patch is made of are left
    out even when nothing is hidden."""
    clouds = golden_clouds(2048)
    together = model.pooled_features(clouds)
    torch.testing.assert_close(together[:1], model.pooled_features(clouds[:1]), rtol=1e-4, atol=1e-4)
    assert together[0, :4].tolist() == near([1.351345, -0.415184, 1.515604, -1.228008])


@torch.no_grad()
@pytest.mark.parametrize(
    ("variant", "num_classes", "num_points", "size", "logits"),
    [
        ("modelnet", 40, 1024, 12_830_056, [0.058161, -0.558433, 0.571941, 0.325969]),
        ("scanobjectnn", 15, 2048, 12_921_935, [0.035032, -1.520030, 0.863699, 0.649590]),
    ],
)
def test_classification(build, golden_clouds, variant, num_classes, num_points, size, logits):
    model = build(PointM2aeClassifier(PointM2aeConfig(), num_classes, variant), "classify")
    assert num_parameters(model) == size and len(model.state_dict()) == 249
    assert model(golden_clouds(num_points))[0, :4].tolist() == near(logits)
