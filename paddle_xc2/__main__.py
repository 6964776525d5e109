"""`python -m paddle_xc2`: the console command `paddle-xc2`."""

import sys

from paddle_xc2.cli import main

if __name__ == "__main__":
    sys.exit(main())
