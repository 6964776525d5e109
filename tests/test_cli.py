import errno
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import paddle_xc2
from paddle_xc2 import cli
from paddle_xc2.commands.typed_names import COMMANDS_INSTEAD, OPTIONS_INSTEAD, with_underscores
from tests.conftest import ROOT


@pytest.fixture
def command(monkeypatch):
    """A command `try` whose `run` the test gives; returns a function that runs it and gives the exit status."""
    module = ModuleType("paddle_xc2.commands.try")
    module.HELP, module.EXAMPLE = "try something", "paddle-xc2 try 1"
    module.add_arguments = lambda parser: parser.add_argument("--number", type=int, default=0)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cli, "COMMANDS", ("try",))
    monkeypatch.delenv("PADDLE_XC2_TRACEBACK", raising=False)

    def main(run, *arguments):
        module.run = run
        return cli.main(["try", *arguments])

    return main


def raising(error):
    def run(args):
        raise error

    return run


def test_exit_status_is_the_commands(command, capsys):
    assert command(lambda args: args.number, "--number", "1") == 1
    assert command(lambda args: args.number) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error", [ValueError("a: b; do c"), FileNotFoundError("a: b; do c"), PermissionError("a: b; do c")]
)
def test_a_users_mistake_is_one_line_and_exit_2(command, capsys, error):
    assert command(raising(error)) == 2
    assert capsys.readouterr().err == "paddle-xc2 try: a: b; do c\n"


@pytest.mark.parametrize(
    "error, told",
    [
        (OSError(errno.ENAMETOOLONG, "Long", "a"), "a: the name is too long; give another path"),
        (OSError(errno.ENOENT, "None", "a"), "a: there is no such file or folder; give another path"),
        (OSError(errno.EACCES, "Denied", "a"), "a: permission denied; give another path"),
        (RuntimeError("Symlink loop from 'a'"), "'a': its links lead in a circle; give another path"),
        (ValueError("embedded null byte"), "a path holds a NUL character, which no file's name can; correct it"),
    ],
)
def test_what_is_no_path_is_a_users_mistake(command, capsys, error, told):
    assert command(raising(error)) == 2
    assert capsys.readouterr().err == f"paddle-xc2 try: {told}\n"


