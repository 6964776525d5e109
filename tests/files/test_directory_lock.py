import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from paddle_xc2.files import directory_lock
from paddle_xc2.files.directory_lock import locked
from tests.conftest import ROOT

HOLDS = """
import sys, time
from paddle_xc2.files.directory_lock import locked
with locked(sys.argv[1]):
    print(1, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of tmp_path/out."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path / "out")], cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_tells_who_holds_it(other, tmp_path):
    with pytest.raises(ValueError) as caught, locked(tmp_path / "out"):
        pass
    assert str(caught.value).startswith(f"{tmp_path}/out: another process is writing it (process {other.pid} on ")
    assert f"on {socket.gethostname()}, since 20" in str(caught.value)
    assert str(caught.value).endswith("); wait for its end, or give another name")


def test_a_dead_owner_is_no_obstacle(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert names(tmp_path) == [".paddle_xc2-lock-out"]
    with locked(tmp_path / "out"):
        assert json.loads((tmp_path / ".paddle_xc2-lock-out").read_text())["pid"] == os.getpid()
    assert names(tmp_path) == []


def test_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "not" / "there" / "out"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_what_lies_within_is_locked_too(tmp_path):
    with locked(tmp_path), locked(tmp_path / "a"), locked(tmp_path / "a" / "b"):
        assert names(tmp_path) == []
        with pytest.raises(ValueError, match="another process is writing it"), locked(tmp_path):
            pass
    with locked(tmp_path / "run", whole_run=True), locked(tmp_path / "run"):
        pass


def test_a_forked_child_does_not_keep_it(tmp_path):
    """A data worker may outlive its parent for a moment."""
    reader, writer = os.pipe()
    with locked(tmp_path / "out"):
        child = os.fork()
        if not child:
            os.read(reader, 1)
            os._exit(0)
    with locked(tmp_path / "out"):
        pass
    os.write(writer, b"x")
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)


def test_a_folder_on_a_disk_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("os.path.ismount", lambda path: True)
    with locked(tmp_path):
        assert names(tmp_path) == [".paddle_xc2-lock"]
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("owner", "may_be_alive"),
    [
        (None, False),
        ({"pid": os.getpid(), "host": socket.gethostname(), "since": "then"}, True),
        ({"pid": 2**22 + 1, "host": socket.gethostname(), "since": "then"}, False),
        ({"pid": 1, "host": "elsewhere", "since": "then"}, True),
        ({"pid": 1}, False),
    ],
)
def test_file_systems_without_locks(tmp_path, monkeypatch, owner, may_be_alive):
    def flock(*args):
        raise OSError(45, "Operation not supported")

    monkeypatch.setattr(directory_lock.fcntl, "flock", flock)
    if owner is not None:
        (tmp_path / ".paddle_xc2-lock-out").write_text(json.dumps(owner))
    if may_be_alive:
        with pytest.raises(ValueError, match="since then.*; if it has ended, delete .*/.paddle_xc2-lock-out"):
            with locked(tmp_path / "out"):
                pass
    else:
        with locked(tmp_path / "out"):
            pass


def test_where_no_lock_can_be_made(tmp_path):
    """What is written there will tell."""
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), locked(tmp_path / "file" / "out"):
        (tmp_path / "file" / "out").mkdir()
