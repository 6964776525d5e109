"""`paddle-xc2 generate`: answers every question of a data file."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from paddle_xc2.commands.asking import add_model_arguments, add_sampling_arguments, load_model, sampling_of

HELP = "answer every question of a data file, many at once; goes on after a kill where it was"
EXAMPLE = "paddle-xc2 generate questions.jsonl answers.jsonl --from_pretrained ./model --greedy"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN.jsonl", help="records of any format that finetune takes")
    parser.add_argument("output", metavar="OUT.jsonl", help="a line of JSON for each record, in order")
    add_model_arguments(parser, required=True)
    parser.add_argument(
        "--compare", action="store_true", help="write the record's own answer beside the model's, and count equal ones"
    )
    parser.add_argument("--image_folder", metavar="DIR", help="where relative image paths start; default: IN's folder")
    parser.add_argument("--columns", help="of a CSV or TSV file, as for finetune: question=...,answer=...,image=...")
    add_sampling_arguments(parser)
    parser.add_argument(
        "--max_batch_size", type=int, default=64, help="answers that are decoded at once (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.jsonl")
    parser.add_argument("--disable_tqdm", action="store_true", help="no progress bar")


def run(args: Namespace) -> int:
    from tqdm.auto import tqdm

    from paddle_xc2.data.questions import QuestionFile
    from paddle_xc2.data.records.tables import parse_columns
    from paddle_xc2.files.local_path import local_path
    from paddle_xc2.generation.batch import BatchSettings, Rate, answer_file
    from paddle_xc2.generation.engine import Engine
    from paddle_xc2.generation.served_model import ServedModel
    from paddle_xc2.messages import counted

    if args.max_batch_size < 1:
        raise ValueError(f"max_batch_size is {args.max_batch_size}, but must be at least 1")
    questions = QuestionFile(args.input, args.image_folder, parse_columns(args.columns))
    settings = BatchSettings(sampling_of(args), args.max_new_tokens, args.seed, args.meta_instruction, args.compare)
    output = local_path(args.output)
    model, tokenizer = load_model(args.path, args)
    start, rate, tokens = time.perf_counter(), Rate(), 0
    bar = tqdm(
        total=len(questions), desc="answering", unit="record", dynamic_ncols=True, disable=args.disable_tqdm or None
    )
    with bar, Engine(model, args.max_batch_size, 2 * args.max_batch_size) as engine:
        served = ServedModel.of(model, tokenizer)

        def goes_on(num_done: int) -> None:
            if num_done:
                bar.update(num_done)
                print(f"going on after {counted(num_done, 'record')} that an earlier run answered", file=sys.stderr)

        for progress in answer_file(engine, served, questions, output, settings, args.overwrite, goes_on):
            bar.update()
            bar.set_postfix_str(f"{rate.add(progress.num_tokens):.0f} tokens/s")
            tokens += progress.num_tokens
    seconds = time.perf_counter() - start
    print(f"{output}: {counted(len(questions), 'record')}; {tokens:,} tokens in {seconds:.1f} s")
    return report(output)


def report(output: Path) -> int:
    """Says how many answers equal the given ones, and which records have none. Returns: the exit status."""
    from paddle_xc2.messages import counted, listed_lines

    errors, total, compared, equal = [], 0, 0, 0
    with open(output, encoding="utf-8") as file:
        for line in map(json.loads, file):
            total += 1
            if "error" in line:
                errors.append(line["error"])
            elif "given" in line:
                compared, equal = compared + 1, equal + (line["answer"].strip() == line["given"].strip())
    if compared:
        print(f"{equal:,} of {counted(compared, 'answer')} equal the given one ({equal / compared:.1%})")
    if errors:
        title = f"{counted(len(errors), 'record')} could not be answered, and hold an error in place of an answer:"
        print(listed_lines(title, errors), file=sys.stderr)
    return 2 if errors and len(errors) == total else 0
