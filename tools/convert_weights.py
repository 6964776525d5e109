#!/usr/bin/env python3
"""The same as `paddle-xc2 convert`."""

import sys

from paddle_xc2.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
