"""A DataReport shown: as lines for the terminal, as JSON values, as one HTML page.

The page is a single file without scripts: pictures and the histogram are in it, every text of the data is escaped, and
a content security policy forbids whatever an escape might have missed.
"""

from __future__ import annotations

import base64
import io
import json
import os
import textwrap
from pathlib import Path

import numpy as np

from paddle_xc2.data.checking.check import DataReport
from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.findings import WARNINGS, Finding, finding_lines
from paddle_xc2.data.images.pictures import load_image
from paddle_xc2.data.images.video import is_video
from paddle_xc2.data.marked_text import Piece, marked_pieces
from paddle_xc2.files.directory_lock import locked
from paddle_xc2.files.durable import replace_file
from paddle_xc2.messages import counted, shown

_NUM_LISTED = 3  # examples of a finding on the terminal
_NUM_LISTED_CHARACTERS = 1000  # of one of them
_NUM_BINS = 12
_BAR = 40  # characters

_NUM_LISTED_ON_PAGE = 20
_NUM_RECORDS_A_RULE = 5
_NUM_ORDINARY = 12
_NUM_THUMBNAILS = 6  # of one record
_THUMBNAIL = 180  # pixels
_NUM_CHARACTERS = 6000  # of one record


def summary_lines(report: DataReport) -> list[str]:
    """What was found, as text."""
    num_records, num_usable = len(report.usable), int(report.usable.sum())
    lines = [f"{source.path}: {counted(len(source.records), 'record')}" for source in report.sources]
    errors = num_records - num_usable
    lines += ["", f"{counted(num_records, 'record')}: {num_usable:,} can be trained on, {errors:,} can't"]
    for title, findings in (("errors", report.of(errors=True)), ("warnings", report.of(errors=False))):
        if findings:
            lines += ["", title]
        lines += [f"  {line}" for line in finding_lines(findings)]
    if len(report.notes):
        lines += ["", "notes: read in spite of", *(f"  {shown(note, _NUM_LISTED_CHARACTERS)}" for note in report.notes)]
    return [*lines, *_length_lines(report), *_image_lines(report)]


def _length_lines(report: DataReport) -> list[str]:
    numbers = length_numbers(report)
    if numbers is None:
        return []
    unit = numbers["unit"]
    lines = [
        "",
        f"{unit} a record: {numbers['smallest']:,} to {numbers['largest']:,}, mean {numbers['mean']:,.0f}, median "
        f"{numbers['median']:,.0f}; {numbers['trained_share']:.1%} of all are "
        f"{'trained' if unit == 'tokens' else 'answers'}",
    ]
    if unit == "tokens":
        lines[-1] += f", {numbers['image_share']:.1%} image slots"
    edges, counts = numbers["histogram"]["edges"], numbers["histogram"]["counts"]
    width = len(f"{edges[-1]:,}")
    for start, stop, count in zip(edges, edges[1:], counts, strict=False):
        bar = "█" * round(_BAR * count / max(counts)) or ("▏" if count else "")
        lines.append(f"  {start:>{width},} to {stop - 1:>{width},}  {f'{bar} {count:,}'.lstrip()}")
    if report.max_length is not None:
        longer = counted(numbers["num_longer"], "record is", "records are")
        lines.append(f"  max_length is {report.max_length:,}; {longer} longer")
    return lines


def _image_lines(report: DataReport) -> list[str]:
    if not report.images:
        return []
    numbers = image_numbers(report)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in numbers["kinds"].items())
    lines = [
        "",
        f"images: records name {numbers['references']:,}; {'read whole' if report.decoded else 'headers read'}: "
        f"{counted(numbers['files'], 'file')}, {numbers['bytes'] / 1e6:,.1f} MB: {kinds}",
    ]
    if "width" in numbers:
        lines += [
            "  {name:<7} {smallest:>7,} to {largest:>7,}, median {median:,.0f} pixels".format(
                name=name, **numbers[name]
            )
            for name in ("width", "height")
        ]
    return lines


