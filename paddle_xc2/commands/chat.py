"""`paddle-xc2 chat`: one question, or a conversation at a prompt."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from paddle_xc2.commands.asking import (
    RELEASED,
    SIZE,
    add_model_arguments,
    add_sampling_arguments,
    load_model,
    sampling_of,
)
from paddle_xc2.runtime import MAX_SEED

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
    from paddle_xc2.commands.chat_prompt import ChatPrompt
    from paddle_xc2.data.images.given_images import read_picture
    from paddle_xc2.generation.engine import Engine
    from paddle_xc2.generation.served_model import ServedModel
    from paddle_xc2.generation.session import ChatSession

    path = args.path or ask_for_model()
    pictures = [read_picture(reference) for reference in args.image_path]  # before minutes of loading
    settings = settings_of(args)
    if args.num_beams > 1:
        if args.text is None:
            raise ValueError("num_beams is for one question; give it with --text")
        return ask_with_beams(path, args, pictures)
    model, tokenizer = load_model(path, args)
    with Engine(model, max_rows=1) as engine:
        session = ChatSession(engine, ServedModel.of(model, tokenizer), settings)
        for picture in pictures:
            session.add_image(picture)
        if args.text is None:
            ChatPrompt(session, args.show_prompt).talk()
            return 0
        if args.show_prompt:
            print(session.prompt(args.text), file=sys.stderr)
        answer = session.ask_whole(args.text)
    print(answer.text)
    if reason := answer.why_empty():
        print(f"(the answer is empty: {reason})", file=sys.stderr)
    return 0


def ask_with_beams(path: str, args: Namespace, pictures: list) -> int:
    """One question, answered by a search, which the engine doesn't do."""
    from paddle_xc2.generation.chat import prompt_text

    model, tokenizer = load_model(path, args)
    asked = {"query": args.text, "image": pictures, "meta_instruction": args.meta_instruction}
    if args.show_prompt:
        print(prompt_text(model, tokenizer, **asked), file=sys.stderr)
    answer, _ = model.chat(
        tokenizer,
        **asked,
        do_sample=False,
        num_beams=args.num_beams,
        max_new_tokens=args.max_new_tokens,
        repetition_penalty=args.repetition_penalty,
    )
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


def settings_of(args: Namespace):
    """ChatSettings of the command line. Raises: ValueError for a value out of range."""
    from paddle_xc2.generation.session import ChatSettings

    if not 0 <= args.seed <= MAX_SEED:
        raise ValueError(f"seed {args.seed} is out of range; give a number from 0 to {MAX_SEED}")
    if args.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {args.max_new_tokens}, but must be at least 1")
    return ChatSettings(sampling_of(args), args.max_new_tokens, args.meta_instruction, args.seed)
