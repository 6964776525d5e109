"""Paddle and PaddleNLP tried in another process."""

import json
import sys

from paddle_xc2.installation import probe
from paddle_xc2.installation.probe import PROBE_MARK, run_probe


def probe_with(monkeypatch, program):
    """What `run_probe` makes of a probe that is `program`."""
    run = probe.subprocess.run
    monkeypatch.setattr(
        probe.subprocess, "run", lambda command, **settings: run([sys.executable, "-c", program], **settings)
    )
    return run_probe()


def test_probe_that_crashes_keeps_what_it_found(monkeypatch):
    mark = PROBE_MARK
    program = f"""import os, json
print("noise")
print({mark!r} + json.dumps({{"paddle": {{"device": "cpu"}}}}), flush=True)
os.kill(os.getpid(), 4)"""
    assert probe_with(monkeypatch, program) == {
        "paddle": {"device": "cpu"},
        "paddlenlp": {"error": "the process was ended by signal 4"},
    }


def test_probe_that_hangs(monkeypatch):
    monkeypatch.setattr(probe, "PROBE_SECONDS", 0.5)
    found = probe_with(monkeypatch, "import time; time.sleep(60)")
    assert found["paddle"] == {"error": "it was still running after 0.5 s"}


def test_probe_reports_what_an_import_says(monkeypatch, capsys):
    def fail():
        raise ImportError("first line\nsecond line")

    monkeypatch.setattr(probe, "probe_paddle", fail)
    monkeypatch.setattr(probe, "probe_paddlenlp", lambda: {"version": "1"})
    probe.probe()
    lines = [json.loads(line.removeprefix(PROBE_MARK)) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["paddle"]["error"] == "ImportError: first line"
    assert lines[1]["paddlenlp"]["version"] == "1"


def test_real_probe():
    found = run_probe()
    assert found["paddle"]["gflops"] > 0 and found["paddlenlp"]["version"] == "3.0.0b4"