def length_numbers(report: DataReport) -> dict | None:
    """Lengths of the records, in tokens where a model was given and in characters elsewhere; None if none is known."""
    tokens, characters = report.lengths[report.lengths[:, 0] >= 0], report.characters[report.characters[:, 0] >= 0]
    in_tokens = report.max_length is not None
    lengths = (tokens if in_tokens else characters)[:, 0]
    if not len(lengths):
        return None
    if in_tokens:
        whole = tokens[tokens[:, 2] >= 0]  # of what is too long, only the length is known
        image_share, trained_share = (whole[:, [1, 2]].sum(axis=0) / max(1, whole[:, 0].sum())).tolist()
    else:
        image_share, trained_share = None, float(characters[:, 1].sum() / max(1, characters[:, 0].sum()))
    edges = _bin_edges(int(lengths.max()))
    counts, _ = np.histogram(lengths, edges)
    return {
        "unit": "tokens" if in_tokens else "characters",
        "smallest": int(lengths.min()),
        "largest": int(lengths.max()),
        "mean": float(lengths.mean()),
        "median": float(np.median(lengths)),
        "trained_share": trained_share,
        "image_share": image_share,
        "max_length": report.max_length,
        "num_longer": int((lengths > report.max_length).sum()) if in_tokens else None,
        "histogram": {"edges": edges, "counts": counts.tolist()},
    }


def _bin_edges(largest: int) -> list[int]:
    """Whole numbers from 0 to beyond `largest`, 1, 2 or 5 times a power of ten apart."""
    step = next(
        factor * 10**power for power in range(20) for factor in (1, 2, 5) if factor * 10**power * _NUM_BINS > largest
    )
    return list(range(0, largest + step + 1, step))


def image_numbers(report: DataReport) -> dict:
    """What kinds of image files there are, and how large."""
    kinds: dict[str, int] = {}
    for facts in report.images:
        kind = os.path.splitext(facts.path)[1].lower().lstrip(".")[:12] or "without suffix"
        kinds[kind] = kinds.get(kind, 0) + 1
    numbers = {
        "references": report.num_image_references,
        "files": len(report.images),
        "bytes": sum(facts.num_bytes for facts in report.images),
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
    }
    sizes = np.array([(facts.width, facts.height) for facts in report.images if facts.width])
    for name, values in zip(("width", "height"), sizes.T, strict=False):
        numbers[name] = {
            "smallest": int(values.min()),
            "largest": int(values.max()),
            "median": float(np.median(values)),
        }
    return numbers


def report_values(report: DataReport) -> dict:
    """What was found, as JSON values."""

    def listed(findings: dict[str, Finding]) -> dict:
        return {
            rule: {"count": finding.count, "examples": [message for _, message in finding.examples]}
            | ({"advice": finding.advice} if finding.advice else {})
            for rule, finding in findings.items()
        }

    return {
        "files": [{"path": str(source.path), "records": len(source.records)} for source in report.sources],
        "records": len(report.usable),
        "usable": int(report.usable.sum()),
        "errors": listed(report.of(errors=True)),
        "warnings": listed(report.of(errors=False)),
        "notes": [{"kind": note.kind, "count": note.count, "example": note.example} for note in report.notes],
        "lengths": length_numbers(report),
        "images": image_numbers(report),
        "images_decoded": report.decoded,
    }


