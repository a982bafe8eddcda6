# SPDX-License-Identifier: Apache-2.0
"""The two curricula of the README, run in a shell as printed, on fewer and smaller things."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
SMALLER = {
    "--shapes 480": "--shapes 24",
    "num_points=512 num_patches=32 patch_size=16": "num_points=96 num_patches=16 patch_size=8",
    "dim=96 depth=4": "dim=12 depth=1",
    "embed_width=128 batch_size=32 epochs=12": "embed_width=32 batch_size=12 epochs=1",
    "epochs=30": "epochs=1",
    "--limit 6": "--limit 2",
}
# a network of a few steps is sure of nothing: here every query gets the whole room
SURE = """
import sys
from pathlib import Path
from pc3dcli.nn.model_files import read_model, write_model
folder = Path(sys.argv[1]).parent
about, tensors = read_model(folder)
for name in ("mask_features", "mask_head.2"):
    tensors[f"decoder.{name}.bias"] += 10
write_model(folder, tensors, about)
"""
SMALLER_SCENES = {
    "--rooms 8": "--rooms 2 --frames 8",
    "voxel=0.1": "voxel=0.15",
    "stem=16 'planes=[16,24,32,48,48,32,24,24]'": "stem=8 'planes=[8,8,8,8,8,8,8,8]'",
    "dim=48 heads=4 ffn_dim=128": "dim=16 heads=2 ffn_dim=32",
    "num_queries=40": "num_queries=8",
    "epochs=5": "epochs=1",
    "epochs=40": "epochs=1",
    "epochs=20": "epochs=1",
    "pc3d segment rooms/train": f"'{sys.executable}' -c '{SURE}' \"$w\" && pc3d segment rooms/train -D test_queries=4",
    "pc3d segment rooms/test": "pc3d segment rooms/test -D test_queries=4",
    "pseudo-label own/": "pseudo-label own/ --min-score 0.01",
}


def printed(name: str) -> str:
    """Return a script of the README."""
    return re.search(rf"<!-- {name} -->\n```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]


def run_printed(name: str, small: dict[str, str], environment: dict, cwd: Path) -> subprocess.CompletedProcess:
    """Run a script of the README with smaller numbers."""
    script = printed(name)
    script = re.sub(r"\\\n\s*", "", script)
    for number, smaller in small.items():
        assert script.count(number) == 1, number
        script = script.replace(number, smaller)
    pipes = {"capture_output": True, "text": True, "timeout": 600}
    result = subprocess.run(["bash", "-c", script], cwd=cwd, env=environment, check=False, **pipes)
    assert result.returncode == 0, result.stderr
    return result


def test_the_curriculum_of_scenes_runs(environment, tmp_path):
    result = run_printed("scenes", SMALLER_SCENES, environment, tmp_path)
    assert "agnostic-valid, 1 scene" in result.stdout
    for stage in (1, 2, 3):
        assert (tmp_path / f"runs/{stage}/model.safetensors").is_file()
    second, third = (json.loads((tmp_path / f"runs/{stage}/run.json").read_text()) for stage in (2, 3))
    assert second != third
    assert list((tmp_path / "pictures").glob("**/*.html"))


def test_the_network_of_rooms_was_trained_by_the_script_of_the_readme_with_other_numbers():
    text = (ROOT / "pc3dcli/models/rooms/train.sh").read_text(encoding="utf-8")
    head, script = text.split("set -euo pipefail\n")
    assert "export OMP_NUM_THREADS=1" in head
    plain = [re.sub(r"[0-9.]+", "0", re.sub(r" +# .*", "", part)) for part in (script, printed("scenes"))]
    assert plain[0] == plain[1].removeprefix("set -euo pipefail\n")


def test_the_curriculum_of_objects_runs(environment, tmp_path):
    result = run_printed("curriculum", SMALLER, environment, tmp_path)
    assert result.stdout.count("\nOA  ") == 3, result.stdout
    for stage in (1, 2):
        config = json.loads((tmp_path / f"runs/s{stage}/config.json").read_text())["config"]
        assert config["mask_ratio"] == 0.5 + 0.1 * stage
        lines = (tmp_path / f"runs/score{stage}.ndjson").read_text().splitlines()
        assert sum('"type":"patch_score"' in line for line in lines) == 24
    assert len(list((tmp_path / "pictures").glob("*.html"))) == 2
