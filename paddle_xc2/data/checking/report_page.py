"""A DataReport as one HTML page.

It is a single file without scripts: pictures and the histogram are in it, every text of the data is escaped, and a
content security policy forbids whatever an escape might have missed.
"""

from __future__ import annotations

import base64
import io
import json
from importlib import resources
from pathlib import Path

import numpy as np

from paddle_xc2.data.checking.check import DataReport
from paddle_xc2.data.checking.report import image_numbers, length_numbers
from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.findings import WARNINGS
from paddle_xc2.data.images.pictures import load_image
from paddle_xc2.data.images.video import is_video
from paddle_xc2.data.marked_text import Piece, marked_pieces
from paddle_xc2.files.directory_lock import locked
from paddle_xc2.files.durable import replace_file
from paddle_xc2.messages import and_more, counted, sized

_TITLE, _TITLE_WITHIN = b"<title>check-data: ", 1024  # tells a report, in so many bytes of its beginning

_NUM_LISTED_ON_PAGE = 20
_NUM_RECORDS_A_RULE = 5
_NUM_ORDINARY = 12
_NUM_THUMBNAILS = 6  # of one record
_THUMBNAIL = 180  # pixels
_NUM_CHARACTERS = 6000  # of one record


def write_html(report: DataReport, path: Path, processor=None) -> None:
    """Writes the page, aside and then renamed.

    Args:
        processor: as it was given to `check_data`; None shows messages instead of what the model sees.
    Raises: as `check_replaceable`.
    """
    from jinja2 import Environment  # here, because few runs write a page

    text = resources.files(__package__).joinpath("report_page.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
    chosen = _chosen_records(report)
    page = template.render(
        files=[(str(source.path), len(source.records)) for source in report.sources],
        num_records=len(report.usable),
        num_usable=int(report.usable.sum()),
        counted=counted,
        and_more=and_more,
        sized=sized,
        groups=[("Errors", report.of(errors=True)), ("Warnings", report.of(errors=False))],
        num_listed=_NUM_LISTED_ON_PAGE,
        meanings=WARNINGS,
        notes=list(map(str, report.notes)),
        shown=set(chosen),
        lengths=length_numbers(report),
        histogram=_histogram(report),
        images=image_numbers(report),
        decoded=report.decoded,
        records=[_record_values(report, record, reasons, processor) for record, reasons in chosen.items()],
    )
    with locked(path):
        check_replaceable(path)
        # A record may hold half a surrogate pair, which no encoding can write.
        replace_file(path, page.encode("utf-8", "backslashreplace"))


def check_replaceable(path: Path) -> None:
    """Raises: ValueError if there is a file at `path` that is no report of check-data."""
    if path.is_dir():
        raise ValueError(f"--report {path} is a folder; give the name of a file")
    if path.exists():
        with open(path, "rb") as file:
            if _TITLE not in file.read(_TITLE_WITHIN):
                raise ValueError(f"--report {path}: there is another file, no report; remove it, or give another name")


def _chosen_records(report: DataReport) -> dict[int, list[str]]:
    """Records to show and why: examples of every rule, the longest, and some evenly spread over the data."""
    chosen: dict[int, list[str]] = {}
    for findings in (report.of(errors=True), report.of(errors=False)):
        for finding in findings.values():
            for record, message in finding.examples[:_NUM_RECORDS_A_RULE]:
                if record >= 0:
                    chosen.setdefault(record, []).append(message)
    usable = np.flatnonzero(report.usable)
    if len(usable):
        lengths = report.lengths[usable, 0] if report.max_length is not None else report.characters[usable, 0]
        chosen.setdefault(int(usable[lengths.argmax()]), []).append("the longest that can be trained on")
        for place in np.linspace(0, len(usable) - 1, min(_NUM_ORDINARY, len(usable))).round().astype(int):
            chosen.setdefault(int(usable[place]), [])
    return chosen


def _record_values(report: DataReport, record: int, reasons: list[str], processor) -> dict:
    """What the page shows of a record: as the model sees it, as far as it gets."""
    source, index = report.locate(record)
    values = {"number": record, "name": source.name(index), "reasons": reasons, "length": None, "pictures": []}
    try:
        conversation = source.conversation(index)
    except DataError:
        return values | {"pieces": _cut([Piece(_raw_text(source, index), "given")])}
    values["pictures"] = [_thumbnail(image) for image in conversation.images[:_NUM_THUMBNAILS]]
    values["num_more_pictures"] = max(0, len(conversation.images) - _NUM_THUMBNAILS)
    if processor is not None:
        try:
            fitting, example = processor.lay_out(conversation)
            image_tokens = [processor.num_image_tokens(image, True) for image in fitting.images]
            values["length"] = len(example), int(example.image_mask.sum()), example.num_trained_tokens
            return values | {"pieces": _cut(marked_pieces(example, image_tokens, processor.tokenizer))}
        except DataError:
            pass  # the reasons say so; its texts are shown instead
    return values | {
        "pieces": _cut(
            [
                Piece(f"{message.role}: {message.text}\n", "trained" if message.role == "assistant" else "given")
                for message in conversation.messages
            ]
        )
    }


def _raw_text(source, index: int) -> str:
    try:
        return json.dumps(source.records[index], ensure_ascii=False, indent=2, default=str)
    except DataError:
        return "(the record can't be read)"


def _cut(pieces: list[Piece]) -> list[Piece]:
    """As many characters as are shown; a last piece tells how many more there are."""
    kept, left = [], _NUM_CHARACTERS
    for piece in pieces:
        kept.append(Piece(piece.text[:left], piece.kind))
        left = max(0, left - len(piece.text))
    more = sum(len(piece.text) for piece in pieces) - _NUM_CHARACTERS
    return [piece for piece in kept if piece.text] + ([Piece(f" … {more:,} more", "image")] if more > 0 else [])


def _thumbnail(image) -> dict:
    """Name, and address of a small picture that holds the picture itself; None for what can't be shown."""
    name = str(image)
    if is_video(image):
        return {"name": f"{name} (video)", "address": None}
    try:
        picture = load_image(image)
    except DataError as error:
        return {"name": str(error), "address": None}
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return {"name": name, "address": _address("image/jpeg", file.getvalue())}


def _histogram(report: DataReport) -> str | None:
    """Address of a drawing that holds the drawing itself."""
    numbers = length_numbers(report)
    if numbers is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    edges, counts = numbers["histogram"]["edges"], numbers["histogram"]["counts"]
    figure = Figure(figsize=(8, 3.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color="tab:blue", edgecolor="white")
    if report.max_length is not None and report.max_length < edges[-1]:
        axes.axvline(report.max_length, color="tab:red", label=f"max_length {report.max_length:,}")
        axes.legend()
    axes.set(xlabel=f"{numbers['unit']} a record", ylabel="records")
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return _address("image/png", file.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
