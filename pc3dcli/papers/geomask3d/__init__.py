# SPDX-License-Identifier: Apache-2.0
"""GeoMask3D (arXiv 2405.12419) and the masked autoencoders it builds on, Point-MAE and Point-M2AE.

The base models are `point_mae.py` and `point_m2ae.py`, heads and released names beside them; `gm3d.py` trains either.
"""
