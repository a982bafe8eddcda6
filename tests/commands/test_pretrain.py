# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.commands.geomask3d_plan import training_defaults
from pc3dcli.formats.images import read_color
from pc3dcli.nn.model_files import read_model, write_model
from pc3dcli.nn.schedules import epoch_rate
from pc3dcli.papers.geomask3d.gm3d import Gm3d
from pc3dcli.worlds.shapes import make_shapes, write_shapes

TINY = [f"-D{text}" for text in (
    "num_points=64", "num_patches=8", "patch_size=8", "dim=12", "depth=1", "heads=2", "decoder_depth=1", "gc_depth=1",
    "embed_width=32",
)]  # fmt: skip
TINY_M2AE = [f"-D{text}" for text in (
    "num_points=64", "scale_patches=[32, 16, 8]", "patch_sizes=[4, 4, 4]", "dims=[12, 12, 12]", "depth=1", "heads=2",
    "embed_width=32",
    "decoder_depth=1", "gc_depth=1",
)]  # fmt: skip
SHORT = ["--epochs", 2, "--batch-size", 8, "--device", "cpu"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shapes") / "train.npz"
    write_shapes(path, make_shapes(16, 0, 96))
    return path


@pytest.fixture
def pretrain(run, shapes, tmp_path):
    """Run the command in `tmp_path`; returns its result and the records of the log."""

    def start(*arguments, out="run", tiny=TINY, data=shapes):
        place = [] if out is None else ["--out", tmp_path / out]
        return run("pretrain", data, *tiny, *SHORT, *place, *arguments)

    return start


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.ndjson").read_text().splitlines()]


def tree(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "run.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def weights(tmp_path_factory, shapes):
    """Weights of a plain run; not to be changed."""
    from typer.testing import CliRunner

    from pc3dcli.main import application

    out = tmp_path_factory.mktemp("weights") / "mae"
    arguments = ["pretrain", shapes, *TINY, *SHORT, "--mask", "random", "--out", out]
    assert CliRunner().invoke(application(["pretrain"]), list(map(str, arguments))).exit_code == 0
    return out


def test_one_line_on_stdout_names_the_weights(pretrain, tmp_path):
    result = pretrain()
    assert (result.code, result.out) == (0, f"{tmp_path}/run/model.safetensors\n")
    assert result.err.startswith("pc3d pretrain: 4 steps, ")
    description, tensors = read_model(tmp_path / "run")
    assert (description["method"], description["kind"], description["base"]) == ("geomask3d", "pretrain", "point-mae")
    assert description["config"]["num_patches"] == 8
    assert any(name.startswith("gc_head.") for name in tensors)
    assert [record["step"] for record in log(tmp_path / "run")] == [1, 2, 3, 4]
    again = pretrain()
    assert again.out == result.out
    assert "was finished before, --force redoes it" in again.err


def test_same_seed_same_bytes_wherever_the_shapes_lie(pretrain, tmp_path, shapes):
    moved = tmp_path / "elsewhere.npz"
    moved.write_bytes(shapes.read_bytes())
    assert pretrain(out="a").code == pretrain(out="b").code == pretrain(out="moved", data=moved).code == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    ours, theirs = (json.loads((tmp_path / f"{name}/run.json").read_text())["programs"][-1] for name in ("a", "moved"))
    assert ours["id"] == theirs["id"]
    pretrain("--seed", 1, out="c")
    assert log(tmp_path / "c")[0]["loss"] != log(tmp_path / "a")[0]["loss"]


def test_json_is_a_stream_of_steps(pretrain, tmp_path):
    result = pretrain("--json")
    assert [record["type"] for record in result.records] == ["header", "program", *["step"] * 4, "end"]
    assert result.of("step") == log(tmp_path / "run")


@pytest.mark.parametrize("mask", ["random", "block", "radius", "geometric"])
@pytest.mark.parametrize(("base", "tiny"), [("point-mae", TINY), ("point-m2ae", TINY_M2AE)])
def test_every_base_with_every_mask(pretrain, tmp_path, mask, base, tiny):
    result = pretrain("--base", base, "--mask", mask, "--epochs", 1, tiny=tiny)
    assert result.code == 0, result.err
    assert read_model(tmp_path / "run")[0]["base"] == base
    assert all(np.isfinite(record["loss"]) for record in log(tmp_path / "run"))
    assert ("score_spearman" in log(tmp_path / "run")[-1]) == (mask in ("radius", "geometric"))


def test_half_precision(pretrain, tmp_path):
    assert pretrain("--precision", "bf16", out="half").code == pretrain(out="full").code == 0
    half, full = log(tmp_path / "half"), log(tmp_path / "full")
    assert half[0]["loss"] != full[0]["loss"]
    assert half[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.02)


def test_options_by_define_as_in_the_curriculum(pretrain, tmp_path):
    arguments = ("-D", "mask=random", "-D", "epochs=1", "-D", "mask_ratio=0.5")
    result = pretrain(*arguments, "--print-config", out=None)
    assert 'mask = "random"\n' in result.out
    assert "epochs = 2\n" in result.out  # the flag beats -D
    assert "mask_ratio = 0.5\n" in result.out
    assert pretrain(*arguments).code == 0
    assert read_model(tmp_path / "run")[0]["config"]["mask_ratio"] == 0.5
    assert len(log(tmp_path / "run")) == 4


def test_init_starts_from_weights_and_their_config(pretrain, tmp_path, weights):
    result = pretrain("--init", weights, "-D", "lr=0", "-D", "weight_decay=0", tiny=[], out="next")
    assert result.code == 0, result.err
    before, after = read_model(weights), read_model(tmp_path / "next")
    assert after[0]["config"] == before[0]["config"]
    fixed = [name for name in before[1] if "running" not in name and "num_batches" not in name]
    assert all((before[1][name] == after[1][name]).all() for name in fixed)
    program = json.loads((tmp_path / "next/run.json").read_text())["programs"][-1]
    assert program["weights"]["init"].startswith("sha256:")


def test_a_teacher_adds_the_loss_of_features(pretrain, tmp_path, weights):
    assert pretrain("--teacher", weights).code == 0
    assert "loss_feature" in log(tmp_path / "run")[0]
    other = pretrain("--teacher", weights, "-D", "num_patches=9", out="other")
    assert other.code == 4
    assert "found a teacher of num_patches 8, the student has 9" in other.err


def test_stored_scores_choose_what_is_hidden(pretrain, run, tmp_path, shapes, weights):
    arguments = ["--weights", weights, "--device", "cpu", "--out"]
    for out in ("scores.ndjson", "scores"):
        assert run("mask-score", shapes, *arguments, tmp_path / out).code == 0
    for out in ("scores.ndjson", "scores"):
        result = pretrain("--mask-scores", tmp_path / out, "--init", weights, tiny=[], out=f"with-{out}")
        assert result.code == 0, result.err
    first, second = (log(tmp_path / f"with-{out}") for out in ("scores.ndjson", "scores"))
    assert first == second
    assert first[-1]["num_selected"] == 2
    pretrain("--init", weights, tiny=[], out="without")
    assert log(tmp_path / "without")[0]["num_selected"] == first[0]["num_selected"]
    assert log(tmp_path / "without")[0]["loss"] != first[0]["loss"]
    lines = [line for line in (tmp_path / "scores.ndjson").read_text().splitlines() if "shape_00003" not in line]
    (tmp_path / "few.ndjson").write_text("\n".join(lines) + "\n")
    few = pretrain("--mask-scores", tmp_path / "few.ndjson")
    assert (few.code, "shape_00003" in few.err) == (4, True), few.err


def test_official_parity_has_the_recipes_of_the_released_codes(pretrain, tmp_path, weights):
    result = pretrain("--parity", "official", "--teacher", weights, "-D", "gc_depth=1")
    assert result.code == 0, result.err
    assert pretrain("--parity", "official", "--mask", "random", out="plain").code == 0
    description, tensors = read_model(tmp_path / "plain")
    assert description["config"]["gc_depth"] == 1  # as said
    assert log(tmp_path / "plain")[0]["lr"] == 1e-6
    without = pretrain("--parity", "official", out="without")
    assert without.code == 2
    assert "parity = official needs a frozen teacher" in without.err


def test_recipes():
    ours, mae = training_defaults("point-mae", "geometric", False), training_defaults("point-mae", "random", True)
    assert (ours.epochs, ours.batch_size, ours.schedule, ours.betas) == (300, 128, "iteration", (0.9, 0.95))
    assert (mae.epochs, mae.batch_size, mae.schedule, mae.betas) == (300, 128, "epoch", (0.9, 0.999))
    assert (mae.period, training_defaults("point-m2ae", "block", True).period) == (None, 400)
    gm3d = training_defaults("point-mae", "geometric", True, batch_size=128)
    assert (gm3d.epochs, gm3d.batch_size, gm3d.lr, gm3d.warmup_epochs) == (400, 256, 5e-4, 40)
    assert gm3d.decay_tokens and not mae.decay_tokens
    assert epoch_rate(2, peak=mae.lr, period=300, warmup=mae.warmup_epochs, floor=mae.min_lr) == pytest.approx(1.009e-4)


def test_dry_run_touches_nothing(pretrain, tmp_path):
    before = list(tmp_path.iterdir())
    result = pretrain("--dry-run")
    assert result.code == 0
    assert [line.split("  ")[0] for line in result.out.splitlines()] == [
        "parameters",
        "data",
        "steps",
        "time",
        "memory",
        "out",
    ]
    assert "steps       4 in 2 epochs" in result.out
    assert "data        16 shapes, 8 a step" in result.out
    assert result.out.endswith(f"out         {tmp_path}/run, new\n")
    assert list(tmp_path.iterdir()) == before
    assert pretrain().code == 0
    assert pretrain("--dry-run").out.endswith("run, finished\n")


def test_files_of_a_split_are_named(pretrain, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("train", "extra_train", "test"):
        write_shapes(tmp_path / f"data/{name}.npz", make_shapes(8, 0, 96), name)
    result = pretrain("--dry-run", data=tmp_path / "data", out=None)
    assert "data        16 shapes of extra_train.npz, train.npz, 8 a step" in result.out
    assert "pc3d pretrain: 16 shapes of extra_train.npz, train.npz\n" in pretrain(data=tmp_path / "data").err


def test_print_config_can_be_read_back(pretrain, tmp_path):
    text = pretrain("--print-config", out=None).out
    (tmp_path / "c.toml").write_text(text)
    assert pretrain("--config", tmp_path / "c.toml", "--print-config", tiny=[], out=None).out == text


@pytest.mark.parametrize(("base", "tiny"), [("point-mae", TINY), ("point-m2ae", TINY_M2AE)])
def test_pictures_of_reconstructions(pretrain, tmp_path, base, tiny):
    assert pretrain("--base", base, "-D", "picture_every=2", "-D", "picture_shapes=2", tiny=tiny).code == 0
    assert [path.name for path in (tmp_path / "run/pictures").iterdir()] == ["epoch0002.png"]
    picture = read_color(tmp_path / "run/pictures/epoch0002.png").astype(int)
    thirds = np.array_split(picture, 3, axis=1)
    orange = [int(((third - (226, 130, 28)) ** 2).sum(-1).__lt__(3000).sum()) for third in thirds]
    assert orange[1] == 0 < min(orange[0], orange[2])


def test_few_shapes_are_one_batch(pretrain, tmp_path):
    result = pretrain("--batch-size", 100)
    assert result.code == 0
    assert "16 shapes are one batch, 100 were asked for" in result.err
    assert len(log(tmp_path / "run")) == 2


def test_other_settings_are_refused(pretrain, tmp_path):
    assert pretrain().code == 0
    result = pretrain("-D", "hard_ratio=0.9")
    assert result.code == 2
    assert "run.json: exists, made with hard_ratio = the default, now 0.9" in result.err
    assert "hint: pass --force" in result.err
    assert pretrain("-D", "hard_ratio=0.9", "--force").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--mask", "hard"], 2, "'hard' is not one of"),
        (["-D", "mask_ratio=1"], 2, "mask_ratio = 1.0: hides 8 of 8 patches"),
        (["-D", "gc_depth=0"], 2, "gc_depth = 0: geometric masks need a complexity head"),
        (["-D", "gc_target=feature"], 2, "gc_target = feature needs a frozen teacher"),
        (["-D", "betas=0.9"], 2, "betas = 0.9: expected a list"),
        (["--mask", "random", "--mask-scores", "x"], 2, "--mask-scores chooses among geometric masks, not random ones"),
        (["--split", "test"], 4, "test"),
        (["--split", "x"], 2, "unknown split 'x'"),
        (["--device", "cuda:77"], 2, "--device cuda:77"),
        (["--init", "nowhere"], 4, "nowhere"),
        (["-D", "patch_size=96", "-D", "num_points=128"], 0, ""),
        (["-D", "patch_size=97", "-D", "num_points=128"], 4, "has 96 points, a patch has 97"),
    ],
)
def test_what_cannot_be(pretrain, arguments, code, message):
    result = pretrain(*arguments)
    assert (result.code, message in result.err) == (code, True), result.err
    assert "Traceback" not in result.err


def test_without_a_place_for_the_weights(pretrain):
    result = pretrain(out=None)
    assert result.code == 2
    assert "hint: add --out runs/name" in result.err


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.full((4, 96, 3), np.nan), "point 0 is not finite"),
        (np.ones((4, 96, 3)), "all 96 points are equal"),
        (np.random.default_rng(0).normal(size=(4, 5, 3)), "has 5 points, a patch has 8"),
    ],
)
def test_clouds_that_cannot_be_used(pretrain, tmp_path, points, message):
    np.savez(tmp_path / "bad.npz", points=points.astype(np.float32))
    result = pretrain(data=tmp_path / "bad.npz")
    assert (result.code, message in result.err) == (4, True), result.err


