# SPDX-License-Identifier: Apache-2.0
"""Sparse convolutions and the segmenter's U-Net, ours in plain torch beside spconv's processor kernels.

    python tests/benchmarks/sparse_conv.py [--threads 1] [--rounds 3] [--sizes 10000 100000 300000] [--channels 32 96]
    python tests/benchmarks/sparse_conv.py --network     # Res16UNet34C forward, a step of the small variant
    python tests/benchmarks/sparse_conv.py --memory      # time and peak memory of both up to a million voxels

spconv is its Native algorithm, its own hash tables included where maps are built; both sides alternate in one process.
Seconds are CPU seconds, the least of the rounds; the voxels are those of rooms: floor, walls, boxes, 2 cm.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from pc3dcli.nn.kernel_maps import Sites
from pc3dcli.nn.sparse import SparseTensor, SubmanifoldConv
from pc3dcli.nn.sparse_unet import LEVELS, SparseUnet, UnetConfig

VOXEL = 0.02
SMALL = UnetConfig(stem=16, planes=(16, 24, 32, 48, 48, 32, 24, 24), depths=(1,) * 8)


def room_voxels(num: int, seed: int = 0) -> torch.Tensor:
    """Return about `num` voxels (n, 4) int64 of a room whose size follows from that."""
    rng = np.random.default_rng(seed)
    side = (num * VOXEL**2 / 4.2) ** 0.5

    def sheet(origin, u, v, a, b):
        share = rng.random((int(6 * a * b / VOXEL**2), 2)) * [a, b]
        return np.array(origin) + share[:, :1] * np.array(u) + share[:, 1:] * np.array(v)

    up, x, y, height = [0, 0, 1], [1, 0, 0], [0, 1, 0], 0.45 * side
    parts = [sheet([0, 0, 0], x, y, side, side)]
    for origin, along in (([0, 0, 0], x), ([0, 0, 0], y), ([side, 0, 0], y), ([0, side, 0], x)):
        parts.append(sheet(origin, along, up, side, height))
    for _ in range(8):
        (a, b), angle, w = rng.random(2) * 0.8 * side, rng.random() * 2 * np.pi, 0.15 * side
        u, v = [np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0]
        parts += [sheet([a, b, w], u, v, w, w), sheet([a, b, 0], u, up, w, w), sheet([a, b, 0], v, up, w, w)]
    points = np.concatenate(parts)
    cells = np.floor((points + rng.normal(0, 0.002, points.shape)) / VOXEL).astype(np.int64)
    cells = np.unique(cells - cells.min(axis=0), axis=0)
    return torch.from_numpy(np.c_[np.zeros(len(cells), np.int64), cells])


def alternated(rounds: int, *functions: Callable[[], object]) -> np.ndarray:
    """Return the least CPU and wall seconds (n, 2) of each function, called in turn; their first calls do not count."""
    seconds = np.zeros((rounds + 1, len(functions), 2))
    for turn in seconds:
        for number, function in enumerate(functions):
            start = time.process_time(), time.perf_counter()
            function()
            turn[number] = time.process_time() - start[0], time.perf_counter() - start[1]
    return seconds[1:].min(axis=0)


class Spconv:
    """A submanifold convolution of spconv with weights of ours, on voxels of ours."""

    def __init__(self, coords: torch.Tensor, weight: torch.Tensor) -> None:
        import spconv.pytorch as spconv
        from spconv.core import ConvAlgo

        self.spconv = spconv
        side = round(len(weight) ** (1 / 3))
        num_in, num_out = weight.shape[1:]
        self.layer = spconv.SubMConv3d(num_in, num_out, side, bias=False, indice_key="a", algo=ConvAlgo.Native)
        with torch.no_grad():
            kernel = weight.detach().permute(2, 0, 1).reshape(num_out, side, side, side, num_in)
            self.layer.weight.copy_(kernel)
        self.coords, self.shape = coords.int(), [int(n) + 1 for n in coords[:, 1:].amax(dim=0)]

    def tensor(self, features: torch.Tensor):
        return self.spconv.SparseConvTensor(features, self.coords, self.shape, 1)


def convolutions(arguments: argparse.Namespace) -> None:
    """Print seconds of building maps, forward, and forward with backward."""
    print("| voxels | channels | what | ours, CPU s | spconv, CPU s | spconv / ours |\n|---|---|---|---|---|---|")
    for num in arguments.sizes:
        coords = room_voxels(num)
        for channels in arguments.channels:
            features = torch.randn(len(coords), channels, requires_grad=True)
            ours, sites = SubmanifoldConv(channels, channels, 3), Sites(coords)
            theirs = Spconv(coords, ours.weight)
            ready = theirs.layer(theirs.tensor(features.detach()))
            mine = SparseTensor(features, sites)

            def forward(ours=ours, mine=mine):
                with torch.no_grad():
                    return ours(mine).features

            def their_forward(theirs=theirs, ready=ready, features=features):
                with torch.no_grad():
                    return theirs.layer(ready.replace_feature(features)).features

            gap = (forward() - their_forward()).abs().max() / their_forward().abs().max()
            assert gap < 1e-5, gap
            pairs = {
                "map": (
                    lambda coords=coords: Sites(coords).submanifold(3),
                    lambda theirs=theirs, features=features: theirs.layer(theirs.tensor(features.detach())),
                ),
                "forward": (forward, their_forward),
                "forward + backward": (
                    lambda ours=ours, mine=mine: ours(mine).features.sum().backward(),
                    lambda theirs=theirs, ready=ready, features=features: (
                        theirs.layer(ready.replace_feature(features)).features.sum().backward()
                    ),
                ),
            }
            for name, both in pairs.items():
                mine_s, their_s = alternated(arguments.rounds, *both)[:, 0]
                if name == "map":  # theirs is built inside the first forward
                    their_s -= alternated(arguments.rounds, pairs["forward"][1])[0, 0]
                print(
                    f"| {len(coords)} | {channels} | {name} | {mine_s:.3f} | {their_s:.3f} | {their_s / mine_s:.2f} |"
                )


def their_network(config: UnetConfig):
    """Return the same network of spconv's layers."""
    import spconv.pytorch as spconv
    from spconv.core import ConvAlgo
    from torch import nn

    native = {"bias": False, "algo": ConvAlgo.Native}

    def norm(width: int) -> nn.Module:
        return nn.BatchNorm1d(width, momentum=0.02)

    class Block(nn.Module):
        def __init__(self, num_in: int, num_out: int, key: str) -> None:
            super().__init__()
            self.conv1 = spconv.SubMConv3d(num_in, num_out, 3, indice_key=key, **native)
            self.conv2 = spconv.SubMConv3d(num_out, num_out, 3, indice_key=key, **native)
            self.norm1, self.norm2 = norm(num_out), norm(num_out)
            is_same = num_in == num_out
            beside = nn.Sequential(nn.Linear(num_in, num_out, bias=False), norm(num_out))
            self.shortcut = nn.Identity() if is_same else beside

        def forward(self, x):
            inner = self.conv1(x)
            inner = self.conv2(inner.replace_feature(self.norm1(inner.features).relu()))
            return x.replace_feature((self.norm2(inner.features) + self.shortcut(x.features)).relu())

    class Unet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = spconv.SubMConv3d(3, config.stem, config.stem_kernel, indice_key="stem", **native)
            self.stem_norm = norm(config.stem)
            self.down, self.down_norm, self.encoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
            self.up, self.up_norm, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
            widths = [config.stem]
            for level in range(LEVELS):
                width, planes = widths[-1], config.planes[level]
                self.down.append(spconv.SparseConv3d(width, width, 2, 2, indice_key=f"d{level}", **native))
                self.down_norm.append(norm(width))
                key = f"s{level + 1}"
                blocks = [Block(width if k == 0 else planes, planes, key) for k in range(config.depths[level])]
                self.encoder.append(nn.Sequential(*blocks))
                widths.append(planes)
            width = widths.pop()
            for level in range(LEVELS):
                planes, skip = config.planes[LEVELS + level], widths.pop()
                key = f"d{LEVELS - 1 - level}"
                self.up.append(spconv.SparseInverseConv3d(width, planes, 2, indice_key=key, **native))
                self.up_norm.append(norm(planes))
                key = f"s{LEVELS - 1 - level}"
                depth = config.depths[LEVELS + level]
                blocks = [Block(planes + skip if k == 0 else planes, planes, key) for k in range(depth)]
                self.decoder.append(nn.Sequential(*blocks))
                width = planes

        def forward(self, x):
            x = self.stem(x)
            x = x.replace_feature(self.stem_norm(x.features).relu())
            skips = [x]
            for down, normal, blocks in zip(self.down, self.down_norm, self.encoder, strict=True):
                x = down(x)
                x = blocks(x.replace_feature(normal(x.features).relu()))
                skips.append(x)
            skips.pop()
            for up, normal, blocks in zip(self.up, self.up_norm, self.decoder, strict=True):
                skip = skips.pop()
                x = up(x)
                x = blocks(x.replace_feature(torch.cat((normal(x.features).relu(), skip.features), dim=1)))
            return x

    return Unet(), spconv


