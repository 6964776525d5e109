"""The prompt of `paddle-xc2 chat`: reads questions and commands, prints answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from paddle_xc2.commands import line_editing
from paddle_xc2.commands.chat_settings import settings_line, with_changes
from paddle_xc2.data.images.downloads import default_image_folder, is_data_url, is_url
from paddle_xc2.files.local_path import local_path
from paddle_xc2.generation.session import ChatSession
from paddle_xc2.generation.transcript import KINDS, save_transcript
from paddle_xc2.messages import counted, did_you_mean, shown

LEAVING = ("quit", "exit")  # as a question they make no sense


class Command(NamedTuple):
    """Attributes:
    usage, help: for /help.
    run: (prompt, what stands behind the command); true ends the program. Raises: ValueError with what to say.
    """

    usage: str
    help: str
    run: Callable[[ChatPrompt, str], bool | None]


class ChatPrompt:
    """What is typed, turned into questions to a session.

    Attributes:
        unread: the picture that the next question was to be about and that can't be used, or "".
        show_prompt: whether the literal prompt is shown before each answer.
        saved: files that this conversation was saved as.
    """

    def __init__(self, session: ChatSession, show_prompt: bool = False):
        self.session = session
        self.show_prompt = show_prompt
        self.unread = ""
        self.saved: set[Path] = set()

    def talk(self) -> None:
        """Reads lines until the end of input, or until a command ends it."""
        if hasattr(sys.stdin, "reconfigure"):  # bytes of another encoding are a path, or end in a message, not the talk
            sys.stdin.reconfigure(errors="surrogateescape")
        words = [f"/{name}" for name in COMMANDS]
        line_editing.prepare(words, "/image", default_image_folder().parent / "chat_history")
        _say("Ask away; /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends.")
        while True:
            print()
            try:
                line = input("you> ").strip()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                _say("\n(Ctrl-D or /exit ends the program)")
                continue
            try:
                if self.understand(line):
                    return
            except KeyboardInterrupt:
                _say("(stopped)")
            except (ValueError, FileNotFoundError) as error:
                _say(str(error))

    def understand(self, line: str) -> bool:
        """Does what a line says. Returns: whether the program ends. Raises: ValueError, FileNotFoundError."""
        if line.lower() in LEAVING:
            return True
        if line.startswith("/"):
            name, _, argument = line[1:].partition(" ")
            return self.command(name, argument.strip())
        if line:
            self.ask(line)
        return False

    def command(self, name: str, argument: str) -> bool:
        """Carries out a command. Returns, raises: as `understand`."""
        name = OTHER_NAMES.get(name, name)
        if name not in COMMANDS:
            _say(f"there is no command /{shown(name)}{did_you_mean(name, COMMANDS)}")
            name = "help"
        return bool(COMMANDS[name].run(self, argument))

    def ask(self, text: str) -> None:
        """Prints the answer to a question as it grows. Raises: ValueError, FileNotFoundError."""
        if self.unread:
            raise ValueError(
                f"(not asked, since {shown(self.unread)} could not be used: give another picture with /image, or go on "
                "without it with /drop)"
            )
        prompt = self.session.prompt(text)  # what can't be asked is told before "model>"
        if self.show_prompt:
            _say(prompt)
        print("model> ", end="", flush=True)
        try:
            answer = hand_on(self.session.ask(text), lambda new: print(new, end="", flush=True))
        finally:
            print()
        if reason := answer.why_empty():
            _say(f"(the answer is empty: {reason})")

    def add_image(self, reference: str) -> None:
        """Raises: DataError if the picture can't be used; then questions wait until another one is given."""
        self.unread = reference
        self.session.add_image(reference)
        self.unread = ""


def hand_on(parts: Iterator[str], take: Callable[[str], object]):
    """Hands on what an iterator yields. Returns: what it returns. Leaving early ends it."""
    try:
        while True:
            take(next(parts))
    except StopIteration as end:
        return end.value
    finally:
        parts.close()


