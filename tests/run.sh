#!/bin/sh
# The whole test suite, with all of its own set-up:  sh tests/run.sh [--setup-only] [PYTEST ARGUMENTS]
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/tools/setup_venv.sh"
(setup_venv)
if [ "${1:-}" = --setup-only ]; then
    echo "Ready: $VENV"
    exit
fi
cd "$ROOT"
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
exec "$VENV/bin/python" -m pytest "$@"