def networks(arguments: argparse.Namespace) -> None:
    """Print seconds of Res16UNet34C forward, and of a training step of the small variant, maps included."""
    coords = room_voxels(arguments.sizes[0])
    features = torch.randn(len(coords), 3)
    print("| network | what | ours, CPU s | spconv, CPU s | spconv / ours | ours, s | spconv, s |\n" + "|---" * 7 + "|")
    for name, config, trains in (("Res16UNet34C", UnetConfig(), False), ("small", SMALL, True)):
        ours = SparseUnet(config, 3).train(trains)
        theirs, spconv = their_network(config)
        theirs.train(trains)
        shape = [-(-(int(n) + 1) // 16) * 16 for n in coords[:, 1:].amax(dim=0)]

        def mine(ours=ours, trains=trains):
            with torch.set_grad_enabled(trains):
                out = ours(SparseTensor(features, Sites(coords)))[-1].features
                return out.square().mean().backward() if trains else out

        def other(theirs=theirs, spconv=spconv, shape=shape, trains=trains):
            with torch.set_grad_enabled(trains):
                out = theirs(spconv.SparseConvTensor(features, coords.int(), shape, 1)).features
                return out.square().mean().backward() if trains else out

        (mine_s, mine_wall), (their_s, their_wall) = alternated(arguments.rounds, mine, other)
        ratio = f"{mine_s:.2f} | {their_s:.2f} | {their_s / mine_s:.2f} | {mine_wall:.2f} | {their_wall:.2f}"
        print(f"| {name}, {len(coords)} voxels | {'forward + backward' if trains else 'forward'} | {ratio} |")


def memory(threads: int) -> None:
    """Print seconds and peak memory above start of a training step of the small network, a process for each size."""
    print("| voxels | step, CPU s | a million voxels | peak, MB | a million voxels |\n|---|---|---|---|---|")
    for num in (50_000, 100_000, 300_000, 1_000_000):
        command = [sys.executable, __file__, "--threads", str(threads), "--step", str(num)]
        count, seconds, peak = map(float, subprocess.check_output(command, text=True).split())
        share = count / 1e6
        print(f"| {count:.0f} | {seconds:.2f} | {seconds / share:.1f} | {peak:.0f} | {peak / share:.0f} |")


def one_step(num: int) -> None:
    """Print voxels, CPU seconds and megabytes of a training step; a process has only one peak."""
    coords = room_voxels(num)
    features, unet = torch.randn(len(coords), 3), SparseUnet(SMALL, 3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    unet(SparseTensor(features, Sites(coords)))[-1].features.square().mean().backward()
    seconds = time.process_time() - start
    print(len(coords), seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 300_000])
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 96])
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--step", type=int, help="one training step of so many voxels, for --memory")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.step:
        one_step(arguments.step)
    elif arguments.memory:
        memory(arguments.threads)
    elif arguments.network:
        arguments.sizes = arguments.sizes if arguments.sizes != parser.get_default("sizes") else [100_000]
        networks(arguments)
    else:
        convolutions(arguments)


if __name__ == "__main__":
    main()
