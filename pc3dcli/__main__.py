# SPDX-License-Identifier: Apache-2.0
"""`python -m pc3dcli` is `pc3d`."""

from pc3dcli.main import main

main()
