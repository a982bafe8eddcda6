# SPDX-License-Identifier: Apache-2.0
"""Training in real processes: two of them under torchrun, and stopped by signals at any moment."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pc3dcli.formats.cloud import Cloud
from pc3dcli.formats.ply import write_ply
from pc3dcli.nn.model_files import read_model
from pc3dcli.worlds.shapes import make_shapes, write_shapes

TINY = [f"-D{text}" for text in (
    "num_points=64", "num_patches=8", "patch_size=8", "dim=12", "depth=1", "heads=2", "decoder_depth=1", "gc_depth=1",
    "embed_width=32",
)]  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shapes") / "train.npz"
    write_shapes(path, make_shapes(32, 0, 96))
    return path


ROOT = Path(__file__).resolve().parents[2]


def tree(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "run.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.ndjson").read_text().splitlines()]


def command(shapes: Path, *more: str) -> list[str]:
    settings = ["--batch-size", "8", "--device", "cpu", "--out", "run"]  # weights name their command line
    return ["pretrain", str(shapes), *TINY, *settings, *more]


def torchrun(environment: dict, cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    cwd.mkdir()
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = environment | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_two_processes_share_each_batch(environment, tmp_path, shapes):
    line = command(shapes, "--mask", "random", "--epochs", "2")
    run = torchrun(environment, tmp_path / "two", "-m", "pc3dcli", *line)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "run/model.safetensors\n"  # the first process alone speaks
    assert run.stderr.count("8 steps, ") == 1
    assert "arning" not in run.stderr
    assert json.loads((tmp_path / "two/run/run.json").read_text())["processes"] == 2
    subprocess.run(["pc3d", *line], cwd=tmp_path, env=environment, check=True, capture_output=True)
    # the same shapes in other random masks, with batch statistics of their own
    assert losses(tmp_path / "two/run") == pytest.approx(losses(tmp_path / "run"), rel=0.3)
    assert read_model(tmp_path / "two/run")[0] == read_model(tmp_path / "run")[0]


def test_two_processes_take_the_steps_of_one(environment, tmp_path):
    script = str(ROOT / "tests/train/tiny.py")
    run = torchrun(environment, tmp_path / "two", script, "out", "--plain")
    assert run.returncode == 0, run.stderr
    alone = environment | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, script, "out", "--plain"], cwd=tmp_path, env=alone, check=True)
    _, two = read_model(tmp_path / "two/out")
    _, one = read_model(tmp_path / "out")
    for name, value in one.items():
        assert torch.allclose(two[name], value, rtol=1e-5, atol=1e-7), name
    assert losses(tmp_path / "two/out") == pytest.approx(losses(tmp_path / "out"), rel=1e-5)


def test_two_processes_share_scenes_of_which_one_may_have_no_instance(environment, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "d"):
        xyz = rng.uniform(0, 1, (400, 3)).astype(np.float32)
        instance = np.where(xyz[:, 0] < 0.4, 0, -1).astype(np.int32) if name in "ab" else np.full(400, -1, np.int32)
        (tmp_path / "rooms").mkdir(exist_ok=True)
        cloud = Cloud(xyz, np.full((400, 3), 90, np.uint8), extra={"instance_id": instance})
        write_ply(tmp_path / "rooms" / f"{name}.ply", cloud)
    small = ("stem=8", "planes=[8,8,8,8,8,8,8,8]", "depths=[1,1,1,1,1,1,1,1]", "dim=16", "heads=2", "ffn_dim=32")
    settings = [f"-D{text}" for text in (*small, "num_queries=4", "rounds=1", "voxel=0.1", "min_points=10")]
    line = ["distill", str(tmp_path / "rooms"), "--labels", str(tmp_path / "rooms"), "--method", "instances", *settings]
    line += ["--epochs", "2", "--batch-size", "2", "--device", "cpu", "--out", "run"]
    run = torchrun(environment, tmp_path / "two", "-m", "pc3dcli", *line)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "run/model.safetensors\n" and run.stderr.count("4 steps, ") == 1
    assert len(losses(tmp_path / "two/run")) == 4


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_stopped_then_rerun_equals_an_uninterrupted_run(environment, tmp_path, shapes, whole, number, code):
    line = command(shapes, "--epochs", "16", "-D", "checkpoint_every=2")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(["pc3d", *line], cwd=tmp_path, env=environment, start_new_session=True, **pipes)
    checkpoint = tmp_path / "run/checkpoints/last.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert ("interrupted at step" in err) == (number == signal.SIGINT)
    assert not (tmp_path / "run/run.json").exists()
    again = subprocess.run(["pc3d", *line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "goes on after step" in again.stderr
    assert tree(tmp_path / "run") == tree(whole)


@pytest.fixture(scope="module")
def whole(environment, tmp_path_factory, shapes) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    line = command(shapes, "--epochs", "16", "-D", "checkpoint_every=2")
    subprocess.run(["pc3d", *line], cwd=folder, env=environment, check=True, capture_output=True)
    return folder / "run"
