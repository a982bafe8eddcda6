# SPDX-License-Identifier: Apache-2.0
import copy
from dataclasses import dataclass, replace

import pytest
import torch

from pc3dcli.papers.geomask3d.gc_head import GcHead
from pc3dcli.papers.geomask3d.gm3d import Gm3d, Gm3dConfig, ema_decay, feature_error
from pc3dcli.papers.geomask3d.point_m2ae import PointM2ae, PointM2aeConfig
from pc3dcli.papers.geomask3d.point_mae import PointMae, PointMaeConfig
from pc3dcli.papers.geomask3d.scoring import StoredScores

MAE = PointMaeConfig(num_points=64, num_patches=8, patch_size=8, dim=32, depth=2, heads=4, decoder_depth=1)
M2AE = PointM2aeConfig(
    num_points=64, scale_patches=(32, 16, 8), patch_sizes=(8, 4, 4), dims=(16, 16, 32), depth=1, heads=4, mask_ratio=0.6
)
UNUSED = {f"base.h_encoder.encoder_norms.0.{name}" for name in ("weight", "bias")}  # a norm that only parts read
BASES = {"point-mae": (PointMae, MAE), "point-m2ae": (PointM2ae, M2AE)}


@dataclass(frozen=True)
class Position:
    epoch: int
    epochs: int
    generator: torch.Generator


@dataclass(frozen=True)
class Batch:
    clouds: torch.Tensor
    plain: torch.Tensor
    index: torch.Tensor


def position(epoch: int = 9, epochs: int = 10, seed: int = 0) -> Position:
    return Position(epoch, epochs, torch.Generator().manual_seed(seed))


def make_batch(B: int = 4, seed: int = 0) -> Batch:
    clouds = torch.randn(B, 64, 3, generator=torch.Generator().manual_seed(seed))
    clouds[..., 2] *= torch.linspace(0.1, 1.0, 64)
    return Batch(clouds, clouds, torch.arange(B))


def make_base(kind: str = "point-mae", seed: int = 0, **changes):
    torch.manual_seed(seed)
    build, config = BASES[kind]
    return build(replace(config, **changes))


def make(kind: str = "point-mae", config: Gm3dConfig = Gm3dConfig(gc_depth=1), *, teacher=True, **changes) -> Gm3d:
    """Build a tiny learner; drop path is off unless asked for."""
    settings = {"drop_path": 0.0} | changes
    frozen = make_base(kind, seed=7, **settings) if teacher else None
    return Gm3d(make_base(kind, **settings), config, frozen)


@pytest.fixture(params=BASES)
def kind(request) -> str:
    return request.param


def test_every_part_of_the_loss_reaches_its_parameters(kind):
    learner = make(kind)
    loss, log = learner.training_loss(make_batch(), position())
    loss.backward()
    grads = {name: p.grad for name, p in learner.student.named_parameters() if name not in UNUSED}
    assert [name for name, grad in grads.items() if grad is None] == []
    before_norm = ("_conv.0.bias", "score.0.bias")  # biases that change nothing
    flat = [name for name, grad in grads.items() if not grad.any() and not name.endswith(before_norm)]
    assert flat == []
    assert set(log) == {
        "loss", "loss_point", "loss_feature", "loss_gc", "pair_accuracy", "score_spearman", "num_selected",
        "chosen_over_others",
    }  # fmt: skip
    assert all(torch.isfinite(value) and not value.requires_grad for value in log.values())
    assert -1 <= log["score_spearman"] <= 1
    assert log["num_selected"] == 2  # half of 4


@pytest.mark.parametrize("teacher", [True, False])
def test_point_loss_trains_head_and_encoder_with_and_without_distillation(kind, teacher):
    learner = make(kind, Gm3dConfig(gc_depth=0, lam_f=0.0, hard_ratio=0.0, lam_switch_epoch=0), teacher=teacher)
    loss, _ = learner.training_loss(make_batch(), position())
    loss.backward()
    base = learner.student.base
    head = base.rec_head if kind == "point-m2ae" else base.increase_dim
    encoder = base.h_encoder if kind == "point-m2ae" else base.encoder
    assert all(any(p.grad.abs().sum() > 0 for p in part.parameters()) for part in (head, encoder))


