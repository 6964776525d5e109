"""`paddle-xc2 chat`: one question, or a conversation at a prompt."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace

HELP = "ask a model about pictures: one question, or a conversation at a prompt"
EXAMPLE = 'paddle-xc2 chat --from_pretrained ./model --image_path cat.jpg --text "What is in the picture?"'

RELEASED = "internlm/internlm-xcomposer2-7b"  # what is proposed where no model is named
_SIZE = "about 17 GB"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--from_pretrained",
        "--model_name_or_path",
        dest="path",
        help=f"checkpoint directory, or a released name such as {RELEASED}, which is fetched ({_SIZE})",
    )
    parser.add_argument("--base", metavar="DIR", help="of an adapter, if it is not where the adapter remembers it")
    parser.add_argument(
        "--image_path", nargs="+", default=[], metavar="PATH", help="pictures of the first question: files or addresses"
    )
    parser.add_argument("--text", help="ask this one question and exit; without it, a conversation begins")
    parser.add_argument(
        "--max_new_tokens", type=int, default=1024, help="longest answer, in tokens (default: %(default)s)"
    )
    parser.add_argument("--greedy", action="store_true", help="always take the likeliest token, do not sample")
    parser.add_argument("--temperature", type=float, default=1.0, help="default: %(default)s")
    parser.add_argument("--top_p", type=float, default=0.8, help="default: %(default)s")
    parser.add_argument("--top_k", type=int, default=50, help="default: %(default)s; 0 is off")
    parser.add_argument("--repetition_penalty", type=float, default=1.005, help="default: %(default)s; 1 is off")
    parser.add_argument("--num_beams", type=int, default=1, help="with --text: beam search instead of sampling")
    parser.add_argument("--meta_instruction", help='system turn; the checkpoint\'s own by default, "" for none')
    parser.add_argument(
        "--chat_layout", choices=["official", "as_trained"], help="prompt layout; the checkpoint's own by default"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="default: what the device computes best"
    )
    parser.add_argument("--show_prompt", action="store_true", help="show the literal prompt of each question, too")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")


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
        print(f"{told}.\nFetch {RELEASED} ({_SIZE}) and ask that? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return RELEASED
    raise ValueError(f"{told}, which is fetched ({_SIZE})")


def load_session(path: str, args: Namespace):
    """The model, said to be loaded, as a ChatSession with the settings of the command line."""
    from paddle_xc2 import runtime
    from paddle_xc2.generation.session import ChatSession
    from paddle_xc2.hub.find import resolve_model_path
    from paddle_xc2.models.xcomposer2 import XComposer2ForCausalLM
    from paddle_xc2.text.tokenizer import XComposer2Tokenizer

    start = time.perf_counter()
    precisions = runtime.prepare().precisions
    if args.dtype not in (None, *precisions):
        raise ValueError(
            f"dtype {args.dtype} can't be computed in here, only {', '.join(precisions)}; leave --dtype out"
        )
    path = resolve_model_path(path)
    tokenizer = XComposer2Tokenizer.from_pretrained(path, args.base)
    model = XComposer2ForCausalLM.from_pretrained(path, dtype=args.dtype, base=args.base)
    model.eval()
    if args.chat_layout:
        model.config.chat_layout = args.chat_layout
    runtime.set_seed(args.seed)
    size = sum(parameter.size for parameter in model.parameters()) / 1e6
    dtype = str(model.output.weight.dtype).removeprefix("paddle.")
    print(
        f"{model.config.family.name} from {path}: {size:,.1f} M parameters, {dtype}, "
        f"loaded in {time.perf_counter() - start:.1f} s",
        file=sys.stderr,
    )
    if model.adapter_report:
        print(f"adapter on {model.source_dir}: {model.adapter_report}", file=sys.stderr)
    return ChatSession(model, tokenizer, settings_of(args), args.num_beams)


def settings_of(args: Namespace) -> dict:
    """How the model is asked: keyword arguments of `chat`."""
    names = ("meta_instruction", "max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty")
    settings = {name: getattr(args, name) for name in names}
    return settings | {"do_sample": not args.greedy and args.num_beams == 1}
