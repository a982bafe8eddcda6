# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest
import torch
from torch.nn import functional as F

from pc3dcli.errors import WeightsError
from pc3dcli.papers.geomask3d.point_m2ae import PointM2ae, PointM2aeConfig
from pc3dcli.papers.geomask3d.point_m2ae_heads import PartHead, PointM2aeClassifier, PointM2aeParts

TINY = PointM2aeConfig(
    num_points=96, scale_patches=(32, 16, 8), patch_sizes=(8, 4, 4), dims=(12, 24, 48), depth=1, heads=3
)


@pytest.fixture
def clouds():
    return torch.rand(3, 96, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def pretrained():
    torch.manual_seed(5)
    return PointM2ae(TINY).state_dict()


def heads():
    torch.manual_seed(0)
    variants = [PointM2aeClassifier(TINY, 5, variant) for variant in ("modelnet", "scanobjectnn")]
    return [*variants, PointM2aeParts(TINY, num_parts=7, num_categories=4)]


@pytest.mark.parametrize("variant", ["modelnet", "scanobjectnn"])
def test_classes_get_logits_and_every_parameter_a_gradient(clouds, variant):
    model = PointM2aeClassifier(TINY, 5, variant)
    logits = model(clouds)
    assert logits.shape == (3, 5)
    F.cross_entropy(logits, torch.tensor([0, 3, 4])).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_parts_get_logits_and_every_parameter_a_gradient(clouds):
    model = PointM2aeParts(TINY, num_parts=7, num_categories=4)
    logits = model(clouds, torch.tensor([0, 3, 1]))
    assert logits.shape == (3, 96, 7)
    F.cross_entropy(logits.flatten(0, 1), torch.arange(3 * 96) % 7).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert any(p.grad.any() for p in model.h_encoder.parameters())


def test_parts_of_the_released_size(clouds):
    model = PointM2aeParts(PointM2aeConfig(num_points=1024)).eval()
    assert sum(p.numel() for p in model.parameters()) == 25_474_354
    with torch.no_grad():
        many = torch.rand(1, 1024, 3, generator=torch.Generator().manual_seed(0))
        assert model(many, torch.tensor([15])).shape == (1, 1024, 50)


def test_categories_matter(clouds):
    model = heads()[2].eval()
    assert not torch.allclose(model(clouds, torch.tensor([0, 0, 0])), model(clouds, torch.tensor([1, 1, 1])))


def test_a_batch_is_its_clouds(clouds):
    for model in heads():
        more = (torch.tensor([0, 3, 1]),) if isinstance(model, PointM2aeParts) else ()
        model.eval()
        together = model(clouds, *more)
        for b in range(3):
            alone = model(clouds[b : b + 1], *(index[b : b + 1] for index in more))
            torch.testing.assert_close(together[b], alone[0], rtol=1e-4, atol=1e-5)


def test_order_of_points_changes_nothing_but_their_order(clouds):
    order = 1 + torch.randperm(95, generator=torch.Generator().manual_seed(2))
    order = torch.cat((torch.zeros(1, dtype=torch.int64), order))  # sampling starts at index 0
    for model in heads()[:2]:
        model.eval()
        torch.testing.assert_close(model(clouds[:, order]), model(clouds), rtol=1e-4, atol=1e-5)
    parts, category = heads()[2].eval(), torch.tensor([0, 1, 2])
    torch.testing.assert_close(
        parts(clouds[:, order], category), parts(clouds, category)[:, order], rtol=1e-4, atol=1e-5
    )


def test_attention_is_local(clouds):
    near = dataclasses.replace(TINY, radii=(1e-3, 1e-3, 1e-3))
    model, wide = PointM2aeClassifier(near, 5).eval(), heads()[0].eval()
    wide.load_state_dict(model.state_dict())
    assert not torch.allclose(model(clouds), wide(clouds))


def test_variants_group_and_pool_differently(clouds):
    modelnet, scanobjectnn, _ = heads()
    assert (modelnet.patch_sizes, scanobjectnn.patch_sizes) == ((8, 4, 4), (16, 8, 8))
    assert (modelnet.cls_head_finetune[0].in_features, scanobjectnn.cls_head_finetune[0].in_features) == (48, 96)
    assert modelnet.config == scanobjectnn.config == TINY
    with pytest.raises(ValueError, match="expected modelnet or scanobjectnn"):
        PointM2aeClassifier(TINY, 5, "shapenet")


def test_the_head_of_parts_is_that_of_concatenated_features():
    torch.manual_seed(0)
    head = PartHead(6, 4, 3).eval()
    local, whole = torch.randn(2, 5, 6), torch.randn(2, 4)
    x = torch.cat((whole.unsqueeze(1).expand(-1, 5, -1), local), 2).flatten(0, 1)
    for linear, norm in [(head.convs1, head.bns1), (head.convs2, head.bns2), (head.convs3, head.bns3)]:
        x = F.relu(norm(linear(x)))
    torch.testing.assert_close(head(local, whole), head.convs4(x).view(2, 5, 3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("which", [0, 2])
def test_pretrained_encoders_load(pretrained, which):
    model = heads()[which]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_pretrained(pretrained)
    for name, value in model.state_dict().items():
        assert torch.equal(value, pretrained.get(name, before[name])), name
    assert any(name.startswith("h_encoder.encoder_norms") for name in before) == (which == 2)


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("h_encoder.encoder_blocks.1.blocks.0.norm1.bias"), "lacks h_encoder.encoder_blocks.1"),
        (lambda t: t.update({"h_encoder.more": torch.zeros(1)}), "has unknown h_encoder.more"),
        (lambda t: t.update({"h_encoder.encoder_pos_embeds.0.0.bias": torch.zeros(3)}), r"\(3,\) instead of \(12,\)"),
        (lambda t: t.update({"h_encoder.encoder_pos_embeds.0.0.bias": torch.full((12,), torch.nan)}), "not finite"),
        (lambda t: t.clear(), "lacks h_encoder"),
    ],
)
def test_anything_else_is_refused_by_name(pretrained, which, change, message):
    tensors = dict(pretrained)
    change(tensors)
    with pytest.raises(WeightsError, match=message):
        heads()[which].load_pretrained(tensors)


@pytest.mark.parametrize("which", [0, 2])
def test_heads_are_no_pretraining_models(which):
    with pytest.raises(WeightsError, match="found .* expected weights of a pretrained Point-M2AE without a head"):
        heads()[which].load_pretrained(heads()[which].state_dict())
