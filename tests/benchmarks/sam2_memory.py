# SPDX-License-Identifier: Apache-2.0
"""Count the live tensors of SAM 2 video propagation over 200 frames, ours and the package's own loop.

A small random model of the package's own classes (64 pixel images) stands for the real one: the number of tensors is
the same, their size is not.  Prints tensors and KiB beside the model's own, and CPU seconds.

    python tests/benchmarks/sam2_memory.py [frames]
"""

import gc
import runpy
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from pc3dcli.masks2d.sam2_video import Sam2Video

tiny_sam2 = runpy.run_path(str(Path(__file__).parents[1] / "masks2d" / "tiny_networks.py"))["tiny_sam2"]
H, W = 48, 64


def picture(t: int) -> np.ndarray:
    return np.random.default_rng(t).integers(0, 255, (H, W, 3), dtype=np.uint8)


def seed_mask(track: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[track % 30 : track % 30 + 12, track % 40 : track % 40 + 16] = True
    return mask


def live_tensors(model: torch.nn.Module) -> tuple[int, float]:
    """Return the number of tensor storages alive that are not the model's, and their KiB."""
    gc.collect()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found = {}
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor and thing.untyped_storage().data_ptr() not in own:
            found[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return len(found), sum(found.values()) / 1024


def ours(objects: int, at: list[int]) -> list[tuple[int, float]]:
    model = tiny_sam2(video=True)
    video, measured = Sam2Video(model), []
    for t in range(max(at) + 1):
        view = SimpleNamespace(rgb=picture(t), depth=None, size=(H, W))
        video.propagate(t, view, list(range(objects)) if t else [])
        if t == 0:
            for track in range(objects):
                video.add_object(t, view, track, seed_mask(track))
        del view
        if t in at:
            measured.append(live_tensors(model))
    return measured


def the_packages(objects: int, at: list[int]) -> list[tuple[int, float]]:
    from PIL import Image

    model = tiny_sam2(video=True)
    model.fill_hole_area = 0
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for t in range(max(at) + 1):
            Image.fromarray(picture(t)).save(Path(folder) / f"{t:05d}.jpg")
        state = model.init_state(folder)
        for track in range(objects):
            model.add_new_mask(state, 0, track, seed_mask(track))
        for t, _, _ in model.propagate_in_video(state):
            if t in at:
                measured.append(live_tensors(model))
    return measured


def main() -> None:
    torch.set_num_threads(1)
    last = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    at = [last // 8, last // 4, last // 2, last]
    print(f"{'':12}{'objects':>8}" + "".join(f"{f'frame {t}':>20}" for t in at) + f"{'CPU s':>8}")
    for name, run, counts in (("ours", ours, (1, 8, 32)), ("the package", the_packages, (8,))):
        for objects in counts:
            start = time.process_time()
            cells = "".join(f"{f'{number} / {kib:,.0f} KiB':>20}" for number, kib in run(objects, at))
            print(f"{name:12}{objects:>8}{cells}{time.process_time() - start:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
