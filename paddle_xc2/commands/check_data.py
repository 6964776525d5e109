"""`paddle-xc2 check-data`: what is wrong with a data set, before it costs a GPU hour."""

from __future__ import annotations

import json
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from paddle_xc2.commands.convert_data import add_columns
from paddle_xc2.commands.data_to_check import DataToCheck, data_to_check, is_argument_file, processor_for
from paddle_xc2.files.local_path import local_path

HELP = "check every record and image of a data set before training on it"
EXAMPLE = "paddle-xc2 check-data train.json --model_name_or_path internlm/internlm-xcomposer2-7b --report report.html"

EXIT_ERRORS_FOUND = 1


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="data files (JSON, JSON lines, CSV, TSV), a data.txt that lists some, or the JSON argument file of a run",
    )
    parser.add_argument(
        "--model_name_or_path",
        "--from_pretrained",
        metavar="M",
        help="the model to be trained: its tokens are counted; default: the argument file's, else characters count",
    )
    parser.add_argument(
        "--image_folder", metavar="F", help="where relative image paths start; default: the data file's folder"
    )
    add_columns(parser)
    parser.add_argument(
        "--max_length", metavar="N", type=int, help="tokens of the longest sample; default: the model's"
    )
    parser.add_argument("--hd_num", metavar="N", type=int, help="tiles that an image may take; default: the family's")
    parser.add_argument(
        "--truncation",
        choices=("refuse", "turns", "leave_out"),
        help="what training does to longer samples, as in the argument file (refuse)",
    )
    parser.add_argument(
        "--report", metavar="OUT.html", type=local_path, help="write a page with pictures and marked texts"
    )
    parser.add_argument(
        "--fix",
        metavar="OUT",
        type=local_path,
        help="write the records with what can be mended safely: a new .json or .jsonl file, or a folder for several",
    )
    parser.add_argument(
        "--drop_bad",
        "--drop-bad",
        action="store_true",
        help="with --fix: leave out what can't be trained on; each record is listed with the reason",
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.add_argument("--quick", action="store_true", help="read only the headers of images")
    parser.add_argument("--num_workers", metavar="N", type=int, help="processes; default: one for each CPU")
    parser.add_argument("--disable_tqdm", action="store_true", help="no progress bar")


def run(args: Namespace) -> int:
    # Imported here: --help answers without them.
    from tqdm.auto import tqdm

    from paddle_xc2.data.checking.check import check_data, open_sources
    from paddle_xc2.data.checking.mend import plan_mends, still_unusable
    from paddle_xc2.data.checking.report import report_values, summary_lines
    from paddle_xc2.data.checking.report_page import write_html
    from paddle_xc2.data.judge import Judge
    from paddle_xc2.runtime import usable_cpus

    check_outputs(args)
    wanted = data_to_check(args)
    processor = processor_for(wanted)
    sources, findings = open_sources(wanted.files)
    leave_out = wanted.truncation == "leave_out"
    mends = plan_mends(args.fix, sources)
    num_workers = usable_cpus() if args.num_workers is None else args.num_workers
    total = sum(len(source.records) for source in sources)
    # Where nobody watches, a line every now and then.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    silent = args.disable_tqdm or not total
    with tqdm(total=total, desc="checking", unit="record", mininterval=interval, disable=silent) as bar:
        report = check_data(sources, processor, leave_out, not args.quick, num_workers, progress=bar.update)
    report.findings.update(findings)
    if args.json:
        print(json.dumps(report_values(report), indent=2))
    else:
        print("\n".join(summary_lines(report)))
    say = print if not args.json else lambda line: print(line, file=sys.stderr)
    if args.report:
        write_html(report, args.report, processor)
        say(f"\nreport: {args.report}")
    judge = Judge(processor, leave_out=leave_out)
    for source, out in mends:
        why_drop = still_unusable(source, report.usable_of(source), judge) if args.drop_bad else None
        mend(source, out, report, say, why_drop)
    if mends:
        say(f"\nnext: {next_command(args, wanted, [out for _, out in mends])}")
    return EXIT_ERRORS_FOUND if report.has_errors else 0


def check_outputs(args: Namespace) -> None:
    """Raises: ValueError for values that can't be meant, before anything is read."""
    from paddle_xc2.data.checking.report_page import check_replaceable

    if args.drop_bad and not args.fix:
        raise ValueError("--drop_bad says what --fix writes; give --fix OUT too")
    for name, least in (("max_length", 1), ("num_workers", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} is {value}, but must be {least} or more")
    if args.report:
        if args.report.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--report {args.report}: the report is a page; give a name that ends in .html")
        if not args.report.parent.is_dir():
            raise FileNotFoundError(f"--report {args.report}: there is no folder {args.report.parent}; make it first")
        check_replaceable(args.report)


def next_command(args: Namespace, wanted: DataToCheck, outs: list[Path]) -> str:
    """What to do with the mended files."""
    files = " ".join(shlex.quote(str(out)) for out in outs)
    if is_argument_file(local_path(args.paths[0])):
        run = shlex.quote(args.paths[0])
        return f"name {files} as data in {run}, then: paddle-xc2 finetune {run}"
    folder = f" --image_folder {shlex.quote(args.image_folder)}" if args.image_folder else ""
    if args.drop_bad and len(outs) == 1:
        return f"paddle-xc2 finetune YOUR_ARGUMENTS.json --data_path {files}{folder}"
    model = f" --model_name_or_path {shlex.quote(wanted.model)}" if wanted.model else ""
    return f"paddle-xc2 check-data {files}{folder}{model}"


def mend(source, out: Path, report, say, why_drop: Callable | None = None) -> None:
    """Writes one file mended, and says what was changed, as far as it changes what the records mean."""
    from paddle_xc2.data.checking.mend import FORM_ALONE, changes_of, write_mended
    from paddle_xc2.data.conversation import DataError
    from paddle_xc2.messages import counted

    if (
        report.num_image_references
        and source.image_folder is None
        and out.parent.resolve() != source.path.parent.resolve()
    ):
        raise ValueError(
            f"--fix {out}: its relative image paths would no longer start from {source.path.parent.resolve()}; write "
            "it there, or say by --image_folder where they start"
        )
    changes = changes_of(out)
    try:
        mended = write_mended(source, out, changes, *([why_drop] if why_drop else []))
    except DataError as error:
        raise ValueError(f"{error}; or add --drop_bad, which leaves out what can't be trained on") from None
    numbers = f"{counted(mended.num_records, 'record')}, {counted(mended.num_changes, 'change')}"
    if why_drop:
        numbers += f", {counted(mended.num_dropped, 'record')} left out"
    say(f"\n{source.path} -> {out}: {numbers}, listed in {changes}")
    form = sum(mended.kinds[kind][0] for kind in FORM_ALONE if kind in mended.kinds)
    for kind, (count, first) in mended.kinds.items():
        if kind not in FORM_ALONE:
            say(f"  {count:,} {kind}, as in {first}")
    if form:
        say(f"  {form:,} of form alone: what the records say stays the same")
