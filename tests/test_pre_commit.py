"""What is checked before a commit is what tests/run.sh checks before it tests."""

import re

from tests.conftest import ROOT


def test_the_hooks_run_what_ci_runs():
    script = (ROOT / "tests/run.sh").read_text(encoding="utf-8")
    checks = [re.sub(r'^"\$VENV/bin/(\w+)"', r".venv/bin/\1", line) for line in script.splitlines()]
    checks = [line for line in checks if line.startswith(".venv/bin/")]
    hooks = re.findall(r"^ +entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(checks) >= 2 and hooks == checks
