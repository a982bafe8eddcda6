# SPDX-License-Identifier: Apache-2.0
"""A Point-MAE pretraining step against a plain PyTorch formulation of the same mathematics, on the CPU.

    python tests/benchmarks/geomask3d_step.py [--threads 1] [--rounds 5] [--batch 32]

With two threads or more set OMP_WAIT_POLICY=passive, else threads that wait count as busy.
A step is sampling, grouping, forward, backward and AdamW on 1,024 points a cloud.  The plain side is written from the
definitions the way released code has it: convolutions of width 1, [global, local] concatenated for every point,
attention as softmax(q k) v, Chamfer distances through the whole distance matrix.  Both start from the same weights and
draw the same masks and drop paths.  Times alternate in one process; each side's peak memory is taken in a process of
its own, above what was resident before its first step.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pc3dcli.papers.geomask3d.point_mae import PointMae, PointMaeConfig
from pc3dcli.papers.geomask3d.point_mae_released import to_released

CURVE_STEPS = 20


class PlainEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(
            nn.Conv1d(3, 128, 1), nn.BatchNorm1d(128), nn.ReLU(inplace=True), nn.Conv1d(128, 256, 1)
        )
        self.second_conv = nn.Sequential(
            nn.Conv1d(512, 512, 1), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Conv1d(512, dim, 1)
        )

    def forward(self, points: Tensor) -> Tensor:
        B, G, S, _ = points.shape
        local = self.first_conv(points.reshape(B * G, S, 3).transpose(2, 1))
        widest = local.max(dim=2, keepdim=True).values
        both = torch.cat([widest.expand(-1, -1, S), local], dim=1)
        return self.second_conv(both).max(dim=2).values.reshape(B, G, -1)


class PlainAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        qkv = self.qkv(x).reshape(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        weight = (query @ key.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.proj((weight @ value).transpose(1, 2).reshape(B, T, C))


class PlainMlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class PlainBlock(nn.Module):
    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1, self.attn = nn.LayerNorm(dim), PlainAttention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim), PlainMlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))

    def drop(self, branch: Tensor) -> Tensor:
        if self.drop_path == 0 or not self.training:
            return branch
        keep = 1 - self.drop_path
        return branch / keep * (keep + torch.rand(len(branch), 1, 1)).floor()


class PlainBlocks(nn.Module):
    def __init__(self, config: PointMaeConfig, depth: int) -> None:
        super().__init__()
        rates = torch.linspace(0, config.drop_path, depth).tolist()
        self.blocks = nn.ModuleList([PlainBlock(config.dim, config.heads, rate) for rate in rates])

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x + positions)
        return x


class PlainEncoder(nn.Module):
    def __init__(self, config: PointMaeConfig) -> None:
        super().__init__()
        self.encoder, self.pos_embed = PlainEmbed(config.dim), plain_positions(config.dim)
        self.blocks, self.norm = PlainBlocks(config, config.depth), nn.LayerNorm(config.dim)

    def forward(self, points: Tensor, centers: Tensor, hidden: Tensor) -> Tensor:
        tokens = self.encoder(points)
        B, _, C = tokens.shape
        positions = self.pos_embed(centers[~hidden].reshape(B, -1, 3))
        return self.norm(self.blocks(tokens[~hidden].reshape(B, -1, C), positions))


class PlainDecoder(PlainBlocks):
    def __init__(self, config: PointMaeConfig) -> None:
        super().__init__(config, config.decoder_depth)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, positions: Tensor, num_hidden: int) -> Tensor:
        return self.norm(super().forward(x, positions)[:, -num_hidden:])


class PlainPointMae(nn.Module):
    """Point-MAE as released code writes it, under the released names."""

    def __init__(self, config: PointMaeConfig) -> None:
        super().__init__()
        self.config = config
        self.MAE_encoder, self.MAE_decoder = PlainEncoder(config), PlainDecoder(config)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.decoder_pos_embed = plain_positions(config.dim)
        self.increase_dim = nn.Sequential(nn.Conv1d(config.dim, 3 * config.patch_size, 1))

    def forward(self, clouds: Tensor, hidden: Tensor) -> Tensor:
        centers, points = plain_group(clouds, self.config)
        visible = self.MAE_encoder(points, centers, hidden)
        B, _, C = visible.shape
        position_visible = self.decoder_pos_embed(centers[~hidden].reshape(B, -1, 3))
        position_hidden = self.decoder_pos_embed(centers[hidden].reshape(B, -1, 3))
        H = position_hidden.shape[1]
        tokens = torch.cat([visible, self.mask_token.expand(B, H, -1)], dim=1)
        decoded = self.MAE_decoder(tokens, torch.cat([position_visible, position_hidden], dim=1), H)
        predicted = self.increase_dim(decoded.transpose(1, 2)).transpose(1, 2).reshape(B * H, -1, 3)
        target = points[hidden].reshape(B * H, -1, 3)
        distance = (predicted.unsqueeze(2) - target.unsqueeze(1)).square().sum(-1)
        return distance.min(2).values.mean() + distance.min(1).values.mean()


def plain_positions(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, dim))


@torch.no_grad()
def plain_group(clouds: Tensor, config: PointMaeConfig) -> tuple[Tensor, Tensor]:
    B, N, _ = clouds.shape
    rows = torch.arange(B)
    picked = torch.zeros(B, config.num_patches, dtype=torch.int64)
    nearest = torch.full((B, N), 1e10)
    skipped = clouds.square().sum(-1) <= 1e-3
    for step in range(1, config.num_patches):
        distance = (clouds - clouds[rows, picked[:, step - 1]].unsqueeze(1)).square().sum(-1)
        nearest = torch.minimum(nearest, distance)
        picked[:, step] = nearest.masked_fill(skipped, -1).argmax(1)
    centers = clouds[rows.unsqueeze(1), picked]
    distance = torch.cdist(centers, clouds, compute_mode="donot_use_mm_for_euclid_dist")
    index = distance.topk(config.patch_size, dim=2, largest=False).indices
    return centers, clouds[rows.view(-1, 1, 1), index] - centers.unsqueeze(2)


class Side:
    """One of the two formulations with its optimizer."""

    def __init__(self, name: str, batch: int, lr: float = 1e-3) -> None:
        config = PointMaeConfig()
        torch.manual_seed(0)
        model = PointMae(config)
        if name == "plain":
            weights = to_released(model.state_dict())
            model = PlainPointMae(config)
            model.load_state_dict(weights)
        self.model, self.batch, self.taken = model.train(), batch, 0
        # the fused optimizer is what pc3dcli/train.py takes; the default is what released code takes
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=lr, weight_decay=0.05, fused=True if name == "ours" else None
        )

    def step(self) -> tuple[float, float, float]:
        """Take a training step on the next batch; return its loss, its CPU seconds and the seconds of the clock."""
        generator = torch.Generator().manual_seed(self.taken)
        clouds = surfaces(self.batch, generator)
        hidden = torch.rand(self.batch, 64, generator=generator).argsort(1) < 38
        torch.manual_seed(self.taken)  # drop path
        self.taken += 1
        start, clock = time.process_time(), time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.model(clouds, hidden)
        loss.backward()
        self.optimizer.step()
        return loss.item(), time.process_time() - start, time.perf_counter() - clock


def surfaces(batch: int, generator: torch.Generator) -> Tensor:
    """Draw ellipsoids with a dent: (batch, 1024, 3), unit ball."""
    points = F.normalize(torch.randn(batch, 1024, 3, generator=generator), dim=2)
    points = points * torch.empty(batch, 1, 3).uniform_(0.3, 1, generator=generator)
    points[..., 2] *= 1 - 0.5 * (points[..., :1] > 0.2).squeeze(2)
    points = points - points.mean(1, keepdim=True)
    return points / points.norm(dim=2).amax(1)[:, None, None]


def times(rounds: int, batch: int) -> dict[str, float]:
    """Alternate steps of both sides, after one of each; return the median CPU seconds of a step."""
    sides = {name: Side(name, batch) for name in ("ours", "plain")}
    taken, clock = {name: [] for name in sides}, {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            _, seconds, by_clock = side.step()
            if number:
                taken[name].append(seconds)
                clock[name].append(by_clock)
    clouds = surfaces(batch, torch.Generator().manual_seed(0))
    taken["sampling and grouping"] = []
    for _ in range(rounds):
        start = time.process_time()
        sides["ours"].model.group(clouds)
        taken["sampling and grouping"].append(time.process_time() - start)
    for name, seconds in taken.items():
        print(f"  {name}: median {statistics.median(seconds):.3f} CPU s, " + " ".join(f"{s:.3f}" for s in seconds))
    for name, seconds in clock.items():
        print(f"  {name}: least {min(seconds):.3f} s by the clock, " + " ".join(f"{s:.3f}" for s in seconds))
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def curve(name: str, batch: int, lr: float) -> None:
    """Print the losses of the first steps and the peak memory above what was resident before them."""
    side = Side(name, batch, lr)
    before = _resident_mb()
    losses = [side.step()[0] for _ in range(CURVE_STEPS)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(" ".join(repr(loss) for loss in losses), peak - before)


def _resident_mb() -> float:
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-6, help="of the loss curve (default: the recipe's first epochs)")
    parser.add_argument("--curve", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--no-curve", action="store_true", help="times alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.curve:
        return curve(options.curve, options.batch, options.lr)
    print(f"{options.threads} threads, batch {options.batch}, {options.rounds} rounds")
    median = times(options.rounds, options.batch)
    print(f"  plain / ours: {median['plain'] / median['ours']:.2f} times the samples a CPU second")
    print(f"  sampling and grouping: {100 * median['sampling and grouping'] / median['ours']:.1f} % of our step")
    if options.no_curve:
        return None
    results = {}
    for name in ("ours", "plain"):
        command = [sys.executable, __file__, "--curve", name, "--threads", str(options.threads)]
        command += ["--batch", str(options.batch), "--lr", str(options.lr)]
        results[name] = [float(x) for x in subprocess.check_output(command, text=True).split()]
    *ours, our_peak = results["ours"]
    *plain, plain_peak = results["plain"]
    print(f"  peak memory: ours {our_peak:.0f} MB, plain {plain_peak:.0f} MB, ratio {our_peak / plain_peak:.2f}")
    gaps = [abs(a - b) / b for a, b in zip(ours, plain, strict=True)]
    print(f"  loss at lr {options.lr:g}: {plain[0]:.5f} -> {plain[-1]:.5f} in {CURVE_STEPS} steps")
    print(f"  largest relative difference {max(gaps):.1e}:")
    print("  " + " ".join(f"{gap:.0e}" for gap in gaps))
    return None


if __name__ == "__main__":
    main()
