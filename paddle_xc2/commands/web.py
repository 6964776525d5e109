"""`paddle-xc2 web`: the same server, with a page for the browser."""

from __future__ import annotations

import base64
import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from paddle_xc2.commands.serve import add_server_arguments, run_server

HELP = "ask a model in the browser, and watch a training run"
EXAMPLE = "paddle-xc2 web --from_pretrained ./model --adapter cats=./cats --run ./output"

TOKEN_VARIABLE = "PADDLE_XC2_WEB_TOKEN"
_MOST_EXAMPLES = 12
_MOST_EXAMPLE_BYTES = 2**20  # of an example's picture


def add_arguments(parser: ArgumentParser) -> None:
    add_server_arguments(parser, 7860)
    parser.add_argument("--token", help=f"that the page asks its users for; default: ${TOKEN_VARIABLE}")
    parser.add_argument(
        "--run", dest="watched", metavar="DIR", help="folder of a training run, going on or done, that the page shows"
    )
    parser.add_argument(
        "--examples", metavar="FILE", help=f"data file whose first {_MOST_EXAMPLES} questions the page offers"
    )


def run(args: Namespace) -> int:
    from paddle_xc2.files.local_path import local_path

    token = args.token or os.environ.get(TOKEN_VARIABLE) or None
    watched = None if args.watched is None else local_path(args.watched)
    if watched is not None and not watched.is_dir():
        raise ValueError(f"{watched}: there is no such folder; --run takes the output_dir of a training run")

    def page_of(sampling, limits):
        from paddle_xc2.serving.web_page import WebPage

        return WebPage(sampling, limits, examples_of(args.examples) if args.examples else [], watched)

    return run_server(args, token, f"--token or ${TOKEN_VARIABLE}", page_of=page_of)


def examples_of(path) -> list:
    """WebExamples from the first questions of a data file; those without pictures, or with too large ones, too."""
    from paddle_xc2.data.conversation import DataError
    from paddle_xc2.data.questions import QuestionFile
    from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER
    from paddle_xc2.serving.web_page import WebExample

    questions, examples = QuestionFile(path), []
    for index in range(min(len(questions), _MOST_EXAMPLES)):
        try:
            request = questions[index].request
        except DataError as error:
            print(f"no example: {error}", file=sys.stderr)
            continue
        pictures = [Path(image) for image in request.images]
        if all(picture.stat().st_size <= _MOST_EXAMPLE_BYTES for picture in pictures):
            text = request.query.replace(IMAGE_PLACEHOLDER, "").strip()
            examples.append(WebExample(text, tuple(map(_data_address, pictures))))
    return examples


def _data_address(picture: Path) -> str:
    return "data:image/*;base64," + base64.b64encode(picture.read_bytes()).decode()
