# SPDX-License-Identifier: Apache-2.0
"""The full segmenter, Res16UNet34C and mask decoder, on one scene: forward, training step, peak memory, both devices.

    python tests/benchmarks/segmenter.py [--device cuda] [--voxels 150000] [--rounds 5] [--sparse torch]

Voxels are those of sparse_conv.py.  Forward is in eval mode with 100 queries, all voxels attended to; a step is
forward, 13 matched losses against 20 instances, and backward.  Times are wall seconds on a GPU, CPU seconds else, the
median of the rounds after one to warm up; memory is the peak of the GPU, else of the process so far.  With --device
cuda the masks of both devices are compared.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from sparse_conv import VOXEL, room_voxels

from pc3dcli.nn.sparse import chosen_backend
from pc3dcli.papers.granularity.segmenter import Segmenter, SegmenterConfig

NUM_INSTANCES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--voxels", type=int, default=150_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sparse", default="auto", choices=("auto", "torch", "spconv"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    model = Segmenter(SegmenterConfig(), backend=chosen_backend(arguments.sparse, device))
    batch = make_batch(arguments.voxels)
    scene = (batch.coords, batch.features, batch.xyz)
    if device.type == "cuda":
        compare(model, scene, device)
    model.to(device)
    batch = SimpleNamespace(**{name: value.to(device) for name, value in vars(batch).items()})
    print(f"{len(batch.coords)} voxels on {device}, {torch.get_num_threads()} threads, {model.backend}")
    print("| what | precision | s | peak, MB |\n|---|---|---|---|")
    for precision in ("fp32", "bf16"):
        for name, run in (("forward", forward), ("step", step)):
            seconds, peak = measured(lambda run=run, p=precision: run(model, batch, p), device, arguments.rounds)
            print(f"| {name} | {precision} | {seconds:.3f} | {peak:.0f} |", flush=True)


def make_batch(num: int) -> SimpleNamespace:
    """Return voxels of a room with random colours and instances that are neighbourhoods of random voxels."""
    coords = room_voxels(num)
    xyz = (coords[:, 1:] * VOXEL).float()
    centers = torch.randint(len(coords), (NUM_INSTANCES,))
    near = torch.cdist(xyz[centers], xyz).topk(len(coords) // 60, largest=False).indices
    number = torch.arange(NUM_INSTANCES)
    pairs = torch.stack((number.repeat_interleave(near.shape[1]), near.reshape(-1)))
    scene = torch.zeros(NUM_INSTANCES, dtype=torch.int64)
    return SimpleNamespace(
        coords=coords, features=torch.randn(len(coords), 3), xyz=xyz, instances=pairs, ignored=pairs[:, :0], scene=scene
    )


def forward(model: Segmenter, batch: SimpleNamespace, precision: str) -> None:
    model.eval()
    with torch.no_grad(), torch.autocast(batch.xyz.device.type, torch.bfloat16, enabled=precision == "bf16"):
        model(batch.coords, batch.features, batch.xyz, 100)[0][-1].masks()


def step(model: Segmenter, batch: SimpleNamespace, precision: str) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    with torch.autocast(batch.xyz.device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss, _ = model.training_loss(batch, SimpleNamespace(generator=torch.Generator().manual_seed(0)))
    loss.backward()


def measured(run: Callable[[], None], device: torch.device, rounds: int) -> tuple[float, float]:
    """Return median seconds and the peak of memory in MB: of the device, or of the process so far."""
    is_gpu = device.type == "cuda"
    clock = time.perf_counter if is_gpu else time.process_time
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(1 + rounds):
        start = clock()
        run()
        if is_gpu:
            torch.cuda.synchronize(device)
        seconds.append(clock() - start)
    peak = (
        torch.cuda.max_memory_allocated(device) if is_gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    return statistics.median(seconds[1:]), peak / 1e6


def compare(model: Segmenter, scene: tuple[torch.Tensor, ...], device: torch.device) -> None:
    """Print the largest difference of mask logits of the same network on both devices, as a share of the largest."""
    with torch.no_grad():
        backend, model.backend = model.backend, "torch"
        ours = model.eval()(*scene, 100)[0][-1].masks()
        model.backend = backend
        theirs = model.to(device)(*(tensor.to(device) for tensor in scene), 100)[0][-1].masks().cpu()
    print(
        f"largest difference of mask logits, CPU and {device}: {((ours - theirs).abs().max() / ours.abs().max()):.2g}"
    )


if __name__ == "__main__":
    main()