def test_teachers_get_no_gradient_and_stay_in_evaluation(kind):
    learner = make(kind)
    before = {name: value.clone() for name, value in learner.frozen.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=1e-3)
    for step in range(5):
        learner.train()
        loss, _ = learner.training_loss(make_batch(seed=step), position(seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        learner.after_step(position())
    assert not learner.teacher.training
    assert not any(module.training for module in learner.frozen.modules())
    assert learner.student.base.training
    assert not any(
        p.requires_grad or p.grad is not None for m in (learner.teacher, learner.frozen) for p in m.parameters()
    )
    for name, value in learner.frozen.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_comparison_reaches_the_encoder_unless_detached(kind):
    def encoder_gradient(config: Gm3dConfig) -> float:
        learner = make(kind, config, teacher=False)
        learner.config = replace(config, lam_p=0.0, lam_switch_epoch=0)
        loss, log = learner.training_loss(make_batch(), position())
        assert torch.allclose(loss, log["loss_gc"])
        loss.backward()
        grads = [p.grad for p in learner.student.base.parameters() if p.grad is not None]
        return sum(g.abs().sum().item() for g in grads)

    assert encoder_gradient(Gm3dConfig(gc_depth=1)) > 0
    assert encoder_gradient(Gm3dConfig(gc_depth=1, detach_gc=True)) == 0


def test_other_masks_train_the_base_model_as_it_is(kind):
    """With random masks the base model gets the gradient of its own loss; the head learns beside it."""
    learner = make(kind, Gm3dConfig(mask="random", gc_depth=1), teacher=False)
    plain = copy.deepcopy(learner.student.base)
    batch = make_batch()
    loss, log = learner.training_loss(batch, position(20, 400))  # after the switch of the weights
    loss.backward()
    from pc3dcli.papers.geomask3d.masking import random_hidden

    hidden = random_hidden(4, 8, learner.num_hidden, position().generator)
    expected = plain(batch.clouds, hidden)
    expected.backward()
    assert torch.allclose(log["loss_point"], expected)
    for (name, p), q in zip(learner.student.base.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-8, msg=name)
    assert learner.student.gc_head.mask_token.grad.abs().sum() > 0
    assert learner.teacher is None


@pytest.mark.parametrize("mask", ["random", "block", "radius", "geometric"])
def test_every_mask_steps(kind, mask):
    learner = make(kind, Gm3dConfig(mask=mask, gc_depth=1), teacher=False)
    loss, log = learner.training_loss(make_batch(), position())
    assert torch.isfinite(loss)
    assert ("score_spearman" in log) == (mask in ("radius", "geometric"))
    assert "loss_feature" not in log


def test_the_teacher_is_not_asked_before_the_first_patch_is_selected():
    learner = make()
    learner.teacher = None
    _, log = learner.training_loss(make_batch(), position(epoch=0, epochs=400))
    assert "num_selected" not in log


def test_selected_patches_are_those_that_the_teacher_scores_highest():
    learner = make(config=Gm3dConfig(gc_depth=1, hard_ratio=1.0))
    groups = learner.student.base.group(make_batch().clouds)
    at = position()
    scores = learner._selection_scores(make_batch(), groups, at)
    hidden = learner._hidden(groups, scores, learner.num_hidden, at.generator)
    worst_hidden = scores.masked_fill(~hidden, torch.inf).amin(1)
    assert (worst_hidden >= scores.masked_fill(hidden, -torch.inf).amax(1)).all()


def test_ema_decay_table():
    config = Gm3dConfig()
    assert [ema_decay(epoch, 400, config) for epoch in (0, 50, 100, 399)] == pytest.approx(
        [0.999, 0.99945, 0.9999, 0.9999], abs=1e-9
    )
    assert ema_decay(10, 40, config) == pytest.approx(0.9999)  # a quarter of the run


def test_ema_moves_every_floating_tensor_of_the_teacher_by_hand(kind):
    learner = make(kind, Gm3dConfig(gc_depth=1, ema_start=0.75, ema_end=0.75))
    old = {name: value.clone() for name, value in learner.teacher.state_dict().items()}
    with torch.no_grad():
        for value in learner.student.state_dict().values():
            value.add_(2)
    learner.after_step(position())
    for name, value in learner.teacher.state_dict().items():
        expected = old[name] + (0.5 if value.is_floating_point() else 2)
        torch.testing.assert_close(value, expected, msg=name)


def test_feature_error_values():
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert feature_error(features, features).tolist() == [0.0] * 5
    assert feature_error(features, -features).tolist() == pytest.approx([4.0] * 5)
    other = features.roll(1, 0)
    torch.testing.assert_close(feature_error(3 * features, other), feature_error(features, 0.1 * other))
    cosine = torch.cosine_similarity(features, other)
    torch.testing.assert_close(feature_error(features, other), 2 - 2 * cosine)
    assert torch.isfinite(feature_error(torch.zeros(1, 8), features[:1])).all()


def test_weights_switch_at_their_epoch():
    learner = make(config=Gm3dConfig(gc_depth=1, hard_ratio=0.0, lam_p=100.0, lam_f=10.0))
    learner.eval()
    for epoch, lam_p, lam_f in ((14, 1, 1), (15, 100, 10)):
        loss, log = learner.training_loss(make_batch(), position(epoch, 400))
        expected = lam_p * log["loss_point"] + lam_f * log["loss_feature"] + log["loss_gc"]
        torch.testing.assert_close(loss.detach(), expected)


def test_targets():
    """Each target by hand from the errors of the decoded tokens."""
    learner = make()
    batch, at = make_batch(), position(0, 400)
    base = learner.student.base
    groups = base.group(batch.clouds)
    hidden = learner._hidden(groups, None, 0, at.generator)
    encoded = base.encode(groups, hidden)
    decoded = base.decode(groups, hidden, encoded)
    point, feature = learner._point_error(groups, hidden, encoded, decoded), learner._feature_error(groups, decoded)
    radius = decoded.targets.square().sum(-1).mean(-1)

    def target(**changes) -> torch.Tensor:
        learner.config = replace(Gm3dConfig(gc_depth=1), **changes)
        return learner._target(decoded, point, feature)

    torch.testing.assert_close(target(), 1000 * point.detach() + 13.889 * feature.detach())
    torch.testing.assert_close(target(gc_target="chamfer"), 1000 * point.detach())
    torch.testing.assert_close(target(gc_target="feature"), 13.889 * feature.detach())
    normed = target(gc_target="chamfer", gc_norm="patch_radius", gc_weight_p=1.0)
    torch.testing.assert_close(normed, (point / radius * radius.mean()).detach())
    assert not target().requires_grad


def test_parity_with_the_released_code():
    """The point loss has no gradient and its head none either; pairs saturate; 39 of 64 would be hidden."""
    learner = make(config=Gm3dConfig.official(gc_depth=1))
    assert learner.num_hidden == 5  # 8 - int(8 * 0.4), where Point-MAE hides 4
    loss, log = learner.training_loss(make_batch(), position())
    loss.backward()
    head = learner.student.base.increase_dim
    assert all(p.grad is None or not p.grad.any() for p in head.parameters())
    assert log["loss_point"] > 0
    config = Gm3dConfig.official()
    assert (config.gc_view, config.gc_depth, config.hard_ratio, config.gc_weight_f) == ("full", 12, 0.8, 1.0)


def test_mask_rounding_of_the_full_model():
    base = make_base(num_points=256, num_patches=64)
    assert Gm3d(base, Gm3dConfig(mask="random", gc_depth=0)).num_hidden == 38
    assert Gm3d(base, Gm3dConfig(mask="random", gc_depth=0, mask_rounding="gm3d")).num_hidden == 39


def test_teachers_hide_as_many_patches_as_the_student(monkeypatch):
    hidden = []
    forward = GcHead.forward
    monkeypatch.setattr(GcHead, "forward", lambda self, *given: (hidden.append(given[2]), forward(self, *given))[1])
    learner = make(config=Gm3dConfig(gc_depth=1, mask_rounding="gm3d"))
    learner.training_loss(make_batch(), position())
    assert len(hidden) == 3  # two folds, and the student
    assert all((mask.sum(1) == 5).all() for mask in hidden)


def test_stored_scores_take_the_place_of_the_teacher():
    batch = make_batch()
    base = make_base(drop_path=0.0)
    centers = base.group(batch.clouds).centers
    scores = torch.rand(4, 8, generator=torch.Generator().manual_seed(3))
    learner = Gm3d(base, Gm3dConfig(gc_depth=1, hard_ratio=1.0), stored=StoredScores(centers[[2, 3, 0, 1]], scores))
    assert learner.teacher is None
    swapped = Batch(batch.clouds, batch.plain, torch.tensor([2, 3, 0, 1]))
    groups = base.group(batch.clouds)
    found = learner._selection_scores(swapped, groups, position())
    torch.testing.assert_close(found, scores[[2, 3, 0, 1]], rtol=1e-4, atol=1e-4)
    loss, log = learner.training_loss(swapped, position())
    assert torch.isfinite(loss)
    assert log["num_selected"] == learner.num_hidden


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Gm3dConfig(gc_depth=0), "need a complexity head"),
        (Gm3dConfig(gc_target="feature"), "needs a frozen teacher"),
        (Gm3dConfig.official(gc_depth=1), "needs a frozen teacher"),
    ],
)
def test_options_that_do_not_fit_are_refused(config, words):
    with pytest.raises(ValueError, match=words):
        Gm3d(make_base(), config)
    with pytest.raises(ValueError, match="hides 0 of 8"):
        Gm3d(make_base(mask_ratio=0.1), Gm3dConfig(gc_depth=1))


