# SPDX-License-Identifier: Apache-2.0
"""Ground truth of 3D instances of any data set: for each scene one id a point, label * 1000 + instance.

ScanNet's text files and annotations (`formats.scannet_instances`, `formats.scannet_aggregation`), and the annotations
of the layouts that have their own: ScanNet++, S3DIS, Replica, labelled PLY files.  Labels of ScanNet are those of its
label map; other data sets name their classes, which have the ids of a class list or `class_lists.UNLISTED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from pc3dcli.datasets import LAYOUTS, cloud_file, open_scenes, replica, s3dis, scannetpp
from pc3dcli.datasets.scene import SceneRef
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats import scannet_instances
from pc3dcli.formats.scannet_aggregation import SUFFIX, Annotations

ANNOTATED = (scannetpp, s3dis, replica)  # layouts with annotations of their own, beside labelled clouds


class InstanceTruth:
    """The ground truth below a folder, by scene; files are found at once and read when asked for.

    source   folder or file as given; names of files in digests are relative to it, or to its folder
    files    of each scene, the first of which is the one to name in messages
    by_name  whether its classes are names, which only a class list makes numbers
    """

    def __init__(self, source: Path, column: str, label_ids: Mapping[str, int]) -> None:
        """Find the scenes.

        column     of ScanNet's label map, see `scannet_aggregation.read_label_map`
        label_ids  of the names of other data sets' classes, in lower case
        raises     InputError naming what was tried when there is none
        """
        self.source = source
        self._folder = source if source.is_dir() else source.parent
        self._label_ids = label_ids
        self._annotations = Annotations(self._folder, column)
        self._refs = _annotated_scenes(source, ANNOTATED)
        texts = {} if self._refs else scannet_instances.find_truth(source)
        self._refs = self._refs or ({} if texts else _annotated_scenes(source, (cloud_file,)))
        self.by_name = bool(self._refs)
        self.files = {scene: LAYOUTS[ref.dataset].truth_files(ref.path) for scene, ref in self._refs.items()}
        self.files |= {scene: (path,) for scene, path in texts.items()}
        if not self.files:
            hint = "or ScanNet++, S3DIS, Replica with their annotations, or PLY files with instance_id"
            tried = ", ".join(scannet_instances.TRUTH_PATTERNS)
            raise InputError(f"no ground truth; tried {tried}", file=source, hint=hint)

    def ids(self, scene: str) -> np.ndarray:
        """Read the ids of a scene, (N,) int64, 0 or negative for none; raises FormatError and InputError."""
        if self.by_name:
            ref = self._refs[scene]
            return LAYOUTS[ref.dataset].instance_ids(ref.path, self._label_ids)
        (path,) = self.files[scene]
        return self._annotations.instance_ids(path) if self.is_scannet(scene) else scannet_instances.read_truth(path)

    def is_scannet(self, scene: str) -> bool:
        """Tell whether a scene has the annotations of ScanNet, whose labels are those of its label map."""
        return self.files[scene][0].name.endswith(SUFFIX)

    def digest_files(self, scene: str) -> dict[str, Path]:
        """Return the files that say what the points of a scene are, by the names that digests know them by."""
        if not self.by_name and self.is_scannet(scene):
            return self._annotations.files(self.files[scene][0])
        return {file.relative_to(self._folder).as_posix(): file for file in self.files[scene]}


def _annotated_scenes(source: Path, layouts: tuple[ModuleType, ...]) -> dict[str, SceneRef]:
    """Return the scenes that are of some layouts and have annotations, by name."""
    try:
        refs = open_scenes(source)
    except (InputError, FormatError):  # no scans, or clouds of one name beside text files, which are the truth then
        return {}
    of_layout = [(LAYOUTS[ref.dataset], ref) for ref in refs]
    found = [ref for layout, ref in of_layout if layout in layouts and layout.truth_files(ref.path)]
    return {ref.scene: ref for ref in sorted(found, key=lambda ref: ref.scene)}