def test_no_shapes(pretrain, tmp_path):
    (tmp_path / "empty").mkdir()
    result = pretrain(data=tmp_path / "empty")
    assert (result.code, "found no shapes" in result.err) == (4, True)


def test_weights_of_another_model(pretrain, weights, tmp_path):
    other = pretrain("--init", weights, "-D", "dim=16", tiny=[])
    assert (other.code, "these are not weights of this point-mae" in other.err) == (4, True), other.err
    base = pretrain("--init", weights, "--base", "point-m2ae", tiny=[])
    assert (base.code, "the weights of --init are of point-mae" in base.err) == (2, True)
    content = (weights / "model.safetensors").read_bytes()
    for size in (0, 100, len(content) - 1):
        (tmp_path / "cut.safetensors").write_bytes(content[:size])
        result = pretrain("--init", tmp_path / "cut.safetensors", tiny=[])
        assert (result.code, "cut.safetensors" in result.err) == (4, True), result.err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gc_depth", "x", "does not describe a complexity head"),
        ("gc_depth", 1000, "does not describe a complexity head"),
        ("heads", 0, "its config is not of a point-mae: heads = 0"),
        ("embed_width", 30, "its config is not of a point-mae: embed_width = 30"),
    ],
)
def test_init_with_a_damaged_config(pretrain, weights, tmp_path, name, value, message):
    description, tensors = read_model(weights)
    description["config"][name] = value
    write_model(tmp_path / "damaged", tensors, description)
    result = pretrain("--init", tmp_path / "damaged", tiny=[])
    assert result.code == 4 and message in result.err
    assert f"{tmp_path}/damaged" in result.err


