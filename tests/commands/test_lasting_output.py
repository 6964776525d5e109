import os
import pty
import signal
import threading

import pytest

from paddle_xc2.commands.lasting_output import LastingOutput, outliving_the_terminal


def test_a_reader_that_leaves():
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        output = LastingOutput(stream)
        output.write("seen\n")
        output.flush()
        assert os.read(reader, 100) == b"seen\n"
        os.close(reader)
        for _ in range(3):
            assert output.write("x" * 100_000) == 100_000
            output.flush()
        assert output.encoding == stream.encoding and output.lasts


def test_a_terminal_that_is_closed():
    terminal, other_end = pty.openpty()
    with os.fdopen(other_end, "w") as stream:
        output = LastingOutput(stream)
        os.close(terminal)
        output.write("lost\n")
        output.flush()


def test_a_full_disk_is_told():
    stream = open("/dev/full", "w")
    output = LastingOutput(stream)
    output.write("x")
    with pytest.raises(OSError, match="No space left"):
        output.flush()
    with pytest.raises(OSError):
        stream.close()


def test_a_hangup_is_not_heeded():
    before = signal.getsignal(signal.SIGHUP)
    with outliving_the_terminal():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == before


def test_only_the_main_thread_can_see_to_that():
    failed = []

    def work():
        with outliving_the_terminal():
            failed.append(False)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == [False]
