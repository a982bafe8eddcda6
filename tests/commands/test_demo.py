# SPDX-License-Identifier: Apache-2.0
"""`pc3d demo` in processes of its own, as a newcomer runs it."""

import subprocess
import sys

from pc3dcli.datasets.shape_set import open_shapes


def demo(folder, *options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pc3dcli", "demo", "--out", "d", "--frames", "8", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_demo_prints_commands_table_and_pictures_and_keeps_what_is_done(tmp_path):
    first = demo(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "$ pc3d track2d d/scans/ --skip-done d/labels/ | pc3d lift3d --out d/labels/ --write ply" in first.stdout
    assert "preset agnostic-valid" in first.stdout and "AP50" in first.stdout
    pictures = first.stdout.split("look at\n")[1].split()
    assert any(name.endswith(".html") for name in pictures) and all((tmp_path / name).is_file() for name in pictures)
    again = demo(tmp_path)
    assert again.returncode == 0 and "rendering" not in again.stderr and again.stdout == first.stdout
    assert "pc3d track2d: 1 scene, 1 skipped" in again.stderr
    other = demo(tmp_path, "--seed", "5")  # another room, so its labels are made anew
    assert other.returncode == 0 and "rendering" in other.stderr and "skipped" not in other.stderr


def test_demo_refuses_a_file_as_its_folder(run, tmp_path):
    (tmp_path / "d").write_text("")
    assert run("demo", "--out", tmp_path / "d").code == 2


def test_shapes_are_a_data_set_of_two_splits(run, tmp_path):
    result = run("demo", "--shapes", "24", "--out", tmp_path / "s")
    assert result.code == 0 and result.out.split() == [
        str(tmp_path / "s" / f"{split}.npz") for split in ("train", "test")
    ]
    train, test = (open_shapes(tmp_path / "s", split=split) for split in ("train", "test"))
    assert len(train) == len(test) == 24 and len(train.class_names) == 12 and train.part_names == ("base", "detail")
    assert train.names[0] == "train_00000" and test.names[0] == "test_00000"
    assert (train.read(0).xyz != test.read(0).xyz).any() and train.read(0).xyz.shape == (1024, 3)


def test_shapes_do_not_replace_other_data(run, tmp_path):
    options = ("demo", "--shapes", "12", "--out", tmp_path)
    assert run(*options).code == 0
    first = (tmp_path / "train.npz").read_bytes()
    assert run(*options).code == 0 and (tmp_path / "train.npz").read_bytes() == first
    refused = run(*options, "--seed", "1")
    assert refused.code == 2 and "--force" in refused.err and (tmp_path / "train.npz").read_bytes() == first
    assert run(*options, "--seed", "1", "--force").code == 0 and (tmp_path / "train.npz").read_bytes() != first


def test_shapes_have_no_frames(run, tmp_path):
    assert run("demo", "--shapes", "12", "--frames", "8", "--out", tmp_path).code == 2


def test_rooms_are_scans_of_two_splits_and_finished_ones_are_kept(run, tmp_path):
    from pc3dcli.datasets import open_scenes

    options = ("demo", "--rooms", "1", "--frames", "8", "--out", tmp_path)
    first = run(*options)
    assert first.code == 0 and first.out.split() == [str(tmp_path / split) for split in ("train", "test")]
    assert first.err.count("rendering") == 2
    (train,), (test,) = (open_scenes(tmp_path / split) for split in ("train", "test"))
    assert (train.scene, test.scene) == ("train000", "test000") and len(train.open().frames) == 8
    clouds = [next((tmp_path / split).rglob("*_vh_clean_2.ply")).read_bytes() for split in ("train", "test")]
    assert clouds[0] != clouds[1] and (tmp_path / "train/train000/gt/train000.txt").is_file()
    again = run(*options)
    assert again.code == 0 and "rendering" not in again.err


def test_rooms_and_shapes_are_different_data(run, tmp_path):
    assert run("demo", "--shapes", "12", "--rooms", "1", "--out", tmp_path).code == 2
