"""`paddle-xc2 serve`: an OpenAI-compatible HTTP server."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace

from paddle_xc2.commands.asking import add_model_arguments, add_sampling_arguments, load_model, sampling_of

HELP = "serve a model, and adapters on it, over HTTP to any client of OpenAI's chat completions"
EXAMPLE = "paddle-xc2 serve --from_pretrained ./model --adapter cats=./cats --port 8000"

KEY_VARIABLE = "PADDLE_XC2_API_KEY"


def add_arguments(parser: ArgumentParser) -> None:
    add_server_arguments(parser, 8000)
    parser.add_argument("--api_key", help=f"that clients must send; default: ${KEY_VARIABLE}, which no list shows")
    parser.add_argument(
        "--fetch_images", action="store_true", help="follow http(s) addresses of images, to public hosts only"
    )


def add_server_arguments(parser: ArgumentParser, port: int) -> None:
    """What the server and the page in the browser have in common. port: by default."""
    add_model_arguments(parser, required=True)
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="an adapter on the model, to be asked under a name of its own; may be given several times",
    )
    parser.add_argument("--served_model_name", metavar="NAME", help="of the model itself; default: its folder's name")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s; others need a key")
    parser.add_argument("--port", type=int, default=port, help="default: %(default)s")
    add_sampling_arguments(parser)
    parser.add_argument(
        "--max_batch_size", type=int, default=64, help="answers that are decoded at once (default: %(default)s)"
    )
    parser.add_argument(
        "--max_waiting", type=int, default=256, help="requests in the queue; more get 429 (default: %(default)s)"
    )
    parser.add_argument("--max_images", type=int, default=16, help="of a request (default: %(default)s)")
    parser.add_argument("--max_image_mb", type=float, default=20, help="of one image (default: %(default)s)")
    parser.add_argument("--max_image_megapixels", type=float, default=40, help="of one image (default: %(default)s)")
    parser.add_argument("--max_body_mb", type=float, default=32, help="of a request (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=600, help="seconds after which an answer is given up (default: %(default)s)"
    )
    parser.add_argument(
        "--shutdown_seconds", type=float, default=30, help="that answers may take to end (default: %(default)s)"
    )


def run(args: Namespace) -> int:
    key = args.api_key or os.environ.get(KEY_VARIABLE) or None
    return run_server(args, key, f"--api_key or ${KEY_VARIABLE}", fetch=args.fetch_images)


def run_server(args: Namespace, key: str | None, key_option: str, fetch: bool = False, page_of=None) -> int:
    """Loads the models and serves them until it is told to stop.

    Args:
        args: of `add_server_arguments`.
        key_option: how the key is given.
        page_of: makes the WebPage of (sampling settings, limits), if there is one.
    """
    try:
        from paddle_xc2.serving.app import build_app
        from paddle_xc2.serving.gate import LOOPBACK
        from paddle_xc2.serving.serve import check_host, check_port, serve
    except ImportError as error:
        raise ValueError(f"{error.name} is missing; pip install 'paddle_xc2[serve]'") from error
    from paddle_xc2.generation.engine import Engine

    sampling, limits = sampling_of(args), limits_of(args)
    adapters = [split_adapter(given) for given in args.adapter]
    check_host(args.host, key, key_option)
    check_port(args.host, args.port)
    page = page_of(sampling, limits) if page_of else None
    model, tokenizer = load_model(args.path, args)
    models = served_models(model, tokenizer, args.served_model_name, adapters, args)
    engine = Engine(model, args.max_batch_size, args.max_waiting)
    app = build_app(engine, models, sampling, limits, key, args.host in LOOPBACK, fetch, page)
    names, address = ", ".join(served.name for served in models), f"http://{args.host}:{args.port}"
    print(f"serving {names} at {address}{'/' if page else '/v1'}; Ctrl-C ends it", file=sys.stderr, flush=True)
    serve(app, engine, args.host, args.port, args.shutdown_seconds)
    return 0


def limits_of(args: Namespace):
    """Limits of the command line. Raises: ValueError for what is not above 0."""
    from paddle_xc2.serving.limits import Limits

    names = ("max_batch_size", "max_waiting", "max_images", "max_image_mb", "max_image_megapixels", "max_body_mb")
    for name in (*names, "timeout", "max_new_tokens"):
        if not getattr(args, name) > 0:
            raise ValueError(f"{name} is {getattr(args, name)}, but must be above 0")
    return Limits(
        max_body_bytes=int(args.max_body_mb * 2**20),
        max_image_bytes=int(args.max_image_mb * 2**20),
        max_image_pixels=int(args.max_image_megapixels * 1e6),
        max_images=args.max_images,
        max_new_tokens=args.max_new_tokens,
        answer_seconds=args.timeout,
    )


def split_adapter(given: str) -> tuple[str, str]:
    """ "cats=./cats" -> ("cats", "./cats"). Raises: ValueError."""
    name, equals, directory = given.partition("=")
    if not (name and equals and directory):
        raise ValueError(f'--adapter is "{given}"; write NAME=DIR')
    return name, directory


def served_models(model, tokenizer, name: str | None, adapters: list[tuple[str, str]], args: Namespace) -> list:
    """The model itself, and each adapter on it. Raises: ValueError, FileNotFoundError for what can't be loaded."""
    from pathlib import Path

    from paddle_xc2.generation.served_model import ServedModel
    from paddle_xc2.model import load_processor
    from paddle_xc2.weights.switched_adapters import SwitchedAdapters

    name = name or Path(args.path).resolve().name
    switch = SwitchedAdapters(model)
    if adapters and model.has_adapter:
        raise ValueError(f"{args.path} is an adapter itself; give its base, and it with --adapter NAME={args.path}")
    models = [ServedModel.of(model, tokenizer, name, lambda: switch.use(None))]
    for adapter, directory in adapters:
        if adapter in [served.name for served in models]:
            raise ValueError(f'two models are called "{adapter}"; give each a name of its own')
        print(f"adapter {adapter}: {switch.load(adapter, directory)}", file=sys.stderr)
        processor = load_processor(directory, base=args.base)
        models.append(ServedModel.of_adapter(model, adapter, processor, lambda name=adapter: switch.use(name)))
    return models
