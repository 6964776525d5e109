"""`paddle-xc2 chat`: one question, or a conversation at a prompt."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace

HELP = "ask a model about pictures: one question, or a conversation at a prompt"
EXAMPLE = 'paddle-xc2 chat --from_pretrained ./model --image_path cat.jpg --text "What is in the picture?"'

COMMANDS = """\
  /image PATH   adds a picture to your next question (again for several)
  /reset        forgets the conversation and its pictures
  /help         shows this
  /exit         ends the program, as Ctrl-D does
In a question, <ImageHere> says where a picture belongs; without it, pictures go before the question."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--from_pretrained",
        "--model_name_or_path",
        dest="path",
        default="internlm/internlm-xcomposer2-7b",
        help="checkpoint directory or released name (default: %(default)s)",
    )
    parser.add_argument("--base", metavar="DIR", help="of an adapter, if it is not where the adapter remembers it")
    parser.add_argument("--image_path", nargs="+", default=[], metavar="PATH", help="pictures of the first question")
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
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")


def run(args: Namespace) -> int:
    from paddle_xc2 import runtime
    from paddle_xc2.data.tokenizer import XComposer2Tokenizer
    from paddle_xc2.model_path import resolve_model_path
    from paddle_xc2.models.xcomposer2 import XComposer2ForCausalLM

    start = time.perf_counter()
    precisions = runtime.prepare().precisions
    if args.dtype not in (None, *precisions):
        raise ValueError(
            f"dtype {args.dtype} can't be computed in here, only {', '.join(precisions)}; leave --dtype out"
        )
    path = resolve_model_path(args.path)
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
    conversation = ChatSession(model, tokenizer, args)
    for image in args.image_path:
        conversation.add_image(image)
    if args.text is not None:
        print(conversation.ask_whole(args.text))
        return 0
    talk(conversation)
    return 0


class ChatSession:
    """A conversation with one model: its turns, its pictures (encoded once), its settings."""

    def __init__(self, model, tokenizer, args: Namespace):
        self.model, self.tokenizer = model, tokenizer
        self.settings = {
            "meta_instruction": args.meta_instruction,
            "do_sample": not args.greedy and args.num_beams == 1,
            "max_new_tokens": args.max_new_tokens,
            "temperature": args.temperature,
            "top_p": args.top_p,
            "top_k": args.top_k,
            "repetition_penalty": args.repetition_penalty,
        }
        self.num_beams = args.num_beams
        self.reset()

    def reset(self) -> None:
        self.history, self.images, self.pending, self._encoded = [], [], [], {}

    def add_image(self, path: str) -> None:
        """Reads a picture for the next question, or remembers a video. Raises: DataError if it can't be read."""
        from paddle_xc2.data.image_transform import load_image
        from paddle_xc2.data.processor import XComposer2Processor
        from paddle_xc2.data.video import is_video

        if is_video(path):
            XComposer2Processor.for_config(self.model.config).num_image_tokens(path)  # tells now if it can't be used
        self.pending.append(path if is_video(path) else load_image(path))

    def ask_whole(self, text: str) -> str:
        query = self._place_images(text)
        answer, _ = self.model.chat(
            self.tokenizer, query, self._encode_images(), self.history, num_beams=self.num_beams, **self.settings
        )
        self._remember(query, answer)
        return answer

    def ask(self, text: str):
        """Yields the new part of the answer. A turn that is stopped keeps what was said."""
        query, answer = self._place_images(text), ""
        try:
            for grown, _ in self.model.stream_chat(
                self.tokenizer, query, self._encode_images(), self.history, **self.settings
            ):
                new, answer = grown[len(answer) :], grown
                yield new
        finally:
            self._remember(query, answer)

    def _encode_images(self) -> list:
        """Image tokens of all pictures so far, each encoded once; again when a second joins it, if that changes it."""
        from paddle_xc2.generation.chat import encode_image

        images = self.images + self.pending
        several = len(images) > 1
        for index, image in enumerate(images):
            if (index, several) not in self._encoded:
                self._encoded[index, several] = encode_image(self.model, image, num_images=len(images))
        return [self._encoded[index, several] for index in range(len(images))]

    def _place_images(self, text: str) -> str:
        from paddle_xc2.special_tokens import IMAGE_PLACEHOLDER

        if IMAGE_PLACEHOLDER in text or not self.pending:
            return text
        if len(self.pending) == 1 and not self.history:
            return text  # a single picture without a place stands where the family's upstream puts it
        if self.images and not any(IMAGE_PLACEHOLDER in question for question, _ in self.history):
            question, answer = self.history[0]  # that picture is no longer the only one
            self.history[0] = (IMAGE_PLACEHOLDER + question, answer)
        return IMAGE_PLACEHOLDER * len(self.pending) + text

    def _remember(self, query: str, answer: str) -> None:
        if answer.strip():  # a turn without an answer can't stand in a conversation; its pictures wait for the next
            self.history.append((query, answer))
            self.images += self.pending
            self.pending = []


def talk(conversation: ChatSession) -> None:
    """Reads questions and prints answers until the end of input."""
    print("Ask away; /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            line = input("\nyou> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /exit ends the program)", file=sys.stderr)
            continue
        try:
            if not line:
                continue
            if line.startswith("/"):
                if _command(conversation, *line[1:].split(maxsplit=1)):
                    return
                continue
            print("model> ", end="", flush=True)
            for new in conversation.ask(line):
                print(new, end="", flush=True)
            print()
        except KeyboardInterrupt:
            print("\n(stopped)", file=sys.stderr)
        except (ValueError, FileNotFoundError) as error:
            print(f"\n{error}", file=sys.stderr)


def _command(conversation: ChatSession, name: str = "", argument: str = "") -> bool:
    """Carries out a command; true ends the program."""
    if name in ("exit", "quit"):
        return True
    if name == "image" and argument:
        conversation.add_image(argument.strip("\"'"))
        print(f"({len(conversation.pending)} picture(s) for the next question)", file=sys.stderr)
    elif name == "reset":
        conversation.reset()
        print("(the conversation is empty again)", file=sys.stderr)
    else:
        print(COMMANDS, file=sys.stderr)
    return False
