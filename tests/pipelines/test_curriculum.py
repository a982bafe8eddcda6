# SPDX-License-Identifier: Apache-2.0
"""The curriculum of the README, run in a shell as printed, on fewer and smaller things."""

import json
import re
import subprocess
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
SMALLER = {
    "--shapes 480": "--shapes 24",
    "num_points=512 num_patches=32 patch_size=16": "num_points=96 num_patches=16 patch_size=8",
    "dim=96 depth=4": "dim=12 depth=1",
    "embed_width=128 batch_size=32 epochs=12": "embed_width=32 batch_size=12 epochs=1",
    "epochs=30": "epochs=1",
    "--limit 6": "--limit 2",
}


def smaller(script: str) -> str:
    script = re.sub(r"\\\n\s*", "", script)
    for printed, small in SMALLER.items():
        assert script.count(printed) == 1, printed
        script = script.replace(printed, small)
    return script


def test_the_curriculum_of_the_readme_runs(environment, tmp_path):
    script = re.search(r"<!-- curriculum -->\n```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    result = subprocess.run(
        ["bash", "-c", smaller(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\nOA  ") == 3, result.stdout
    for stage in (1, 2):
        config = json.loads((tmp_path / f"runs/s{stage}/config.json").read_text())["config"]
        assert config["mask_ratio"] == 0.5 + 0.1 * stage
        lines = (tmp_path / f"runs/score{stage}.ndjson").read_text().splitlines()
        assert sum('"type":"patch_score"' in line for line in lines) == 24
    assert len(list((tmp_path / "pictures").glob("*.html"))) == 2
