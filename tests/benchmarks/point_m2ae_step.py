# SPDX-License-Identifier: Apache-2.0
"""A Point-M2AE pretraining step against a plain PyTorch formulation of the same mathematics, on the CPU.

    python tests/benchmarks/point_m2ae_step.py [--threads 1] [--rounds 3] [--batch 32]

A step is sampling, grouping, forward, backward and AdamW on 2,048 points a cloud.  The plain side is written from the
definitions the way released code has it: every scale sampled anew, visible tokens packed cloud by cloud, a number of
-1e5 added to the scores of padding, convolutions of width 1 over gathered, interpolated and concatenated channels.
Both start from the same weights and draw the same masks and drop paths, so their losses must agree.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from geomask3d_step import PlainEmbed, PlainMlp, surfaces
from torch import Tensor, nn
from torch.nn import functional as F

from pc3dcli.papers.geomask3d.hierarchy import pack_visible, visible_tokens
from pc3dcli.papers.geomask3d.point_m2ae import PointM2ae, PointM2aeConfig
from pc3dcli.papers.geomask3d.point_m2ae_released import to_released

CONFIG = PointM2aeConfig()


class PlainMerge(nn.Module):
    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(
            nn.Conv1d(fine, fine, 1), nn.BatchNorm1d(fine), nn.ReLU(), nn.Conv1d(fine, fine, 1)
        )
        self.second_conv = nn.Sequential(
            nn.Conv1d(2 * fine, coarse, 1), nn.BatchNorm1d(coarse), nn.ReLU(), nn.Conv1d(coarse, coarse, 1)
        )

    def forward(self, gathered: Tensor) -> Tensor:
        B, G, S, C = gathered.shape
        local = self.first_conv(gathered.reshape(B * G, S, C).transpose(2, 1))
        widest = local.max(dim=2, keepdim=True).values
        both = torch.cat([widest.expand(-1, -1, S), local], dim=1)
        return self.second_conv(both).max(dim=2).values.reshape(B, G, -1)


class PlainAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, x: Tensor, barred: Tensor | None) -> Tensor:
        B, T, C = x.shape
        query, key, value = self.qkv(x).reshape(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        score = query @ key.transpose(-2, -1) * self.scale
        if barred is not None:
            score = score + barred.unsqueeze(1) * -100000.0
        return self.proj((score.softmax(dim=-1) @ value).transpose(1, 2).reshape(B, T, C))


class PlainBlock(nn.Module):
    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1, self.attn = nn.LayerNorm(dim), PlainAttention(dim, CONFIG.heads)
        self.norm2, self.mlp = nn.LayerNorm(dim), PlainMlp(dim)

    def forward(self, x: Tensor, barred: Tensor | None) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x), barred))
        return x + self.drop(self.mlp(self.norm2(x)))

    def drop(self, branch: Tensor) -> Tensor:
        if self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch / keep * (keep + torch.rand(len(branch), 1, 1)).floor()


class PlainBlocks(nn.Module):
    def __init__(self, dim: int, rates: list[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([PlainBlock(dim, rate) for rate in rates])

    def forward(self, x: Tensor, positions: Tensor, barred: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x + positions, barred)
        return x


class PlainEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dims = CONFIG.dims
        merges = [PlainMerge(fine, coarse) for fine, coarse in zip(dims, dims[1:], strict=False)]
        self.token_embed = nn.ModuleList([PlainEmbed(dims[0]), *merges])
        self.encoder_pos_embeds = nn.ModuleList([plain_positions(dim) for dim in dims])
        rates = torch.linspace(0, CONFIG.drop_path, 15).view(3, 5).tolist()
        self.encoder_blocks = nn.ModuleList([PlainBlocks(dim, rate) for dim, rate in zip(dims, rates, strict=True)])
        self.encoder_norms = nn.ModuleList([nn.LayerNorm(dim) for dim in dims])

    def forward(self, scales: list[tuple[Tensor, Tensor, Tensor]], visible: list[Tensor]) -> list[Tensor]:
        """Return the visible tokens of each scale after their norms, one row a token."""
        outputs, tokens = [], None
        for scale, (centers, points, index) in enumerate(scales):
            B, G, _ = centers.shape
            gathered = points if scale == 0 else tokens[torch.arange(B).view(-1, 1, 1), index]
            tokens = self.token_embed[scale](gathered)
            counts = visible[scale].sum(1).tolist()
            packed = torch.zeros(B, max(counts), tokens.shape[2])
            packed_centers = torch.zeros(B, max(counts), 3)
            barred = torch.ones(B, max(counts), max(counts))
            for b, count in enumerate(counts):
                packed[b, :count] = tokens[b, visible[scale][b]]
                packed_centers[b, :count] = centers[b, visible[scale][b]]
                barred[b, :count, :count] = 0
            x = self.encoder_blocks[scale](packed, self.encoder_pos_embeds[scale](packed_centers), barred)
            rows = torch.cat([x[b, :count] for b, count in enumerate(counts)])
            tokens = tokens.clone()
            tokens[visible[scale]] = rows
            outputs.append(self.encoder_norms[scale](rows))
        return outputs


class PlainResidual(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net1 = nn.Sequential(nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim), nn.GELU())
        self.net2 = nn.Sequential(nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.net2(self.net1(x)) + x)


class PlainPropagation(nn.Module):
    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.fuse = nn.Module()
        self.fuse.net = nn.Sequential(nn.Conv1d(fine + coarse, fine, 1), nn.BatchNorm1d(fine), nn.GELU())
        self.extraction = nn.Module()
        self.extraction.operation = nn.Sequential(PlainResidual(fine))

    def forward(self, fine: Tensor, coarse: Tensor, fine_centers: Tensor, coarse_centers: Tensor) -> Tensor:
        distance = (fine_centers.unsqueeze(2) - coarse_centers.unsqueeze(1)).square().sum(-1)
        nearest = distance.sort(dim=2)
        weight = 1 / (nearest.values[..., :3] + 1e-8)
        weight = weight / weight.sum(2, keepdim=True)
        rows = torch.arange(len(fine)).view(-1, 1, 1)
        carried = (coarse[rows, nearest.indices[..., :3]] * weight.unsqueeze(3)).sum(2)
        both = torch.cat([fine, carried], dim=2).transpose(1, 2)
        return self.extraction.operation(self.fuse.net(both)).transpose(1, 2)


class PlainPointM2ae(nn.Module):
    """Point-M2AE as released code writes it (with masks of padding alone), under the released names."""

    def __init__(self) -> None:
        super().__init__()
        _, fine, coarse = CONFIG.dims
        self.h_encoder = PlainEncoder()
        self.mask_token = nn.Parameter(torch.zeros(1, coarse))
        self.h_decoder = nn.ModuleList([PlainBlocks(coarse, [0.0]), PlainBlocks(fine, [CONFIG.drop_path])])
        self.decoder_pos_embeds = nn.ModuleList([plain_positions(coarse), plain_positions(fine)])
        self.token_prop = nn.ModuleList([PlainPropagation(fine, coarse)])
        self.decoder_norm, self.rec_head = nn.LayerNorm(fine), nn.Conv1d(fine, 3 * CONFIG.num_predicted, 1)

    def forward(self, clouds: Tensor, hidden: Tensor) -> Tensor:
        scales, visible = plain_group(clouds), [~hidden]
        for (finer, _, _), (_, _, index) in zip(scales[1::-1], scales[:0:-1], strict=True):
            lit = torch.zeros(finer.shape[:2], dtype=torch.bool)
            for b in range(len(hidden)):
                lit[b, index[b][visible[0][b]].flatten()] = True
            visible.insert(0, lit)
        _, middle, coarse = self.h_encoder(scales, visible)
        B, G = hidden.shape
        (centers, points, _), (top, _, _) = scales[1], scales[2]
        ordered = torch.cat([top[~hidden].view(B, -1, 3), top[hidden].view(B, -1, 3)], dim=1)
        H = int(hidden[0].sum())
        x = torch.cat([coarse.view(B, G - H, -1), self.mask_token.expand(B, H, -1)], dim=1)
        x = self.h_decoder[0](x, self.decoder_pos_embeds[0](ordered))
        fine = torch.zeros(*visible[1].shape, middle.shape[1])
        fine[visible[1]] = middle
        x = self.token_prop[0](fine, x, centers, ordered)
        x = self.decoder_norm(self.h_decoder[1](x, self.decoder_pos_embeds[1](centers)))
        predicted = self.rec_head(x[~visible[1]].unsqueeze(2)).view(-1, CONFIG.num_predicted, 3)
        distance = (predicted.unsqueeze(2) - points[~visible[1]].unsqueeze(1)).square().sum(-1)
        return distance.min(2).values.mean() + distance.min(1).values.mean()


def plain_positions(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, dim), nn.GELU(), nn.Linear(dim, dim))


@torch.no_grad()
def plain_group(clouds: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    scales, rows = [], torch.arange(len(clouds))
    for count, size in zip(CONFIG.scale_patches, CONFIG.patch_sizes, strict=True):
        picked = torch.zeros(len(clouds), count, dtype=torch.int64)
        nearest = torch.full(clouds.shape[:2], 1e10)
        skipped = clouds.square().sum(-1) <= 1e-3
        for step in range(1, count):
            distance = (clouds - clouds[rows, picked[:, step - 1]].unsqueeze(1)).square().sum(-1)
            nearest = torch.minimum(nearest, distance)
            picked[:, step] = nearest.masked_fill(skipped, -1).argmax(1)
        centers = clouds[rows.unsqueeze(1), picked]
        distance = torch.cdist(centers, clouds, compute_mode="donot_use_mm_for_euclid_dist")
        index = distance.topk(size, dim=2, largest=False).indices
        scales.append((centers, clouds[rows.view(-1, 1, 1), index] - centers.unsqueeze(2), index))
        clouds = centers
    return scales


class Side:
    """One of the two formulations with its optimizer."""

    def __init__(self, name: str, batch: int) -> None:
        torch.manual_seed(0)
        model = PointM2ae(CONFIG)
        if name == "plain":
            weights = to_released(model.state_dict())
            model = PlainPointM2ae()
            model.load_state_dict(weights)
        self.model, self.batch, self.taken = model.train(), batch, 0
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)

    def step(self) -> tuple[float, float]:
        """Take a training step on the next batch; return its loss and its CPU seconds."""
        clouds, hidden = draw(self.batch, self.taken)
        torch.manual_seed(self.taken)  # drop path
        self.taken += 1
        start = time.process_time()
        self.optimizer.zero_grad()
        loss = self.model(clouds, hidden)
        loss.backward()
        self.optimizer.step()
        return loss.item(), time.process_time() - start


def draw(batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return clouds (batch, 2048, 3) and hidden (batch, 64)."""
    generator = torch.Generator().manual_seed(seed)
    clouds = torch.cat([surfaces(batch, generator) for _ in range(2)], dim=1)
    return clouds, torch.rand(batch, 64, generator=generator).argsort(1).argsort(1) < 51


