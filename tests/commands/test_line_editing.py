import os
import pty
import subprocess
import sys
import time

import pytest

from paddle_xc2.commands.line_editing import completions, prepare

COMMANDS = ["/exit", "/image"]


def test_completions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("photos/a cat.png", "photos/[b].png"):
        (tmp_path / name).touch()
    assert completions("/i", COMMANDS, "/image") == ["/image "] and completions("", COMMANDS, "/image") == []
    assert completions("/image ph", COMMANDS, "/image") == ["/image photos/"]
    assert completions("/image photos/a", COMMANDS, "/image") == ["/image photos/a cat.png"]
    assert completions("/image photos/[", COMMANDS, "/image") == ["/image photos/[b].png"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert completions("/image ~/ph", COMMANDS, "/image") == [f"/image {tmp_path}/photos/"]
    assert completions("What", COMMANDS, "/image") == []


def test_nothing_is_done_where_nobody_types(tmp_path):
    prepare(COMMANDS, "/image", tmp_path / "history")
    assert not (tmp_path / "history").exists()


@pytest.mark.parametrize("writable", [True, False])
def test_at_a_terminal(tmp_path, root, writable):
    """Tab completes; the line before comes back, also in the next process. Without a history file it still works."""
    pytest.importorskip("readline")
    history = tmp_path / "cache" / "history"
    if not writable:
        history.parent.write_text("a file in the way")
    program = (
        "from pathlib import Path; from paddle_xc2.commands.line_editing import prepare; "
        f"prepare(['/image', '/exit'], '/image', Path({str(history)!r})); print([input('you> ') for _ in range(2)])"
    )

    def typed(keys):
        parent, child = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "INPUTRC": "/dev/null", "PYTHONPATH": str(root)}
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=child, stdout=child, stderr=child, env=environment
        )
        os.close(child)
        seen = b""
        for key in keys:
            while seen.count(b"you> ") < keys.index(key) + 1:
                seen += os.read(parent, 1000)
            os.write(parent, key)
        process.wait(20)
        time.sleep(0.05)
        seen += os.read(parent, 10000)
        os.close(parent)
        return seen.decode().splitlines()[-1]

    assert typed([b"/im\tx\n", b"\x10\n"]) == "['/image x', '/image x']"  # Ctrl-P: the line before
    if writable:
        assert typed([b"\x10\n", b"b\n"]) == "['/image x', 'b']"
