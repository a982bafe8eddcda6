# SPDX-License-Identifier: Apache-2.0
"""The superpoints of a scene's cloud."""

from __future__ import annotations

import numpy as np

from pc3dcli.formats.cloud import Cloud
from pc3dcli.geometry.superpoints import cloud_superpoints, mesh_superpoints


def superpoints(cloud: Cloud, known: np.ndarray) -> np.ndarray:
    """Return the superpoint of each finite point: over the mesh where there is one, else over nearest neighbours."""
    if cloud.faces is not None and len(cloud.faces):
        return mesh_superpoints(np.nan_to_num(cloud.xyz), cloud.faces)[known]
    return cloud_superpoints(cloud.xyz[known], None if cloud.normal is None else cloud.normal[known])
