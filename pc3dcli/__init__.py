# SPDX-License-Identifier: Apache-2.0
"""pc3d: from unlabelled or barely labelled 3D scans to labels, weights and comparable scores."""

__version__ = "0.1.0"
