# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from tiny import TinyData, TinyLearner, tiny_run

from pc3dcli.errors import FormatError, InputError, UsageError, WeightsError
from pc3dcli.nn.model_files import read_model
from pc3dcli.nn.schedules import parameter_groups
from pc3dcli.train import TrainConfig, TrainingError, train
from pc3dcli.train import walk as walks
from pc3dcli.train.journal import restore
from pc3dcli.train.processes import make_fabric
from pc3dcli.train.walk import Walk, step_seed

CONFIG = TrainConfig(epochs=3, batch_size=4, lr=1e-2, checkpoint_every=1)
SCRIPT = Path(__file__).with_name("tiny.py")


def fit(out: Path, config: TrainConfig = CONFIG, *, force=False, data=None, **settings):
    learner = TinyLearner(**settings)
    result = train(learner, data or TinyData(), config, tiny_run(out, config, force=force))
    return learner, result


def tree(folder: Path) -> dict[str, bytes]:
    """The files of a run, without the one that holds times."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "run.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.ndjson").read_text().splitlines()]


class Stop(BaseException):
    """As Ctrl-C: no error of ours."""


class StoppingLearner(TinyLearner):
    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.stop_at = stop_at

    def training_loss(self, batch, at):
        if at.step == self.stop_at:
            raise Stop
        return super().training_loss(batch, at)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    fit(out)
    return out


def test_a_run_leaves_weights_log_and_no_checkpoint(whole):
    assert sorted(tree(whole)) == ["config.json", "log.ndjson", "model.safetensors"]
    log = records(whole)
    assert [record["step"] for record in log] == list(range(1, 10))
    assert [record["epoch"] for record in log] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert set(log[0]) == {"type", "step", "epoch", "lr", "loss", "error", "grad_norm"}
    run = json.loads((whole / "run.json").read_text())
    assert (run["steps"], run["processes"]) == (9, 1)
    description, tensors = read_model(whole)
    assert description["method"] == "tiny"
    assert int(tensors["steps_seen"]) == 9


def test_same_seed_same_bytes_and_another_seed_others(whole, tmp_path):
    fit(tmp_path / "again")
    assert tree(tmp_path / "again") == tree(whole)
    fit(tmp_path / "other", TrainConfig(epochs=3, batch_size=4, lr=1e-2, seed=1))
    assert records(tmp_path / "other")[0]["loss"] != records(whole)[0]["loss"]


def test_the_generators_of_the_caller_stay(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fit(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("stop_at", [0, 1, 3, 5, 8])
def test_interrupted_then_rerun_equals_an_uninterrupted_run(whole, tmp_path, stop_at):
    with pytest.raises(Stop):
        train(StoppingLearner(stop_at), TinyData(), CONFIG, tiny_run(tmp_path, CONFIG))
    assert (tmp_path / "checkpoints/last.safetensors").exists() == (stop_at >= 3)
    _, result = fit(tmp_path)
    assert result.new_steps == 9 - stop_at // 3 * 3
    assert tree(tmp_path) == tree(whole)


def test_checkpoints_by_the_clock_change_nothing(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("pc3dcli.train.journal.CHECKPOINT_S", 0.0)
    monkeypatch.setattr("pc3dcli.train.journal.CHECKPOINT_COST", 0.0)
    with pytest.raises(Stop):
        train(StoppingLearner(5), TinyData(), CONFIG, tiny_run(tmp_path, CONFIG))
    _, result = fit(tmp_path)
    assert result.new_steps == 4  # in the middle of an epoch
    assert tree(tmp_path) == tree(whole)


def test_kill_9_then_rerun_equals_an_uninterrupted_run(whole, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[2]), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, SCRIPT, tmp_path, "--die-at", "7"], env=environment, check=False)
    assert killed.returncode == -9
    _, result = fit(tmp_path)
    assert result.new_steps == 3
    assert tree(tmp_path) == tree(whole)


def test_a_finished_run_is_not_done_again(whole):
    before = tree(whole)
    _, result = fit(whole)
    assert (result.steps, result.new_steps, result.is_main) == (9, 0, True)
    assert tree(whole) == before


def test_other_settings_are_refused_and_force_starts_again(tmp_path):
    fit(tmp_path)
    other = TrainConfig(epochs=2, batch_size=4, lr=1e-2)
    with pytest.raises(UsageError, match="made with epochs = 3, now 2"):
        fit(tmp_path, other)
    with pytest.raises(UsageError, match="made with seed 0, now 4"):
        fit(tmp_path, TrainConfig(epochs=3, batch_size=4, lr=1e-2, seed=4))
    fit(tmp_path, other, force=True)
    assert len(records(tmp_path)) == 6


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    with pytest.raises(Stop):
        train(StoppingLearner(5), TinyData(), CONFIG, tiny_run(tmp_path, CONFIG))
    with pytest.raises(UsageError, match="made with lr = 0.01, now 0.1"):
        fit(tmp_path, TrainConfig(epochs=3, batch_size=4, lr=0.1))


def test_weights_of_unknown_origin_are_not_overwritten(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(UsageError, match="of another origin"):
        fit(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


def test_a_truncated_checkpoint_or_log_is_reported(tmp_path):
    with pytest.raises(Stop):
        train(StoppingLearner(5), TinyData(), CONFIG, tiny_run(tmp_path, CONFIG))
    log, checkpoint = tmp_path / "log.ndjson", tmp_path / "checkpoints/last.safetensors"
    full = log.read_bytes()
    log.write_bytes(full[:50])
    with pytest.raises(FormatError, match="found 50 bytes, the checkpoint knows"):
        fit(tmp_path)
    log.write_bytes(full)
    content = checkpoint.read_bytes()
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        checkpoint.write_bytes(content[:size])
        with pytest.raises(WeightsError, match="perhaps truncated") as caught:
            fit(tmp_path)
        assert caught.value.hint == "pass --force to start again"
    fit(tmp_path, force=True)


def test_damaged_checkpoints_are_our_errors_or_harmless(tmp_path, rounds=150):
    with pytest.raises(Stop):
        train(StoppingLearner(5), TinyData(), CONFIG, tiny_run(tmp_path, CONFIG))
    checkpoint = tmp_path / "checkpoints/last.safetensors"
    content, rng = checkpoint.read_bytes(), np.random.default_rng(0)
    outcomes = {"refused": 0, "read": 0}
    for _ in range(rounds):
        damaged = bytearray(content)
        end = 2500 if rng.random() < 0.8 else len(content)  # mostly the header, where structure is
        for place in rng.integers(0, end, rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        checkpoint.write_bytes(bytes(damaged))
        learner = TinyLearner()
        adam = torch.optim.AdamW(parameter_groups(learner, 0.05), fused=True)
        try:
            step, log_bytes = restore(tiny_run(tmp_path, CONFIG).folder, learner, adam)
            assert step >= 0
            assert log_bytes >= 0
            outcomes["read"] += 1
        except (WeightsError, UsageError):
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 0, outcomes


def test_a_checkpoint_of_another_model_is_reported(tmp_path):
    with pytest.raises(Stop):
        train(StoppingLearner(5), TinyData(), CONFIG, tiny_run(tmp_path, CONFIG))
    learner = TinyLearner()
    learner.student[0] = nn.Linear(4, 7)
    with pytest.raises(WeightsError, match=r"student\.0\.weight \(8, 4\) instead of \(7, 4\)"):
        train(learner, TinyData(), CONFIG, tiny_run(tmp_path, CONFIG))


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(tmp_path):
    with pytest.raises(TrainingError) as caught:
        fit(tmp_path, nan_at=7)
    ids = [f"s{i}" for i in Walk.over(TinyData(), CONFIG).indices(7)]
    assert f"step 8: the loss or its gradient is not finite, in the batch of {', '.join(ids)}" in str(caught.value)
    assert "go on from step 6" in caught.value.hint
    assert caught.value.exit_code == 1
    assert len(records(tmp_path)) == 7
    _, result = fit(tmp_path)  # as if the cause was removed
    assert result.new_steps == 3


def test_no_checkpoint_is_written_of_what_is_not_finite(tmp_path, monkeypatch):
    monkeypatch.setattr("pc3dcli.train.journal.Journal.is_checkpoint_due", lambda self, at, config: True)
    monkeypatch.setattr("pc3dcli.train.journal.Journal.add", lazily(10))
    with pytest.raises(TrainingError, match="step 5:"):
        fit(tmp_path, nan_at=4)
    _, result = fit(tmp_path)
    assert result.new_steps == 5


def lazily(delay):
    from pc3dcli.train.journal import Journal

    original = Journal.add

    def add(self, *arguments):
        self.delay = delay  # as on an accelerator
        return original(self, *arguments)

    return add


def test_the_disk_is_full(tmp_path, monkeypatch):
    def write(file, tensors, metadata):
        file.write(b"some bytes")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pc3dcli.train.journal.write_tensors", write)
    with pytest.raises(OSError, match="No space left") as caught:
        fit(tmp_path)
    assert caught.value.filename == str(tmp_path / "checkpoints/last.safetensors")
    assert sorted(tree(tmp_path)) == ["log.ndjson"]


def test_clipping_bounds_the_step_and_the_log_shows_the_norm_before(tmp_path):
    config = TrainConfig(epochs=1, batch_size=4, lr=1e-2, clip=1e-6)
    fit(tmp_path / "clipped", config)
    fit(tmp_path / "free", TrainConfig(epochs=1, batch_size=4, lr=1e-2))
    clipped, free = records(tmp_path / "clipped"), records(tmp_path / "free")
    assert clipped[0]["grad_norm"] == free[0]["grad_norm"] > 1e-3
    assert clipped[2]["loss"] != free[2]["loss"]


def test_a_double_step_steps_before_clipping_and_after(tmp_path):
    settings = {"epochs": 1, "batch_size": 12, "lr": 1e-2, "warmup_epochs": 0, "clip": 1e-6}
    config = TrainConfig(**settings, double_step=True)
    learner, _ = fit(tmp_path / "double", config, is_plain=True)
    single, _ = fit(tmp_path / "single", TrainConfig(**settings), is_plain=True)
    expected, walk = TinyLearner(is_plain=True), Walk.over(TinyData(), config)
    batch, at = TinyData().batch(walk.indices(0), seed=0, epoch=0), walk.position(0)
    adam = torch.optim.AdamW(parameter_groups(expected, config.weight_decay), lr=config.rate(at), betas=config.betas)
    expected.training_loss(batch, at)[0].backward()
    adam.step()
    nn.utils.clip_grad_norm_(expected.parameters(), config.clip)
    adam.step()
    for found, other, value in zip(*(one.student.parameters() for one in (learner, single, expected)), strict=True):
        torch.testing.assert_close(found, value)
        assert not torch.allclose(found, other)


def test_bf16_and_compiled_steps_are_finite(tmp_path):
    fit(tmp_path, TrainConfig(epochs=1, batch_size=4, precision="bf16", compile=True))
    assert all(np.isfinite(record["loss"]) for record in records(tmp_path))


def test_the_rate_is_scaled_and_logged(tmp_path):
    from pc3dcli.train import Run

    config = TrainConfig(epochs=2, batch_size=4, lr=1e-2, warmup_epochs=0)
    learner, run = TinyLearner(), tiny_run(tmp_path, config)
    before = learner.student[0].weight.clone()
    frozen = Run(run.folder, run.description, "cpu", rate_scale=lambda name: float(not name.startswith("student.0")))
    train(learner, TinyData(), config, frozen)
    assert torch.equal(learner.student[0].weight, before)
    assert records(tmp_path)[0]["lr"] == 0.01
    assert records(tmp_path)[3]["lr"] == pytest.approx(0.005)


def test_after_an_epoch_records_go_to_the_log_and_are_not_repeated(tmp_path):
    seen = []

    def after_epoch(learner, at):
        assert not torch.is_grad_enabled()
        learner.eval()
        seen.append(at.epoch)
        return [{"type": "metric", "name": "accuracy", "value": 0.5, "epoch": at.epoch}]

    with pytest.raises(Stop):
        train(StoppingLearner(7), TinyData(), CONFIG, tiny_run(tmp_path, CONFIG), after_epoch=after_epoch)
    learner = TinyLearner()
    train(learner, TinyData(), CONFIG, tiny_run(tmp_path, CONFIG), after_epoch=after_epoch)
    assert seen == [0, 1, 2]
    assert [record["epoch"] for record in records(tmp_path) if record["type"] == "metric"] == [0, 1, 2]
    assert learner.training


def test_the_reporter_sees_every_record_once(tmp_path):
    class Listener:
        def __init__(self):
            self.steps, self.begun = [], None

        def started(self, step, steps, kept):
            self.begun = step, steps, kept.count(b"\n")

        def logged(self, record):
            self.steps.append(record["step"])

    first, second = Listener(), Listener()
    with pytest.raises(Stop):
        train(StoppingLearner(7), TinyData(), CONFIG, tiny_run(tmp_path, CONFIG), report=first)
    train(TinyLearner(), TinyData(), CONFIG, tiny_run(tmp_path, CONFIG), report=second)
    assert (first.begun, first.steps) == ((0, 9, 0), list(range(1, 8)))
    assert (second.begun, second.steps) == ((6, 9, 6), [7, 8, 9])


def test_every_epoch_takes_each_sample_once_in_another_order():
    walk = Walk.over(TinyData(12), CONFIG)
    epochs = [np.concatenate([walk.indices(3 * epoch + number) for number in range(3)]) for epoch in range(3)]
    assert all(sorted(order) == list(range(12)) for order in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


def test_an_incomplete_last_batch_is_dropped_and_few_samples_are_one_batch():
    assert Walk.over(TinyData(11), CONFIG).steps_per_epoch == 2
    few = Walk.over(TinyData(3), CONFIG)
    assert (few.steps_per_epoch, few.batch_size) == (1, 3)
    with pytest.raises(InputError, match="found 1 samples"):
        Walk.over(TinyData(1), TrainConfig(batch_size=4), 0, 2)
    with pytest.raises(UsageError, match="a batch of 4 cannot be shared by 3"):
        Walk.over(TinyData(), CONFIG, 0, 3)


def test_processes_share_each_batch():
    alone = Walk.over(TinyData(), CONFIG)
    shares = [Walk.over(TinyData(), CONFIG, rank, 2) for rank in range(2)]
    for step in range(alone.steps):
        parts = np.concatenate([share.indices(step) for share in shares])
        assert np.array_equal(parts, alone.indices(step))
    draws = {step_seed(0, step, rank, 0) for step in range(50) for rank in range(4)}
    assert len(draws) == 200


def test_batches_come_in_order_whenever_one_begins(monkeypatch):
    monkeypatch.setattr(walks, "PREFETCH", 3)
    walk = Walk.over(TinyData(), CONFIG)
    device = torch.device("cpu")
    everything = [(at.step, at.epoch, batch.ids) for batch, at in walk.batches(0, device)]
    assert [step for step, _, _ in everything] == list(range(9))
    assert [(at.step, at.epoch, batch.ids) for batch, at in walk.batches(4, device)] == everything[4:]


def test_a_sample_that_cannot_be_read_is_the_error_of_its_reader(tmp_path):
    class Broken(TinyData):
        def batch(self, indices, *, seed, epoch):
            if epoch == 1:
                raise FormatError("point 7 is not finite", file="s3.ply")
            return super().batch(indices, seed=seed, epoch=epoch)

    with pytest.raises(FormatError, match="point 7 is not finite"):
        fit(tmp_path, data=Broken())
    assert len(records(tmp_path)) == 3


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x", "mps"])
def test_devices_that_are_not_there(device):
    with pytest.raises(UsageError, match=f"--device {device}"):
        make_fabric(device)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"lr": float("nan")}, {"betas": (0.9, 1.0)}, {"clip": -1}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError):
        TrainConfig(**wrong)
