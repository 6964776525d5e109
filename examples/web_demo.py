#!/usr/bin/env python3
"""Asks a model in the browser: `paddle-xc2 web`, with the same arguments."""

import sys
from pathlib import Path

# The checkout's root in place of this folder: works without an installation, and nothing here hides a package's name.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from paddle_xc2.cli import main

    sys.exit(main(["web", *sys.argv[1:]]))