def test_official_masks_of_point_m2ae_also_with_init(pretrain, tmp_path):
    assert pretrain(*TINY_M2AE, "--base", "point-m2ae", "--mask", "random", tiny=[]).code == 0
    more = ("--init", tmp_path / "run", "--parity", "official", "--mask", "random", "--print-config")
    assert "released_masks = true" in pretrain(*more, tiny=[], out=None).out


def test_a_truncated_checkpoint(pretrain, tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/last.safetensors").write_bytes(b"x" * 40)
    result = pretrain()
    assert (result.code, "hint: pass --force to start again" in result.err) == (4, True)
    assert pretrain("--force").code == 0


def test_the_disk_is_full(pretrain, tmp_path, monkeypatch):
    def write(file, tensors, metadata):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pc3dcli.nn.model_files.write_tensors", write)
        result = pretrain()
    assert result.code == 1
    assert "run/model.safetensors: no space left on the disk; unfinished files were removed" in result.err
    assert sorted(tree(tmp_path / "run")) == ["log.ndjson"]
    assert pretrain().code == 0


def test_a_loss_that_is_not_finite_ends_with_1(pretrain, tmp_path, monkeypatch):
    sound = Gm3d.training_loss

    def training_loss(self, batch, at):
        loss, log = sound(self, batch, at)
        return (loss * float("nan") if at.epoch else loss), log

    monkeypatch.setattr(Gm3d, "training_loss", training_loss)
    result = pretrain("-D", "checkpoint_every=1")
    assert result.code == 1
    assert "step 3: the loss or its gradient is not finite, in the batch of shape_000" in result.err
    assert "go on from step 2" in result.err
    assert (tmp_path / "run/checkpoints/last.safetensors").exists()
    assert not (tmp_path / "run/model.safetensors").exists()
