"""The console command `paddle-xc2`: one subcommand for each module of `paddle_xc2/commands/`.

A command module has HELP and EXAMPLE (one line each), `add_arguments(parser)` and `run(args)`, which returns the exit
status. Other packages are imported in these two functions only: `paddle-xc2 --help` answers at once, whatever breaks.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import traceback
from importlib import import_module

from paddle_xc2 import __version__, runtime
from paddle_xc2.commands.lasting_output import keep_output, outliving_the_terminal
from paddle_xc2.commands.typed_names import unknown_command, unknown_options, with_underscores
from paddle_xc2.device_errors import device_message
from paddle_xc2.messages import DISK_ERRORS, Failure, disk_message, guard_output, on_its_own_line, path_message

COMMANDS = (
    *("finetune", "convert", "merge", "check-data", "convert-data"),
    *("chat", "generate", "serve", "web", "configs", "doctor"),
)

LASTING = ("finetune", "convert", "merge", "generate")  # they go on when their terminal is closed

# What a user can cause; everything else is our failure and shows its traceback.
USER_MISTAKES = (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)

EXIT_FAILURE, EXIT_USER_MISTAKE, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: list[str] | None = None) -> int:
    """Runs `paddle-xc2 ARGV`. Returns: the exit status: 0 success, 2 a user's mistake, 1 any other failure."""
    argv = with_underscores(sys.argv[1:] if argv is None else argv)
    show_traceback = os.environ.get("PADDLE_XC2_TRACEBACK", "0") not in ("", "0")
    if "--traceback" in argv:  # taken out by hand: a command may hand its unknown options on
        argv.remove("--traceback")
        show_traceback = True
    keep_output()
    guard_output()
    if argv[:1] in ([], ["help"]):
        argv = ["--help"]
    if argv[0] not in COMMANDS and argv[0].replace("_", "-") in COMMANDS:
        argv[0] = argv[0].replace("_", "-")
    try:
        check_current_folder()
        runtime.prepare_environment()
        runtime.tell_before_loading_paddle()
        args = parsed(argv)
        with outliving_the_terminal() if argv[0] in LASTING else contextlib.nullcontext():
            status = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return report(argv[0], "stopped by Ctrl-C", EXIT_INTERRUPTED, show_traceback)
    except USER_MISTAKES as error:
        return report(argv[0], path_message(error) or str(error), EXIT_USER_MISTAKE, show_traceback)
    except Failure as error:
        return report(argv[0], str(error), EXIT_FAILURE, show_traceback)
    except ImportError as error:
        if was_interrupted(error):
            return report(argv[0], "stopped by Ctrl-C", EXIT_INTERRUPTED, show_traceback)
        message = f"{error}\n`paddle-xc2 doctor` (tools/doctor.py) says what is wrong here and what mends it"
        return report(argv[0], message, EXIT_FAILURE, show_traceback)
    except OSError as error:
        if message := path_message(error):
            return report(argv[0], message, EXIT_USER_MISTAKE, show_traceback)
        if message := device_message(error):
            return report(argv[0], message, EXIT_FAILURE, show_traceback)
        if error.errno not in DISK_ERRORS:
            raise
        flush_or_discard_output()  # it may be what lies on that disk
        return report(argv[0], disk_message(error), EXIT_FAILURE, show_traceback)
    except MemoryError as error:
        return report(argv[0], device_message(error), EXIT_FAILURE, show_traceback)
    except RuntimeError as error:
        if message := path_message(error):
            return report(argv[0], message, EXIT_USER_MISTAKE, show_traceback)
        raise


def check_current_folder() -> None:
    """Raises: ValueError if it was deleted: neither relative paths nor libraries work there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ValueError("the current folder was deleted; change to another one (cd), and begin again") from None


def parsed(argv: list[str]) -> argparse.Namespace:
    """The arguments of the command line. Raises: ValueError for a command or an option that is not there."""
    if not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise ValueError(unknown_command(argv[0], COMMANDS))
    parser = build_parser(argv)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        raise ValueError(unknown_options(argv[0], unknown, set(re.findall(r"--\w+", args.describe()))))
    return args


def build_parser(argv: list[str]) -> argparse.ArgumentParser:
    """The parser for `argv`: with the arguments of the command that it begins with, and the others' names."""
    parser = argparse.ArgumentParser(
        prog="paddle-xc2",
        description="InternLM-XComposer2 on PaddlePaddle: convert, fine-tune, chat.",
        epilog="`paddle-xc2 COMMAND --help` explains a command. `--traceback`, or PADDLE_XC2_TRACEBACK=1 in the "
        "environment, shows where in the program an error arose.",
    )
    parser.add_argument("--version", action="version", version=f"paddle-xc2 {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"paddle_xc2.commands.{name.replace('-', '_')}")
        command = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if argv[:1] == [name]:  # the others' may need what is broken here
            module.add_arguments(command)
            command.set_defaults(run=module.run, describe=command.format_help)
    return parser


def report(command: str, message: str, status: int, show_traceback: bool) -> int:
    """Prints what went wrong on standard error, and where only if it is asked for. Returns: `status`."""
    if show_traceback:
        traceback.print_exc()
    if command.startswith("-") or command not in COMMANDS:
        command = ""
    print(on_its_own_line(f"paddle-xc2 {command}".rstrip() + f": {message}"), file=sys.stderr)
    return status


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: Paddle's library, when it is interrupted, says that it can't be imported."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def flush_or_discard_output() -> None:
    """What can't be written to standard output goes into nothing: at exit, Python would try again, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
