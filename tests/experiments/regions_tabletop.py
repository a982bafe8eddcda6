# SPDX-License-Identifier: Apache-2.0
"""How well `regions` finds labelled objects: best overlap per object, before and after the containment filter.

    python tests/experiments/regions_tabletop.py ../shared/data            # both labelled recordings
    python tests/experiments/regions_tabletop.py ../shared/data --frames   # one line per frame as well

Even and odd frames are printed apart, so that a setting that only suits one half shows.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from types import SimpleNamespace

import cv2
import numpy as np

from pc3dcli.masks2d.regions import Regions


def tabletop(data: Path) -> Iterator[SimpleNamespace]:
    """Views of rgbd_gt_tabletop with .objects (H, W): tens digit of the label, 0 for table and nothing."""
    K = np.array([[525.0, 0, 319.5], [0, 525.0, 239.5], [0, 0, 1]])
    for path in sorted((data / "rgbd_gt_tabletop").glob("*.label.png")):
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(int)
        yield _view(path, ".label.png", K, 0.001, np.where(label >= 20, label // 10, 0))


def shelf(data: Path) -> Iterator[SimpleNamespace]:
    """Views of rgbd_gt_shelf with .objects (H, W), 0 for none."""
    K = np.loadtxt(data / "rgbd_gt_shelf" / "camera-intrinsics.txt")
    for path in sorted((data / "rgbd_gt_shelf").glob("*.instance.png")):
        yield _view(path, ".instance.png", K, 0.0001, cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(int))


def _view(path: Path, suffix: str, K: np.ndarray, scale: float, objects: np.ndarray) -> SimpleNamespace:
    stem = path.name.removesuffix(suffix)
    bgr = cv2.imread(str(path.with_name(f"{stem}.color.jpg")))
    raw = cv2.imread(str(path.with_name(f"{stem}.depth.png")), cv2.IMREAD_UNCHANGED)
    depth = np.where(raw == 65535, 0, raw).astype(np.float32) * np.float32(scale)
    return SimpleNamespace(
        frame=stem,
        rgb=np.ascontiguousarray(bgr[..., ::-1]),
        depth=depth,
        K=K,
        size=depth.shape,
        world_from_cam=np.eye(4),
        objects=objects,
    )


def keep_larger(masks: list[np.ndarray], contained: float = 0.8) -> list[np.ndarray]:
    """Containment filter of the tracking policy: drop a mask that lies mostly in a kept larger one."""
    kept: list[np.ndarray] = []
    for mask in sorted(masks, key=lambda m: -int(m.sum())):
        if all((mask & other).sum() <= contained * mask.sum() for other in kept):
            kept.append(mask)
    return kept


def best_overlaps(masks: list[np.ndarray], objects: np.ndarray) -> np.ndarray:
    """Best intersection over union per labelled object, in order of label."""
    targets = [objects == number for number in np.unique(objects) if number > 0]
    return np.array([max(((t & m).sum() / (t | m).sum() for m in masks), default=0.0) for t in targets])


def measure(views: Iterator[SimpleNamespace], show_frames: bool = False) -> dict[str, np.ndarray]:
    """Run `Regions` over views; arrays per object (all, kept, odd) and per frame (seconds, count, count_kept)."""
    source, rows = Regions(), {name: [] for name in ("all", "kept", "odd", "seconds", "count", "count_kept")}
    for index, view in enumerate(views):
        start = process_time()
        masks = [m.mask for m in source.masks(view)]
        rows["seconds"].append([process_time() - start])
        kept = keep_larger(masks)
        overlaps, overlaps_kept = best_overlaps(masks, view.objects), best_overlaps(kept, view.objects)
        rows["all"].append(overlaps)
        rows["kept"].append(overlaps_kept)
        rows["odd"].append(np.full(len(overlaps), index % 2))
        rows["count"].append([len(masks)])
        rows["count_kept"].append([len(kept)])
        if show_frames:
            print(view.frame, len(masks), len(kept), "all", overlaps.round(2), "kept", overlaps_kept.round(2))
    return {name: np.concatenate(values) for name, values in rows.items()}


def _print_table(name: str, found: dict[str, np.ndarray]) -> None:
    for half, chosen in (("all frames", found["odd"] >= 0), ("even", found["odd"] == 0), ("odd", found["odd"] == 1)):
        cells = [f"{name:9s} {half:10s} {chosen.sum():4d} objects"]
        for which in ("all", "kept"):
            overlaps = found[which][chosen]
            cells.append(
                f"{which}: mean {overlaps.mean():.3f} recall@.5 {(overlaps >= 0.5).mean():.3f} "
                f"recall@.75 {(overlaps >= 0.75).mean():.3f}"
            )
        print(" | ".join(cells))
    print(
        f"{name:9s} masks a frame {found['count'].mean():.1f}, kept {found['count_kept'].mean():.1f}; "
        f"CPU seconds a frame median {np.median(found['seconds']):.2f}, worst {found['seconds'].max():.2f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--frames", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    _print_table("tabletop", measure(tabletop(options.data), options.frames))
    _print_table("shelf", measure(shelf(options.data), options.frames))


if __name__ == "__main__":
    main()
