# SPDX-License-Identifier: Apache-2.0
"""`pc3d distill`: classifiers, few-shot folds and parts from a pretrained network to the scores of `pc3d eval`."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

tiny = runpy.run_path(str(Path(__file__).with_name("tiny_shapes.py")))
small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))
QUICK = ("--device", "cpu", "--epochs", "2", "--batch-size", "16", "-q")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    tiny["write_data"](folder / "shapes")
    tiny["write_part_data"](folder / "parts")
    tiny["write_weights"](folder / "mae")
    tiny["write_weights"](folder / "m2ae", "point-m2ae")
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def distill(run, *arguments, code=0):
    result = run("distill", *arguments, *QUICK)
    assert result.code == code, result.err
    return result


def metrics(run, *arguments):
    result = run("eval", *arguments, "--json")
    assert result.code == 0, result.err
    return {r["name"]: r["value"] for r in result.of("metric") if not r.keys() & {"class", "scene"}}


@pytest.mark.parametrize("base", ["mae", "m2ae"])
def test_a_classifier_is_trained_and_scored(run, base):
    out = Path(f"c_{base}")
    result = distill(run, "shapes", "--init", base, "--out", out)
    assert result.out == f"{out}/model.safetensors\n" and result.err == ""
    config = json.loads((out / "config.json").read_text())
    assert config["kind"] == "classify" and len(config["classes"]) == 12
    with np.load(out / "predictions.npz") as arrays:
        assert arrays["logits"].shape == (24, 12) and set(arrays.files) == {"logits", "label", "id", "class_names"}
    found = metrics(run, out / "predictions.npz", "--task", "classify")
    assert 0 <= found["oa"] <= 1 and "oa_best_test_epoch" not in found


def test_a_finished_run_is_kept_and_votes_are_added_to_it(run):
    distill(run, "shapes", "--init", "mae", "--out", "again")
    weights = Path("again/model.safetensors").stat().st_mtime_ns
    predictions = Path("again/predictions.npz")
    stamp = predictions.stat().st_mtime_ns
    distill(run, "shapes", "--init", "mae", "--out", "again")
    assert predictions.stat().st_mtime_ns == stamp
    single = np.load(predictions)["logits"]
    distill(run, "shapes", "--init", "mae", "--out", "again", "--votes", "2", "-D", "vote_views=3")
    assert Path("again/model.safetensors").stat().st_mtime_ns == weights
    with np.load(predictions) as arrays:
        assert arrays["vote_logits"].shape == (2, 24, 12) and not np.allclose(*arrays["vote_logits"])
        np.testing.assert_array_equal(arrays["logits"], single)
        three = arrays["vote_logits"]
    found = metrics(run, predictions, "--task", "classify")
    assert found["oa_vote"] is not None and found["oa_vote_std"] is not None
    distill(run, "shapes", "--init", "mae", "--out", "again", "--votes", "2", "-D", "vote_views=1")
    with np.load(predictions) as arrays:  # as many repeats, over other views
        assert arrays["vote_views"] == 1 and not np.allclose(arrays["vote_logits"], three)
    stamp = predictions.stat().st_mtime_ns
    distill(run, "shapes", "--init", "mae", "--out", "again", "--votes", "2", "-D", "vote_views=1")
    assert predictions.stat().st_mtime_ns == stamp
    result = distill(run, "shapes", "--init", "mae", "--out", "again", "-D", "lr=0.1", code=2)
    assert "made with" in result.err and "--force" in result.err


def test_official_predictions_are_of_every_epoch(run):
    distill(run, "shapes", "--init", "mae", "--out", "official", "--protocol", "official")
    with np.load("official/predictions.npz") as arrays:
        assert arrays["epoch_pred"].shape == (2, 24)
        np.testing.assert_array_equal(arrays["epoch_pred"][-1], arrays["logits"].argmax(axis=1))
        label = arrays["label"]
        best = (arrays["epoch_pred"] == label).mean(axis=1).max()
    assert not Path("official/epochs").exists()
    found = metrics(run, "official/predictions.npz", "--task", "classify", "--protocol", "official")
    assert found["oa_best_test_epoch"] == pytest.approx(best, abs=1e-5)
    distill(run, "shapes", "--init", "mae", "--out", "fair")
    fair = metrics(run, "fair/predictions.npz", "--task", "classify")
    assert fair["oa"] == found["oa"]  # looking at the test split changes nothing


def test_trained_weights_predict_without_training(run):
    distill(run, "shapes", "--init", "mae", "--out", "trained", "--epochs", "1")
    result = run("distill", "shapes", "--init", "trained", "--predict", "--out", "told", "--device", "cpu")
    assert result.code == 0 and result.out == "told/predictions.npz\n", result.err
    first, again = np.load("trained/predictions.npz"), np.load("told/predictions.npz")
    np.testing.assert_allclose(again["logits"], first["logits"], atol=1e-6)
    result = run("distill", "shapes", "--init", "trained", "--predict", "--out", "told", "--device", "cpu")
    assert result.code == 2 and "--force" in result.err
    assert run("distill", "shapes", "--init", "mae", "--predict", "--out", "x").code == 4
    assert run("distill", "shapes", "--predict", "--out", "x").code == 2


def test_a_released_classifier_predicts(run):
    """What shapes of tensors do not tell of the network is set by -D where it is not as its authors had it."""
    import torch

    from pc3dcli.commands.weights import downstream_model
    from pc3dcli.papers.geomask3d.point_mae_released import to_released

    distill(run, "shapes", "--init", "mae", "--out", "ours", "--epochs", "1")
    model, _ = downstream_model("ours", "classify", "a test")
    torch.save({"base_model": to_released(model.state_dict(), "classify")}, "released.pth")
    sizes = ("-D", "num_points=64", "-D", "num_patches=8", "-D", "patch_size=8", "-D", "heads=2")
    result = run("distill", "shapes", "--init", "released.pth", "--predict", "--out", "theirs", *sizes)
    assert result.code == 0, result.err
    np.testing.assert_allclose(
        np.load("theirs/predictions.npz")["logits"], np.load("ours/predictions.npz")["logits"], atol=1e-5
    )


def test_the_weights_of_init_matter_and_scratch_leaves_them_out(run):
    logits, rate = {}, ("-D", "schedule=iteration", "-D", "lr=1e-2")  # by epochs the first two are warmup
    for name, options in {"w": (), "s": ("--scratch",), "lr": rate, "seed": ("--seed", "3")}.items():
        distill(run, "shapes", "--init", "mae", *options, "--out", f"m_{name}")
        logits[name] = np.load(f"m_{name}/predictions.npz")["logits"]
    for name in ("s", "lr", "seed"):
        assert not np.allclose(logits[name], logits["w"]), name


def test_without_init_the_network_is_that_of_the_options(run):
    small = ("-D", "dim=12", "-D", "depth=1", "-D", "heads=2", "-D", "num_points=64", "-D", "num_patches=8")
    distill(run, "shapes", "--out", "plain", *small, "-D", "patch_size=8", "-D", "label_smoothing=0.2")
    assert json.loads(Path("plain/config.json").read_text())["config"]["dim"] == 12


def test_recipes_reach_the_run(run):
    result = run("distill", "shapes", "--init", "mae", "--recipe", "gm3d", "--print-config")
    values = dict(line.split(" = ") for line in result.out.splitlines() if " = " in line)
    assert (values["layer_decay"], values["epochs"], values["batch_size"]) == ("0.75", "500", "64")
    assert "lr = 0.0005" in run("distill", "shapes", "--init", "mae", "--print-config").out
    assert "num_points = 128" in run("distill", "parts", "--init", "mae", "--method", "parts", "--print-config").out
    result = run("distill", "shapes", "--init", "mae", "--dry-run", *QUICK)
    assert result.code == 0 and "steps       6 a run" in result.out, result.err


def settings_of(run, *arguments):
    result = run("distill", *arguments, "--print-config")
    assert result.code == 0, result.err
    return dict(line.split(" = ") for line in result.out.splitlines() if " = " in line)


def test_scans_alone_are_learned_as_scans(run):
    """ModelNet40 as HDF5 is not normalised either, and is no scan."""
    for layout in ("modelnet-h5", "scanobjectnn"):
        small["SHAPES"][layout](Path(layout))
    names = ("variant", "label_smoothing", "num_points")
    found = settings_of(run, "modelnet-h5", "--base", "point-m2ae")
    assert [found[name] for name in names] == ['"modelnet"', "0.3", "1024"]
    found = settings_of(run, "scanobjectnn", "--base", "point-m2ae")
    assert [found[name] for name in names] == ['"scanobjectnn"', "0.0", "2048"]
    for layout, sizes in (("modelnet-h5", ["1024", "64"]), ("scanobjectnn", ["2048", "128"])):
        found = settings_of(run, layout, "--base", "point-mae")
        assert [found["num_points"], found["num_patches"]] == sizes


FEW = ("shapes", "--init", "mae", "--split", "train,train")


@pytest.mark.parametrize(("protocol", "suffix"), [("fair", "csv"), ("official", "npz")])
def test_few_shot_folds(run, protocol, suffix, monkeypatch):
    from pc3dcli.commands import fewshot_runs
    from pc3dcli.metrics.classification import FoldSize

    monkeypatch.setattr(fewshot_runs, "parse_size", lambda text: FoldSize(way=3, shot=2, queries=2, folds=2))
    out = Path(f"few_{protocol}")
    arguments = (*FEW, "--few-shot", "3x2", "--out", out, "--protocol", protocol)
    assert distill(run, *arguments).out == f"{out}/predictions\n"
    files = sorted(path.name for path in (out / "predictions").iterdir())
    assert files == [f"fold_00.{suffix}", f"fold_01.{suffix}"]
    assert not list(out.rglob("model.safetensors"))
    found = metrics(run, out / "predictions", "--task", "fewshot", "--gt", out / "folds.json", "--protocol", protocol)
    assert 0 <= found["accuracy"] <= 1 and ("accuracy_best_test_epoch" in found) == (protocol == "official")
    before = {path: path.read_bytes() for path in (out / "predictions").iterdir()}
    (out / "predictions" / files[1]).unlink()
    stamp = (out / "predictions" / files[0]).stat().st_mtime_ns
    distill(run, *arguments)  # goes on with the fold that is missing, and finds the same
    assert {path: path.read_bytes() for path in (out / "predictions").iterdir()} == before
    assert (out / "predictions" / files[0]).stat().st_mtime_ns == stamp
    again = distill(run, *FEW, "--folds", out / "folds.json", "--out", f"{out}_b", "--protocol", protocol)
    assert again.code == 0
    assert Path(f"{out}_b/predictions/{files[0]}").read_bytes() == before[out / "predictions" / files[0]]


@pytest.fixture
def two_folds(monkeypatch):
    from pc3dcli.commands import fewshot_runs
    from pc3dcli.metrics.classification import FoldSize

    monkeypatch.setattr(fewshot_runs, "parse_size", lambda text: FoldSize(way=3, shot=2, queries=2, folds=2))


def test_forced_folds_leave_nothing_of_earlier_ones(run, two_folds):
    few = (*FEW, "--few-shot", "3x2", "--out", "few_forced")
    distill(run, *few, "--epochs", "1")
    Path("few_forced/fold_07").mkdir()
    Path("few_forced/fold_07/log.ndjson").write_text("")  # of a run of more folds
    Path("few_forced/predictions/mine.txt").write_text("notes")
    distill(run, *few, "--protocol", "official", "--force", "--epochs", "1")
    found = sorted(path.name for path in Path("few_forced/predictions").iterdir())
    assert found == ["fold_00.npz", "fold_01.npz", "mine.txt"] and not Path("few_forced/fold_07").exists()
    short = run("eval", "few_forced", "--task", "fewshot")  # the folder stands for its predictions and folds
    assert short.code == 0, short.err
    named = run("eval", "few_forced/predictions", "--task", "fewshot", "--gt", "few_forced/folds.json")
    assert short.out == named.out


def test_a_folder_is_of_one_kind_of_run(run, two_folds):
    few = (*FEW, "--few-shot", "3x2")
    distill(run, *few, "--out", "few_alone", "--epochs", "1")
    for unfinished in (False, True):
        if unfinished:
            Path("few_alone/run.json").unlink()
        result = distill(run, *FEW, "--out", "few_alone", code=2)
        assert "--force" in result.err and not Path("few_alone/model.safetensors").exists()
    other = Path("few_alone/folds.json").read_bytes()
    result = distill(run, *few, "--seed", "5", "--out", "few_alone", "--epochs", "1", code=2)
    assert "--force" in result.err and Path("few_alone/folds.json").read_bytes() == other
    distill(run, *FEW, "--out", "few_alone", "--force", "--epochs", "1")
    assert not Path("few_alone/folds.json").exists() and not list(Path("few_alone").glob("fold_*"))
    result = distill(run, *few, "--out", "few_alone", "--epochs", "1", code=2)
    assert "--force" in result.err and not Path("few_alone/folds.json").exists()
    distill(run, *few, "--out", "few_alone", "--force", "--epochs", "1")
    assert not Path("few_alone/model.safetensors").exists()


def test_folds_say_where_they_are(run, two_folds):
    command = ("distill", *FEW, "--few-shot", "3x2", "--out", "few_told", "--device", "cpu", "--epochs", "2")
    result = run(*command)
    assert result.code == 0, result.err
    told = [line.removeprefix("pc3d distill: ") for line in result.err.splitlines()]
    assert "fold 1 of 2" in told and any(line.startswith("fold 2 of 2, ") and line.endswith(" left") for line in told)
    assert "each fold has 2 steps of training: more --epochs, or a smaller --batch-size" in told
    assert "6 shapes are one batch, 32 were asked for" in told
    assert "splits train and train share shapes, which are learned from and tested on" in told
    stream = run(*command, "--force", "--json", "-q")
    assert stream.err == "" and len(stream.of("header")) == len(stream.of("end")) == 2


def test_refused_folds_leave_those_that_are_there(run, monkeypatch):
    from types import SimpleNamespace

    from pc3dcli.commands import fewshot_runs
    from pc3dcli.metrics.classification import FoldSize

    monkeypatch.setattr(fewshot_runs, "parse_size", lambda text: FoldSize(way=3, shot=2, queries=2, folds=1))
    distill(run, *FEW, "--few-shot", "3x2", "--out", "few_kept")
    before = Path("few_kept/folds.json").read_bytes()
    result = distill(run, *FEW, "--few-shot", "3x2", "--seed", "5", "--out", "few_kept", code=2)
    assert "made with" in result.err and Path("few_kept/folds.json").read_bytes() == before
    # another process than the first writes nothing
    monkeypatch.setattr(fewshot_runs, "make_fabric", lambda device: SimpleNamespace(is_global_zero=False))
    monkeypatch.setattr(fewshot_runs, "run", lambda *_: None)
    assert distill(run, *FEW, "--few-shot", "3x2", "--out", "few_second").out == ""
    assert not Path("few_second").exists()


@pytest.mark.parametrize("base", ["mae", "m2ae"])
def test_parts(run, base):
    out = Path(f"parts_{base}")
    distill(run, "parts", "--method", "parts", "--init", base, "--out", out, "--protocol", "official")
    config = json.loads((out / "config.json").read_text())
    assert config["kind"] == "parts" and len(config["parts"]) == 50 and config["category_parts"][2] == [6, 7]
    with np.load(out / "predictions.npz") as arrays:
        label, pred = arrays["label"], arrays["pred"]
        assert label.shape == pred.shape and label.dtype == np.uint8
        assert ((pred >= 6) == (label >= 6)).all()  # never a part of the other category
    found = metrics(run, out / "predictions.npz", "--task", "parts")
    assert 0 < found["instance_miou"] <= 1
    files = sorted((out / "epochs").iterdir())
    best = metrics(run, *files, "--task", "parts", "--protocol", "official")
    assert best["instance_miou"] == found["instance_miou"] <= best["instance_miou_best_test_epoch"]


def write_cups(folder, parts, test_parts):
    """Write cups to learn from, and cups and pots to be tested on, whose points have parts by their side."""
    folder.mkdir()
    rng, names = np.random.default_rng(0), np.array(["cup", "pot"])
    for name, number, part in (("train", 6, parts), ("test", 4, test_parts)):
        points = rng.normal(size=(number, 96, 3)).astype(np.float32)
        label = np.zeros(number, int) if name == "train" else np.arange(number) % 2
        kind = np.where(points[..., 0] > 0, *part)
        np.savez(folder / f"{name}.npz", points=points, part=kind, label=label, class_names=names)


def test_parts_are_those_that_are_learned_from(run):
    write_cups(Path("cups"), (1, 2), (1, 5))
    distill(run, "cups", "--method", "parts", "--init", "mae", "--out", "parts_cups")
    assert json.loads(Path("parts_cups/config.json").read_text())["category_parts"] == [[1, 2], [1, 2]]
    with np.load("parts_cups/predictions.npz") as arrays:
        assert set(np.unique(arrays["label"])) == {1, 5}  # the fifth is never right
        assert set(np.unique(arrays["pred"])) <= {1, 2}
    write_cups(Path("mugs"), (1, 5), (1, 5))  # the weights know what may be predicted, not these shapes
    command = ("distill", "mugs", "--method", "parts", "--init", "parts_cups", "--predict", "--out", "parts_mugs")
    result = run(*command, "--device", "cpu")
    assert result.code == 0, result.err
    assert set(np.unique(np.load("parts_mugs/predictions.npz")["pred"])) <= {1, 2}


def test_parts_from_256_on_keep_their_numbers(run):
    write_cups(Path("bowls"), (0, 300), (0, 300))
    distill(run, "bowls", "--method", "parts", "--init", "mae", "--out", "parts_bowls", "--epochs", "1")
    with np.load("parts_bowls/predictions.npz") as arrays:
        assert set(np.unique(arrays["label"])) == {0, 300} and set(np.unique(arrays["pred"])) <= {0, 300}


def test_a_narrow_embedding_goes_through_every_command(run):
    import dataclasses

    from pc3dcli.commands.weights import downstream_model

    for base, config in (("point-mae", tiny["MAE"]), ("point-m2ae", tiny["M2AE"])):
        init, out = f"narrow_{base}", f"narrow_{base}_parts"
        tiny["write_weights"](Path(init), base, dataclasses.replace(config, embed_width=32))
        distill(run, "parts", "--method", "parts", "--init", init, "--out", out, "--epochs", "1")
        model, about = downstream_model(out, "parts", "a test")
        assert model.config.embed_width == about["config"]["embed_width"] == 32
        cpu = ("--device", "cpu")
        again = run("distill", "parts", "--method", "parts", "--init", out, "--predict", "--out", f"{out}_again", *cpu)
        assert again.code == 0, again.err
        predictions = [np.load(f"{folder}/predictions.npz")["pred"] for folder in (out, f"{out}_again")]
        np.testing.assert_array_equal(*predictions)
        result = run("segment", "parts/test.npz", "--parts", "--weights", out, "--category", "Cap", *cpu)
        assert result.code == 0, result.err
        assert "oa" in metrics(run, "shapes", "--task", "svm", "--weights", init, *cpu)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("shapes",), 2, "--out"),
        (("nothing", "--out", "x"), 4, "no such file or folder"),
        (("empty", "--out", "x"), 4, "no shapes"),
        (("shapes", "--init", "none", "--out", "x"), 4, "no such"),
        (("shapes", "--init", "c_wrong", "--out", "x"), 4, "needs pretrain"),
        (("shapes", "--init", "mae", "--base", "point-m2ae", "--out", "x"), 2, "--base"),
        (("shapes", "--init", "mae", "--few-shot", "5", "--out", "x"), 2, "WAYxSHOT"),
        (("shapes", "--init", "mae", "--few-shot", "5x10", "--out", "x"), 4, "classes have"),
        (("shapes", "--init", "mae", "--method", "parts", "--votes", "2", "--out", "x"), 2, "--votes"),
        (("shapes", "--init", "mae", "--split", "train", "--out", "x"), 2, "--split"),
        (("shapes", "--scratch", "--out", "x"), 2, "--scratch"),
        (("parts", "--init", "mae", "--out", "x"), 4, "no classes"),
        (("unlabelled.npz", "--init", "mae", "--split", "all,all", "--out", "x"), 4, "no classes"),
        (("nan.npz", "--init", "mae", "--split", "all,all", "--out", "x"), 4, "not finite"),
        (("few.npz", "--init", "mae", "--split", "all,all", "--out", "x"), 4, "a patch has 8"),
        (("one.npz", "--method", "parts", "--init", "mae", "--split", "all,all", "--out", "x"), 4, "found 1 shapes"),
        (("one.npz", "--method", "parts", "--init", "mae", "--split", "all,all", "-n"), 4, "expected two or more"),
        (("shapes", "--init", "mae", "--out", "mae"), 2, "another origin"),
        (("shapes", "--init", "mae", "--folds", "folds.json", "--out", "x"), 4, "no shape 'nobody'"),
    ],
)
def test_errors(run, arguments, code, words):
    Path("empty").mkdir(exist_ok=True)
    Path("c_wrong").mkdir(exist_ok=True)
    Path("c_wrong/model.safetensors").write_bytes(_wrong_kind())
    with np.load("shapes/train.npz") as arrays:
        points, label = arrays["points"], arrays["label"]
    np.savez("unlabelled.npz", points=points)
    broken = points.copy()
    broken[3, 5, 1] = np.nan
    np.savez("nan.npz", points=broken, label=label)
    np.savez("few.npz", points=points[:, :7], label=label)
    with np.load("parts/train.npz") as arrays:
        np.savez("one.npz", **{name: array[:1] for name, array in arrays.items()})
    fold = {"classes": [0, 1], "support": [["nobody"], ["train_00001"]], "query": [["test_00000"], ["test_00001"]]}
    folds = {"format": "pc3d.folds/1", "way": 2, "shot": 1, "queries": 1, "seed": 0, "folds": [fold]}
    Path("folds.json").write_text(json.dumps(folds))
    result = run("distill", *arguments, *QUICK)
    assert result.code == code and words in result.err, result.err
    assert "Traceback" not in result.err and not Path("x").exists()


def test_processes_of_one_shape_each_are_refused(run, monkeypatch):
    from types import SimpleNamespace

    from pc3dcli.commands import finetune_run

    monkeypatch.setattr(finetune_run, "make_fabric", lambda device: SimpleNamespace(world_size=2, global_rank=0))
    result = run("distill", "shapes", "--init", "mae", "--batch-size", "2", "--out", "x")
    assert result.code == 2 and "two or more for each of 2 processes" in result.err and "--batch-size 4" in result.err
    assert not Path("x").exists()


def _wrong_kind():
    import dataclasses

    import torch

    from pc3dcli.nn.model_files import write_model

    about = {"method": "classify", "kind": "classify", "base": "point-mae", "config": dataclasses.asdict(tiny["MAE"])}
    return write_model(Path("c_wrong"), {"x": torch.ones(1)}, about).read_bytes()