def parts(model: PointM2ae, batch: int) -> None:
    """Print the CPU seconds of the stages of our forward."""
    clouds, hidden = draw(batch, 0)
    clock = [time.process_time()]

    def lap(name: str) -> None:
        clock.append(time.process_time())
        print(f"  {name}: {clock[-1] - clock[-2]:.3f} CPU s")

    groups = model.group(clouds)
    lap("sampling and grouping")
    tokens = model.embed(groups)
    lap("patch embedding, forward")
    encoded = model.encode(groups, hidden, tokens)
    lap("rest of the encoder, forward")
    model.decode(groups, hidden, encoded)
    lap("decoder, forward")
    tokens.sum().backward()
    lap("patch embedding, backward")
    slots = [packing.index.shape[1] for packing in pack_visible(visible_tokens(groups, hidden))]
    print(f"  slots a scale: {slots}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, batch {options.batch}, {options.rounds} rounds")
    sides = {name: Side(name, options.batch) for name in ("ours", "plain")}
    taken = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        results = {name: side.step() for name, side in sides.items()}
        gap = abs(results["ours"][0] / results["plain"][0] - 1)
        print(f"  step {number}: loss {results['ours'][0]:.6f}, relative difference {gap:.0e}", flush=True)
        for name, (_, seconds) in results.items():
            taken[name] += [seconds] if number else []
    median = {name: statistics.median(seconds) for name, seconds in taken.items()}
    for name, seconds in taken.items():
        print(f"  {name}: median {median[name]:.2f} CPU s, " + " ".join(f"{s:.2f}" for s in seconds))
    print(f"  plain / ours: {median['plain'] / median['ours']:.2f} times the samples a CPU second")
    parts(sides["ours"].model, options.batch)


if __name__ == "__main__":
    main()
