# SPDX-License-Identifier: Apache-2.0
"""Where `pc3d` and `python -m pc3dcli` start: Ctrl-C ends the program silently from the first moment on.

Until the modules of the program are loaded there is nothing to clean up, and Python itself would show a traceback.
"""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the program."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the shell wants it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pc3dcli.main import main as run

    run()


if __name__ == "__main__":
    main()
