# The virtual environment of the checkout: made once, with the exact packages of requirements.lock, then reused.
# For tests/run.sh and examples/quickstart.sh, which set ROOT to the checkout's folder, read this file with `.` and call
# setup_venv; VENV is then the environment's folder. PYTHON names the interpreter to make it with.

VENV=$ROOT/.venv
READY=$VENV/paddle_xc2_ready            # what the environment was made from, and where
UNFINISHED=$VENV/paddle_xc2_unfinished  # the process that is making it, or was when it was cut off

fail() {
    echo "$*" >&2
    exit 1
}

is_supported() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

version_of() {
    "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || :
}

find_python() {
    for PYTHON in python3.12 python3.11 python3.10 python3 python; do
        if is_supported "$PYTHON"; then
            return
        fi
    done
    fail "There is no CPython 3.10, 3.11 or 3.12 with pip and venv; install one (on Debian and Ubuntu: python3-venv too)," \
        "or set PYTHON to its path."
}

pip_install() {
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps "$@"
}

# The scripts of an environment that was moved point to where it was.
is_moved() {
    [ -e "$READY" ] && [ "$(tail -n 1 "$READY")" != "$VENV" ]
}

# Leaves $VENV if it is whole; takes it away if we made it and it is not; stops at somebody else's that can't serve.
inspect_venv() {
    installer=$(cat "$UNFINISHED" 2>/dev/null || :)
    if [ -n "$installer" ] && kill -0 "$installer" 2>/dev/null; then
        fail "$VENV is being set up by process $installer; wait for it, or remove $UNFINISHED if that is another program."
    fi
    current=$(version_of "$VENV/bin/python")
    asked=${PYTHON:+$(version_of "$PYTHON")}
    if [ "$current" = "${asked:-$current}" ] && is_supported "$VENV/bin/python" && [ ! -e "$UNFINISHED" ] && ! is_moved; then
        return
    fi
    if [ ! -e "$UNFINISHED" ] && [ ! -e "$READY" ]; then
        fail "$VENV was not made by this script and does not hold a working Python ${asked:-3.10-3.12}; move it away."
    fi
    echo "Making .venv anew: the one here is unfinished, was moved, or has another Python."
    rm -rf "$VENV"
}

setup_venv() {
    if [ -n "${PYTHON:-}" ] && ! is_supported "$PYTHON"; then
        fail "PYTHON=$PYTHON is no CPython 3.10, 3.11 or 3.12 with pip and venv; set it to one that is."
    fi
    wanted=$(cat "$ROOT/requirements.lock" "$ROOT/setup.py" | cksum && echo "$VENV")
    if [ -d "$VENV" ]; then
        inspect_venv
    fi
    if [ "$(cat "$READY" 2>/dev/null || :)" = "$wanted" ]; then
        return
    fi
    if [ ! -d "$VENV" ]; then
        [ -n "${PYTHON:-}" ] || find_python
        echo "Making $VENV with Python $(version_of "$PYTHON")."
        mkdir "$VENV"
        echo $$ >"$UNFINISHED"
        "$PYTHON" -m venv "$VENV"
    elif [ -e "$READY" ]; then
        echo $$ >"$UNFINISHED"
        rm "$READY"
    fi
    echo "Installing the $(grep -c == "$ROOT/requirements.lock") packages of requirements.lock: 0.4 GB to fetch, 1.8 GB on disk."
    cd "$ROOT"
    # The constraint holds for the packages that build the two without a wheel, too. Bytecode is compiled apart: on all
    # cores, and not that of the packages' own tests.
    PIP_CONSTRAINT=requirements.lock pip_install --no-compile --use-pep517 --requirement requirements.lock
    "$VENV/bin/python" -W ignore -m compileall -q -j 0 -x '/tests?/' "$VENV/lib" >/dev/null || : # some files are templates
    pip_install --no-build-isolation --editable .
    echo "$wanted" >"$READY"
    rm -f "$UNFINISHED"
}
