# SPDX-License-Identifier: Apache-2.0
"""Class-agnostic 3D segmentation from granularity-consistent 2D mask tracking (arXiv 2511.00785).

`policy.py` and `containment.py` turn masks of single frames into tracks; the other files lift tracks to 3D instances.
"""
