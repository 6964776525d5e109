"""`paddle-xc2 chat`: one question, or a conversation at a prompt."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace

from paddle_xc2.commands.asking import (
    RELEASED,
    SIZE,
    add_model_arguments,
    add_sampling_arguments,
    load_model,
    sampling_of,
)

HELP = "ask a model about pictures: one question, or a conversation at a prompt"
EXAMPLE = 'paddle-xc2 chat --from_pretrained ./model --image_path cat.jpg --text "What is in the picture?"'


def add_arguments(parser: ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--image_path", nargs="+", default=[], metavar="PATH", help="pictures of the first question: files or addresses"
    )
    parser.add_argument("--text", help="ask this one question and exit; without it, a conversation begins")
    add_sampling_arguments(parser)
    parser.add_argument("--num_beams", type=int, default=1, help="with --text: beam search instead of sampling")
    parser.add_argument("--show_prompt", action="store_true", help="show the literal prompt of each question, too")


def run(args: Namespace) -> int:
    from paddle_xc2.data.images.given_images import read_picture

    path = args.path or ask_for_model()
    pictures = [read_picture(reference) for reference in args.image_path]  # before minutes of loading
    session = load_session(path, args)
    for picture in pictures:
        session.add_image(picture)
    if args.text is None:
        from paddle_xc2.commands.conversation import Conversation

        Conversation(session, args.show_prompt).talk()
        return 0
    if args.show_prompt:
        print(session.prompt(args.text), file=sys.stderr)
    answer = session.ask_whole(args.text)
    print(answer)
    if not answer.strip():
        print("(the answer is empty)", file=sys.stderr)
    return 0


def ask_for_model() -> str:
    """The released model, if a person is there to want it. Raises: ValueError if not."""
    told = f"no model is given; --from_pretrained takes a folder, or a released name such as {RELEASED}"
    if sys.stdin.isatty():
        print(f"{told}.\nFetch {RELEASED} ({SIZE}) and ask that? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return RELEASED
    raise ValueError(f"{told}, which is fetched ({SIZE})")


def load_session(path: str, args: Namespace):
    """The model, said to be loaded, as a ChatSession with the settings of the command line."""
    from paddle_xc2 import runtime
    from paddle_xc2.generation.session import ChatSession

    model, tokenizer = load_model(path, args)
    runtime.set_seed(args.seed)
    return ChatSession(model, tokenizer, settings_of(args), args.num_beams)


def settings_of(args: Namespace) -> dict:
    """How the model is asked: keyword arguments of `chat`."""
    sampling = sampling_of(args)
    sampling = replace(sampling, do_sample=sampling.do_sample and args.num_beams == 1)
    return {"meta_instruction": args.meta_instruction, "max_new_tokens": args.max_new_tokens, **asdict(sampling)}