def split_reference(argument: str) -> tuple[str, str]:
    """What follows /image -> (path or address, question). A path may hold spaces, in quotes or if it is there."""
    if argument[:1] in ("'", '"') and (end := argument.find(argument[0], 1)) > 0:
        return argument[1:end], argument[end + 1 :].strip()
    words = argument.split(" ")
    if not (is_url(argument) or is_data_url(argument)):
        for count in range(len(words), 1, -1):
            if local_path(" ".join(words[:count])).is_file():
                return " ".join(words[:count]), " ".join(words[count:]).strip()
    return words[0], " ".join(words[1:]).strip()


def _image(prompt: ChatPrompt, argument: str) -> None:
    if not argument:
        raise ValueError("write /image and a path or an address, and your question behind it if you like")
    reference, question = split_reference(argument)
    prompt.add_image(reference)
    if question:
        prompt.ask(question)
    else:
        _say(f"({counted(len(prompt.session.pending), 'picture')} for the next question)")


def _drop(prompt: ChatPrompt, argument: str) -> None:
    prompt.session.drop_pending()
    prompt.unread = ""
    _say("(no picture for the next question)")


def _reset(prompt: ChatPrompt, argument: str) -> None:
    prompt.session.reset()
    prompt.unread = ""
    _say("(the conversation is empty again)")


def _system(prompt: ChatPrompt, argument: str) -> None:
    session = prompt.session
    if argument:
        session.settings = replace(session.settings, system="" if argument == "none" else argument)
    system = session.settings.system
    _say("(the system turn is the model's own)" if system is None else f"(the system turn: {system or 'none'})")


def _settings(prompt: ChatPrompt, argument: str) -> None:
    session = prompt.session
    if argument:
        session.settings = with_changes(session.settings, argument.split())
    _say(f"({settings_line(session.settings)})")


def _save(prompt: ChatPrompt, argument: str) -> None:
    if not argument:
        raise ValueError(f"write /save and a name that ends with {' or '.join(KINDS)}")
    path = local_path(argument)
    if path.exists() and path not in prompt.saved:
        raise ValueError(f"{path} is there already; give another name")
    save_transcript(prompt.session, path)
    prompt.saved.add(path)
    _say(f"({counted(len(prompt.session.turns), 'turn')} in {path})")


def _undo(prompt: ChatPrompt, argument: str) -> None:
    turn = prompt.session.undo()
    _say("(there is no turn to take back)" if turn is None else f"(taken back: {shown(turn.question)})")


def _help(prompt: ChatPrompt, argument: str) -> None:
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        _say(f"  {command.usage:<{width}}  {command.help}")
    _say("In a question, <ImageHere> says where a picture belongs; without it, pictures go before the question.")


def _exit(prompt: ChatPrompt, argument: str) -> bool:
    return True


def _say(text: str) -> None:
    print(text, file=sys.stderr)


COMMANDS = {
    "image": Command("/image PATH [QUESTION]", "adds a picture, or an address, to your next question", _image),
    "drop": Command("/drop", "takes the pictures of the next question back", _drop),
    "undo": Command("/undo", "takes the last question back, with its answer and its pictures", _undo),
    "system": Command("/system [TEXT]", 'shows or sets the system turn; "none" for none', _system),
    "settings": Command("/settings [NAME=VALUE ...]", "shows or changes temperature, greedy, seed, ...", _settings),
    "save": Command("/save FILE", "keeps the conversation, as FILE.json (a training record) or FILE.md", _save),
    "reset": Command("/reset", "forgets the conversation and its pictures", _reset),
    "help": Command("/help", "shows this", _help),
    "exit": Command("/exit", "ends the program, as quit and Ctrl-D do", _exit),
}
OTHER_NAMES = {"quit": "exit", "": "help", "?": "help"}
