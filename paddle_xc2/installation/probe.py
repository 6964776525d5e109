"""Paddle and PaddleNLP tried in a process of their own, which may fail, hang or crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import paddle_xc2
from paddle_xc2 import runtime

PROBE_MARK = "paddle_xc2 probe: "
PROBE_SECONDS = 180


def run_probe() -> dict[str, dict]:
    """Runs `probe()` in a process of its own.

    Returns: "paddle" and "paddlenlp" -> their facts, or {"error": a line}.
    """
    checkout = str(Path(paddle_xc2.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (checkout, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "paddle_xc2.installation.probe"]
    end = f"it was still running after {PROBE_SECONDS} s"
    try:
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=PROBE_SECONDS
        )
        output, end = done.stdout, f"the process ended with status {done.returncode}"
        if done.returncode < 0:
            end = f"the process was ended by signal {-done.returncode}"  # 4 on a CPU without AVX, 9 without memory
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b"").decode(errors="replace")
    facts = {}
    for line in output.splitlines():
        if line.startswith(PROBE_MARK):
            facts.update(json.loads(line.removeprefix(PROBE_MARK)))
    return {"paddle": {"error": end}, "paddlenlp": {"error": end}, **facts}


def probe() -> None:
    """Tries Paddle, then PaddleNLP, and prints what it found as marked lines of JSON."""
    for name, examine_library in (("paddle", probe_paddle), ("paddlenlp", probe_paddlenlp)):
        start = time.perf_counter()
        try:
            found = examine_library()
        except Exception as error:  # whatever it is, it is what the user wants to know
            found = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
        found["seconds"] = time.perf_counter() - start
        print(PROBE_MARK + json.dumps({name: found}), flush=True)


def probe_paddle() -> dict:
    """Device and settings as `runtime.prepare()` decides them, and the speed of a product under them."""
    settings = runtime.prepare()
    import paddle

    side = 2048
    matrix = paddle.ones([side, side])
    seconds = []
    for _ in range(4):  # the first ones warm up
        start = time.perf_counter()
        paddle.matmul(matrix, matrix)[0, 0].item()
        seconds.append(time.perf_counter() - start)
    speed = 2 * side**3 / min(seconds) / 1e9
    lines = [*settings.lines(), f"float32 product of {side} x {side}: {speed:,.0f} GFLOP/s"]
    return {"device": settings.device, "lines": lines, "gflops": speed}


def probe_paddlenlp() -> dict:
    import paddlenlp
    from paddlenlp.trainer import Trainer  # noqa: F401  (imports nearly everything that can be missing)

    return {"version": paddlenlp.__version__}


if __name__ == "__main__":
    probe()
