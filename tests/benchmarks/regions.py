# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of `regions` per 640 x 480 frame, decoding excluded: python tests/benchmarks/regions.py ../shared/data"""

import os
import sys
from pathlib import Path
from time import process_time
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from pc3dcli.masks2d.regions import Regions  # noqa: E402


def main() -> None:
    """Time every tenth stored frame of rgbd_redkitchen once and print median, worst and masks per frame."""
    folder = Path(sys.argv[1]) / "rgbd_redkitchen"
    cv2.setNumThreads(1)
    K, source, seconds, counts = np.loadtxt(folder / "camera-intrinsics.txt"), Regions(), [], []
    for path in sorted(folder.glob("*.color.jpg"))[::10]:
        raw = cv2.imread(str(path).replace(".color.jpg", ".depth.png"), cv2.IMREAD_UNCHANGED)
        depth = np.where(raw == 65535, 0, raw).astype(np.float32) / 1000
        view = SimpleNamespace(rgb=np.ascontiguousarray(cv2.imread(str(path))[..., ::-1]), depth=depth, K=K)
        start = process_time()
        counts.append(len(source.masks(view)))
        seconds.append(process_time() - start)
    print(
        f"{len(seconds)} frames: median {np.median(seconds):.3f}, mean {np.mean(seconds):.3f}, "
        f"worst {max(seconds):.3f} CPU seconds a frame; {np.mean(counts):.0f} masks a frame"
    )


if __name__ == "__main__":
    main()