def test_a_current_folder_that_was_deleted(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert command(lambda args: 0) == 2
    assert capsys.readouterr().err == (
        "paddle-xc2 try: the current folder was deleted; change to another one (cd), and begin again\n"
    )


def test_errors_and_results_do_not_steer_the_terminal(command, capsys):
    assert command(lambda args: print("a\x1b[2Jb") or 0) == 0
    assert command(raising(ValueError("a\x1b[2Jb\n" + "c" * 100_000))) == 2
    out, err = capsys.readouterr()
    assert out == "a\\x1b[2Jb\n"
    assert err.startswith("paddle-xc2 try: a\\x1b[2Jb\nccc") and len(err) < 3000


def test_interruption_is_one_line_and_exit_130(command, capsys):
    assert command(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "paddle-xc2 try: stopped by Ctrl-C\n"


def test_interruption_of_an_import(command, capsys):
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    assert command(raising(error)) == 130
    assert capsys.readouterr().err == "paddle-xc2 try: stopped by Ctrl-C\n"


def test_broken_installation_points_to_doctor(command, capsys):
    assert command(raising(ImportError("cannot import name 'download'"))) == 1
    error = capsys.readouterr().err
    assert error.startswith("paddle-xc2 try: cannot import name 'download'\n") and "paddle-xc2 doctor" in error
    assert "Traceback" not in error


def test_help_of_a_command_in_a_broken_installation(command, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["paddle_xc2.commands.try"], "add_arguments", raising(ImportError("no NumPy")))
    assert command(lambda args: 0) == 1
    assert capsys.readouterr().err.startswith("paddle-xc2 try: no NumPy\n")


@pytest.mark.parametrize(
    "error, told",
    [
        ((errno.ENOSPC, "Full", "a.json"), "a.json: Full; make room there, or write to another disk"),
        ((errno.EFBIG, "Full", "a.json", None, "b.json"), "b.json: Full; make room there, or write to another disk"),
        ((errno.EDQUOT, "Full"), "the output: Full; make room there, or write to another disk"),
        ((errno.EROFS, "Read-only", "a.json"), "a.json: Read-only; mend the disk, or use another one"),
        ((errno.EIO, "Gone"), "the disk: Gone; mend the disk, or use another one"),
    ],
)
def test_a_disk_that_fails_is_one_line_and_exit_1(command, capsys, error, told):
    assert command(raising(OSError(*error))) == 1
    assert capsys.readouterr().err == f"paddle-xc2 try: {told}\n"


@pytest.mark.parametrize("error", [OSError("(External) CUDA error(700), an illegal access."), MemoryError("none left")])
def test_a_device_that_fails_is_one_line_and_exit_1(command, capsys, error):
    assert command(raising(error)) == 1
    told = capsys.readouterr().err
    assert told.startswith("paddle-xc2 try: the ") and str(error) in told and told.count("\n") == 1


def test_another_error_of_the_system_keeps_its_traceback(command):
    with pytest.raises(TimeoutError):
        command(raising(TimeoutError(errno.ETIMEDOUT, "no answer")))


def test_our_own_failure_keeps_its_traceback(command):
    with pytest.raises(RuntimeError, match="ours"):
        command(raising(RuntimeError("ours")))


def test_traceback_on_request(command, capsys, monkeypatch):
    assert command(raising(ValueError("wrong")), "--traceback") == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("PADDLE_XC2_TRACEBACK", "1")
    assert command(raising(ValueError("wrong"))) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("PADDLE_XC2_TRACEBACK", "0")
    assert command(raising(ValueError("wrong"))) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_wrong_arguments_are_exit_2(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command(lambda args: 0, "--number", "many")
    assert stop.value.code == 2 and "argument --number: invalid int value: 'many'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, told",
    [
        (
            "fly",
            'there is no command "fly"; there are finetune, convert, merge, check-data, convert-data, chat, generate',
        ),
        ("finetun", 'there is no command "finetun"; did you mean "finetune"?'),
        ("train", 'there is no command "train"; paddle-xc2 finetune CONFIG.json trains'),
        ("infer", 'there is no command "infer"; paddle-xc2 chat --from_pretrained MODEL'),
        ("gradio", 'there is no command "gradio"; paddle-xc2 web --from_pretrained MODEL asks in the'),
        ("batch", "paddle-xc2 generate IN.jsonl OUT.jsonl answers a data set"),
        ("evaluate", "there are no benchmarks yet"),
        ("estimate_memory", "paddle-xc2 finetune CONFIG.json --plan says what a run would do and need"),
        ("profile", "there is no profiler yet"),
    ],
)
def test_unknown_command(capsys, name, told):
    assert cli.main([name, "--x"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("paddle-xc2: there is no command") and told in error and error.count("\n") == 1


def test_commands_instead_are_not_commands():
    assert not COMMANDS_INSTEAD.keys() & set(cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_options_instead_are_options(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    options = set(re.findall(r"--(\w+)", capsys.readouterr().out))
    for name, meant in OPTIONS_INSTEAD.get(command, {}).items():
        assert name not in options and meant.split(",")[0] in options, name


@pytest.mark.parametrize(
    "arguments, told",
    [
        (
            ["chat", "--image", "a.png", "--prompt=What?"],
            "chat: unknown --image (use --image_path), --prompt (use --text); paddle-xc2 chat --help lists what there",
        ),
        (["convert", "a", "b", "--max-shard-siz", "1GB"], "convert: unknown --max_shard_siz (use --max_shard_size); "),
        (["configs", "--fly"], "configs: unknown --fly; paddle-xc2 configs --help"),
        (["configs", "sft_tiny"], 'configs: unknown "sft_tiny"; paddle-xc2 configs --help'),
    ],
)
def test_unknown_options(capsys, arguments, told):
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"paddle-xc2 {told}")


@pytest.mark.parametrize("option", ["--max-shard-size", "--max_shard_size"])
@pytest.mark.parametrize("command", ["convert", "merge"])
def test_dashes_are_as_good_as_underscores(option, command, monkeypatch):
    seen = []
    module = import_module(f"paddle_xc2.commands.{command}")
    monkeypatch.setattr(module, "run", lambda args: seen.append(args.max_shard_size) or 0)
    needed = {"convert": ["a", "b"], "merge": ["--lora-path", "a", "--output_path=b-c"]}
    assert cli.main([command, *needed[command], option, "1GB"]) == 0
    assert cli.main([command, *needed[command], f"{option}=2GB"]) == 0
    assert seen == ["1GB", "2GB"]


def test_what_follows_two_dashes_stays():
    assert with_underscores(["--a-b=c-d", "x-y", "-e-f", "--", "--g-h"]) == ["--a_b=c-d", "x-y", "-e-f", "--", "--g-h"]


def test_a_command_may_be_written_with_underscores(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["check_data", "--help"])
    assert stop.value.code == 0 and "usage: paddle-xc2 check-data" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_no_command_shows_the_help(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0 and capsys.readouterr().out.startswith("usage: paddle-xc2 [-h]")


def test_the_package_can_be_run():
    done = subprocess.run(
        [sys.executable, "-m", "paddle_xc2", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"paddle-xc2 {paddle_xc2.__version__}\n"


def test_an_error_below_an_unfinished_bar(command, capsys):
    def run(args):
        print("\r 10%|#", end="", file=sys.stderr)
        raise ValueError("wrong")

    assert command(run) == 2
    assert capsys.readouterr().err == "\r 10%|#\npaddle-xc2 try: wrong\n"


def test_an_interruption_at_a_terminal_is_below_its_mark(command, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert command(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "\npaddle-xc2 try: stopped by Ctrl-C\n"


def test_loading_paddle_is_told_before_it_is_done():
    program = (
        "import sys; from paddle_xc2 import cli; from paddle_xc2.commands import configs; "
        "sys.modules['paddle.base'] = None; "  # what comes next fails: only the line before it is wanted
        "configs.run = lambda args: __import__('paddle') and 0; sys.exit(cli.main(['configs']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.startswith("loading Paddle ...\npaddle-xc2 configs: ") and done.returncode == 1


def test_a_bad_key_is_told_before_paddle_is_loaded(tmp_path):
    (tmp_path / "sft.json").write_text('{"lr": 1, "unheard_of": 2}')
    command = [sys.executable, "-m", "paddle_xc2", "finetune", str(tmp_path / "sft.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "loading Paddle" not in done.stderr
    assert 'unknown argument "lr"; use learning_rate' in done.stderr


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"paddle-xc2 {paddle_xc2.__version__}\n"


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(re.search(rf"\n    {name}\s", text) for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_commands_help_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and f"example:\n  paddle-xc2 {name}" in text


def test_help_and_doctor_need_no_paddle():
    program = "import sys; from paddle_xc2 import cli; cli.build_parser([]); import paddle_xc2.commands.doctor; " + (
        "print([name for name in ('paddle', 'paddlenlp', 'numpy', 'PIL') if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert output == "[]\n"


def test_reader_that_leaves_is_no_error():
    # `true` reads nothing: writing to it fails as it does for `paddle-xc2 configs | head`.
    program = (
        "import sys, time; from paddle_xc2 import cli; from paddle_xc2.commands import configs; "
        "configs.run = lambda args: (time.sleep(0.2), print('x' * 100000), 0)[2]; sys.exit(cli.main(['configs']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert errors == "" and process.returncode == 0


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_output_that_was_closed_before(tmp_path, closed):
    """Nor does what is printed get into the file that is opened next."""
    (tmp_path / "in.json").write_text('[{"conversations": [["Q", "A"]]}]')
    command = f"{sys.executable} -m paddle_xc2 convert-data {tmp_path}/in.json {tmp_path}/out.json --to llava {closed}"
    assert subprocess.run(command, shell=True, cwd=ROOT, capture_output=True).returncode == 0
    assert len(json.loads((tmp_path / "out.json").read_text())) == 1
    command = f"{sys.executable} -m paddle_xc2 check-data {tmp_path}/none.json {closed}"
    assert subprocess.run(command, shell=True, cwd=ROOT, capture_output=True).returncode in (1, 2)


@pytest.mark.parametrize("unbuffered", [[], ["-u"]])
def test_output_onto_a_full_disk(unbuffered):
    with open("/dev/full", "w") as full:
        command = [sys.executable, *unbuffered, "-m", "paddle_xc2.cli", "configs"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    message = "the output: No space left on device; make room there, or write to another disk"
    assert done.stderr == f"paddle-xc2 configs: {message}\n" and done.returncode == 1


@pytest.mark.parametrize(
    "script, command",
    [
        ("tools/supervised_finetune.py", "finetune"),
        ("tools/convert_weights.py", "convert"),
        ("tools/merge_lora.py", "merge"),
        ("tools/check_data.py", "check-data"),
        ("tools/convert_data.py", "convert-data"),
        ("tools/generate.py", "generate"),
        ("tools/serve.py", "serve"),
        ("tools/doctor.py", "doctor"),
        ("examples/chat_demo.py", "chat"),
        ("examples/web_demo.py", "web"),
    ],
)
def test_scripts_work_from_a_fresh_checkout(script, command, tmp_path):
    """With the dependencies, but without an installation of ours, from any folder."""
    # -S leaves out what .pth files point to: that is how a checkout is installed in place.
    environment = {**os.environ, "PYTHONPATH": str(Path(np.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / script), "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: paddle-xc2 {command}")
