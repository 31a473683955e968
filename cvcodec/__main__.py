"""The program, as `cvcodec` and as `python -m cvcodec`.

Owns: an interrupt while the command line itself is being imported, before `cvcodec.cli.app` can deal with it.
"""

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """The console script."""
    try:
        from cvcodec.cli.app import main as program
    except KeyboardInterrupt:
        sys.stderr.write("cvcodec: error: interrupted\n")
        sys.stderr.flush()
        os._exit(130)
    program()


if __name__ == "__main__":
    main()
