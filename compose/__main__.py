"""``python -m compose demo | up | registry``."""

import sys

from compose.cli import main

if __name__ == "__main__":
    sys.exit(main())
