#!/bin/sh
# The main job end to end, on the CPU, with all of its own set-up:  sh examples/quickstart.sh [--setup-only] [ARGUMENTS]
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/tools/setup_venv.sh"
(setup_venv)
if [ "${1:-}" = --setup-only ]; then
    echo "Ready: $VENV"
    exit
fi
exec "$VENV/bin/python" "$ROOT/examples/quickstart.py" "$@"
