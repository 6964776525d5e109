"""`paddle-xc2 convert-data`: training data of any format as any other."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

HELP = "write training data of any format as any other"
EXAMPLE = "paddle-xc2 convert-data train.json more.jsonl train_llava.json --to llava"


def add_arguments(parser: ArgumentParser) -> None:
    from paddle_xc2.data.records.writers import DIALECTS

    parser.add_argument(
        "sources", metavar="IN", nargs="+", help="JSON, JSONL, CSV or TSV files; the format is seen from each record"
    )
    parser.add_argument(
        "destination", metavar="OUT", help="file to write: a list if it ends with .json, lines if .jsonl"
    )
    parser.add_argument(
        "--to",
        choices=tuple(DIALECTS),
        required=True,
        help="XComposer2's, XComposer-2.5's, PaddleMIX's (chatml), LLaVA's and XTuner's, Qwen-VL's, or messages as of "
        "ms-swift, LLaMA-Factory and OpenAI",
    )
    parser.add_argument(
        "--image_folder",
        metavar="DIR",
        help="where relative image paths start, now and later; else they will start from OUT's folder",
    )
    add_columns(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    parser.add_argument("--disable_tqdm", action="store_true", help="no progress bar")


def add_columns(parser: ArgumentParser) -> None:
    """The option that says which column of a table holds what; of every command that reads data files."""
    parser.add_argument(
        "--columns",
        metavar="WHAT=COLUMN,...",
        help="of CSV and TSV files: image=photo,question=q,answer=a (also system, id); default: seen from the names in "
        "the first row",
    )


def columns_of(args: Namespace, files) -> dict[str, str] | None:
    """What --columns says. Raises: ValueError if that is wrong, or none of `files` is a table."""
    from paddle_xc2.data.records.tables import SUFFIXES, parse_columns

    if args.columns and not any(str(file).lower().endswith(SUFFIXES) for file in files):
        raise ValueError(
            f"--columns is of CSV and TSV files, and there is none ({' or '.join(SUFFIXES)}); leave it out"
        )
    return parse_columns(args.columns)


def run(args: Namespace) -> int:
    # Imported here: --help answers without them.
    from paddle_xc2.data.checking.rewrite import convert_data
    from paddle_xc2.messages import counted

    report = convert_data(
        args.sources,
        args.destination,
        args.to,
        args.image_folder,
        args.overwrite,
        progress=not args.disable_tqdm,
        columns=columns_of(args, args.sources),
    )
    for note in report.notes:
        print(f"note: {note}")
    numbers = f"{counted(report.num_records, 'record')}, {counted(report.num_images, 'image')}"
    print(f"{args.destination} ({args.to}): {numbers}")
    return 0