def test_exported_tensors_come_back(kind):
    learner, other = make(kind), make(kind)
    with torch.no_grad():
        for p in learner.student.parameters():
            p.add_(0.1)
    tensors = learner.exported()
    assert not any(name.startswith(("teacher", "frozen", "student")) for name in tensors)
    base_names = set(learner.student.base.state_dict())
    assert {name for name in tensors if not name.startswith("gc_head.")} == base_names
    other.load_exported(tensors)
    for module in (other.student, other.teacher):
        for name, value in module.state_dict().items():
            assert torch.equal(value, learner.student.state_dict()[name]), name
    other.load_exported({name: tensors[name] for name in base_names})  # a base model alone
    with pytest.raises(RuntimeError):
        other.load_exported({name: tensors[name] for name in sorted(base_names)[1:]})


def test_same_seed_gives_the_same_bits(kind):
    def losses() -> list[float]:
        learner = make(kind, drop_path=0.1)
        optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=1e-3)
        found = []
        for step in range(3):
            torch.manual_seed(step)  # drop path draws from the default generator, which the training loop seeds
            loss, _ = learner.training_loss(make_batch(), position(seed=step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            learner.after_step(position())
            found.append(loss.item())
        return found

    assert losses() == losses()


def test_state_survives_a_round_trip(kind):
    learner, other = make(kind), make(kind)
    learner.after_step(position())
    with torch.no_grad():
        for p in learner.teacher.parameters():
            p.mul_(1.5)
    other.load_state_dict(learner.state_dict())
    for (name, value), again in zip(learner.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, again), name


def test_a_step_in_bfloat16_is_finite(kind):
    learner = make(kind)
    with torch.autocast("cpu", torch.bfloat16):
        loss, log = learner.training_loss(make_batch(), position())
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(value) for value in log.values())
    assert all(torch.isfinite(p.grad).all() for p in learner.student.parameters() if p.grad is not None)


def test_overfits_a_batch_of_eight():
    """Within 300 steps on a fixed mask the Chamfer distance falls to a third, and the head ranks the patches."""
    learner = make(config=Gm3dConfig(gc_depth=1, lam_switch_epoch=0, lam_p=100.0, lam_f=10.0))
    batch = make_batch(8)
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=3e-3)
    first = None
    for _ in range(300):
        loss, log = learner.training_loss(batch, position(epoch=0, epochs=400))  # the generator always starts anew
        first = first or log
        is_near = log["loss_point"] < first["loss_point"] / 3 and log["loss_feature"] < first["loss_feature"] / 2
        if is_near and log["pair_accuracy"] > 0.7:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    else:
        pytest.fail(f"{first} became {log}")