def write_html(report: DataReport, path: Path, processor=None) -> None:
    """Writes the page, aside and then renamed.

    Args:
        processor: as it was given to `check_data`; None shows messages instead of what the model sees.
    """
    from jinja2 import Environment  # here, because few runs write a page

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_PAGE)
    chosen = _chosen_records(report)
    page = template.render(
        files=[(str(source.path), len(source.records)) for source in report.sources],
        num_records=len(report.usable),
        num_usable=int(report.usable.sum()),
        counted=counted,
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
        # A record may hold half a surrogate pair, which no encoding can write.
        replace_file(path, page.encode("utf-8", "backslashreplace"))


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


_PAGE = textwrap.dedent("""\
    <!DOCTYPE html>
    <html lang="en">
    <head>
    <meta charset="utf-8">
    <meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>check-data: {{ counted(num_records, "record") }}</title>
    <style>
    body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
    h1 { font-size: 1.5rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; } h3 { margin-bottom: .3rem; }
    li, h3, figcaption, td { overflow-wrap: anywhere; }
    td, th { text-align: left; padding: .1rem 1rem .1rem 0; vertical-align: top; }
    pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .7rem; border-radius: 4px; }
    .trained { background: #bfe8c3; } .image { color: #777; font-style: italic; }
    .error { color: #a40000; }
    figure { display: inline-block; margin: .3rem .6rem .3rem 0; max-width: 180px; vertical-align: top; }
    figcaption { font-size: .75rem; color: #555; } img { max-width: 100%; }
    </style>
    </head>
    <body>
    <h1>{{ counted(num_records, "record") }}: {{ "{:,}".format(num_usable) }} can be trained on,
    <span{% if num_usable < num_records %} class="error"{% endif %}>
    {{ "{:,}".format(num_records - num_usable) }} can't</span></h1>
    <table>
    {% for path, count in files %}
    <tr><td>{{ path }}</td><td>{{ counted(count, "record") }}</td></tr>
    {% endfor %}
    </table>
    {% for title, findings in groups if findings %}
    <h2>{{ title }}</h2>
    {% for rule, finding in findings.items() %}
    <h3>{{ rule }}: {{ "{:,}".format(finding.count) }}{% if rule in meanings %} ({{ meanings[rule] }}){% endif %}</h3>
    <ul>
    {% for record, message in finding.examples[:num_listed] %}
    <li>{% if record in shown %}<a href="#record-{{ record }}">{{ message }}</a>{% else %}{{ message }}{% endif %}</li>
    {% endfor %}
    {% if finding.count > num_listed %}
    <li>and {{ "{:,}".format(finding.count - num_listed) }} more</li>
    {% endif %}
    {% if finding.advice %}
    <li><b>{{ finding.advice }}</b></li>
    {% endif %}
    </ul>
    {% endfor %}
    {% endfor %}
    {% if notes %}
    <h2>Read in spite of</h2>
    <ul>
    {% for note in notes %}
    <li>{{ note }}</li>
    {% endfor %}
    </ul>
    {% endif %}
    {% if lengths %}
    <h2>Lengths</h2>
    <p>{{ lengths.unit }} a record: {{ "{:,}".format(lengths.smallest) }} to {{ "{:,}".format(lengths.largest) }},
    mean {{ "{:,.0f}".format(lengths.mean) }}, median {{ "{:,.0f}".format(lengths.median) }};
    {{ "{:.1%}".format(lengths.trained_share) }} of all are
    {{ "trained" if lengths.unit == "tokens" else "answers" }}.
    {% if lengths.max_length is not none %}
    max_length is {{ "{:,}".format(lengths.max_length) }};
    {{ counted(lengths.num_longer, "record is", "records are") }} longer.
    {% endif %}
    </p>
    <img src="{{ histogram }}" alt="histogram of the lengths">
    {% endif %}
    {% if images.files %}
    <h2>Images</h2>
    <p>Records name {{ "{:,}".format(images.references) }}; {{ "read whole" if decoded else "headers read" }}:
    {{ counted(images.files, "file") }}, {{ "{:,.1f}".format(images.bytes / 1e6) }} MB</p>
    <table>
    <tr><th>kind</th><th>files</th></tr>
    {% for kind, count in images.kinds.items() %}
    <tr><td>{{ kind }}</td><td>{{ "{:,}".format(count) }}</td></tr>
    {% endfor %}
    </table>
    {% for side in ("width", "height") if side in images %}
    <p>{{ side }}: {{ "{:,}".format(images[side].smallest) }} to {{ "{:,}".format(images[side].largest) }},
    median {{ "{:,.0f}".format(images[side].median) }} pixels</p>
    {% endfor %}
    {% endif %}
    <h2>Records</h2>
    <p>Examples of what was found, the longest, and some spread evenly over the data.
    What is <span class="trained">marked</span> is learned.</p>
    {% for record in records %}
    <section id="record-{{ record.number }}">
    <h3>{{ record.name }}</h3>
    {% if record.length %}
    <p>{{ "{:,}".format(record.length[0]) }} tokens, {{ "{:,}".format(record.length[1]) }} of them image slots,
    {{ "{:,}".format(record.length[2]) }} trained</p>
    {% endif %}
    {% for reason in record.reasons %}
    <p class="error">{{ reason }}</p>
    {% endfor %}
    {% for picture in record.pictures %}
    <figure>{% if picture.address %}<img src="{{ picture.address }}" alt="">{% endif %}
    <figcaption>{{ picture.name }}</figcaption></figure>
    {% endfor %}
    {% if record.num_more_pictures %}<p>and {{ counted(record.num_more_pictures, "more picture") }}</p>{% endif %}
    <pre>{% for piece in record.pieces %}<span class="{{ piece.kind }}">{{ piece.text }}</span>{% endfor %}</pre>
    </section>
    {% endfor %}
    </body>
    </html>
    """)
