# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from pc3dcli.errors import FormatError, UsageError
from pc3dcli.stream.provenance import Program
from pc3dcli.stream.run_folder import RunFolder

STEP = {"type": "step", "step": 1, "loss": 0.123456789}


def folder(path, **config) -> RunFolder:
    force = config.pop("force", False)
    return RunFolder(path, Program("pc3d pretrain", ["shapes/"], config, 0).record(), force)


def finish(run: RunFolder, num_bytes: int = 0) -> None:
    log = run.open_log(num_bytes)
    log.write([STEP])
    log.close()
    (run.path / "model.safetensors").write_bytes(b"x")
    run.finish(0.0, threads=1)


def test_done_when_finished(tmp_path):
    run = folder(tmp_path / "a", epochs=3)
    assert not run.is_done()
    finish(run)
    assert run.is_done()
    assert not folder(tmp_path / "a", epochs=3, force=True).is_done()
    written = json.loads((tmp_path / "a/run.json").read_text())
    assert written["programs"] == [run.program]
    assert written["started"] == "1970-01-01T00:00:00Z"
    assert (tmp_path / "a/log.ndjson").read_text() == '{"type":"step","step":1,"loss":0.123457}\n'


def test_other_settings_name_the_first_difference(tmp_path):
    finish(folder(tmp_path, epochs=3))
    with pytest.raises(UsageError, match="made with epochs = 3, now 4") as caught:
        folder(tmp_path, epochs=4).is_done()
    assert caught.value.exit_code == 2


def test_weights_that_were_removed_are_made_again(tmp_path):
    finish(folder(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    assert not folder(tmp_path).is_done()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"programs": []}', '{"programs": [{"id": 1}]}', "\xff"])
def test_a_run_file_of_something_else(tmp_path, text):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match="no record of a run"):
        folder(tmp_path).is_done()


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        folder(tmp_path / "a").is_done()


def test_a_log_goes_on_after_what_is_known_to_be_good(tmp_path):
    run = folder(tmp_path)
    log = run.open_log(0)
    log.write([STEP])
    good = log.sync()
    log.write([STEP | {"step": 2}, STEP | {"step": 3}])
    log.close()
    log = run.open_log(good)
    assert log.kept == b'{"type":"step","step":1,"loss":0.123457}\n'
    log.write([STEP | {"step": 9}])
    log.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "log.ndjson").open()] == [1, 9]
    with pytest.raises(FormatError, match="found 82 bytes, the checkpoint knows 9999"):
        run.open_log(9999)


def test_starting_again_removes_what_would_be_of_two_runs(tmp_path):
    run = folder(tmp_path)
    finish(run)
    run.checkpoint.parent.mkdir(exist_ok=True)
    run.checkpoint.write_bytes(b"x")
    (tmp_path / ".model.safetensors.99999999.tmp").write_bytes(b"x")
    (tmp_path / "pictures").mkdir()
    for name in ("predictions.npz", "pictures/epoch0003.png"):
        (tmp_path / name).write_bytes(b"x")
    run.open_log(0).close()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["log.ndjson"]


def test_what_no_run_of_ours_wrote_stays(tmp_path):
    (tmp_path / "predictions.npz").write_bytes(b"x")
    folder(tmp_path).open_log(0).close()
    assert (tmp_path / "predictions.npz").exists()


def test_a_full_disk_is_told_with_the_name_of_the_log(tmp_path):
    log = folder(tmp_path).open_log(0)

    class Full:
        name = str(tmp_path / "log.ndjson")

        def write(self, data):
            raise OSError(28, "No space left on device")

    log.file.close()
    log.file = Full()
    with pytest.raises(OSError, match="No space") as caught:
        log.write([STEP])
    assert caught.value.filename == Full.name
