#!/usr/bin/env bash
# Trains the network that `pc3d segment` uses without --weights: the README's curriculum of scenes with other numbers.
export OMP_NUM_THREADS=1
set -euo pipefail
pc3d demo --rooms 48 --out rooms/
printf '%s\n' voxel=0.1 stem=16 'planes=[16,24,32,48,48,32,24,24]' 'depths=[1,1,1,1,1,1,1,1]' dim=48 heads=4 ffn_dim=128 \
  num_queries=40 'sampled_voxels=[100,200,400,800]' max_voxels=10000 \
  query_features=true place_waves=32 gray_share=0.2 thin=0.5 lr=0.002 clip=1 batch_size=1 > small.toml
learn="pc3d distill --method instances --config small.toml"

pc3d track2d rooms/train --masks oracle --propagate none | pc3d lift3d --per-view --out views/
w=$($learn views/ -D epochs=4 --out runs/1)

pc3d track2d rooms/train --masks oracle | pc3d lift3d --out labels/
w=$($learn rooms/train --labels labels/ --init "$w" -D partial_share=0.8 -D epochs=60 --out runs/2)

pc3d segment rooms/train --weights "$w" -D max_overlap=0.5 --out own/
pc3d pseudo-label own/ --out sure/
w=$($learn rooms/train --labels sure/ --init "$w" -D class_weight=0 -D min_points=50 -D epochs=15 --out runs/3)

pc3d segment rooms/test --weights "$w" -D max_overlap=0.5 --out found/
pc3d eval found/ --class-agnostic --gt rooms/test
pc3d view found/ --out pictures/
