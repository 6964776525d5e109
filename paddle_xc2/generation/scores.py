"""How near a generated answer is to the expected one.

Every score is a number from 0 (nothing in common) to 1 (the same). ROUGE-L and BLEU are PaddleNLP's, the edit distance
of ANLS is Paddle's.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

import numpy as np

METRICS = ("exact_match", "choice_accuracy", "rouge_l", "bleu", "anls", "box_iou")

_ANLS_THRESHOLD = 0.5  # of ST-VQA (arXiv:1907.00490): an answer further away than this counts nothing
_BLEU_WORDS = 4
_CHINESE = r"\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CHINESE}]|[^\W_{_CHINESE}]+|\S")  # a Chinese character is a word
_OPTION = re.compile(r"(?:^|(?<=[\s(（]))([A-Z])\s{0,2}[.:)、．：）]")
_LETTER_FIRST = re.compile(r"\*{0,2}[(（]?([A-Z])(?:[)）](?![A-Za-z])|\*{0,2}(?:[.,:、．：。]|$))")
_LETTER_ALONE = re.compile(r"[(（]?([a-z])[)）]?[.:。：]?")
_LETTER_NAMED = re.compile(
    r"(?i:answer|option|choice)(?:\s+is)?\s{0,2}:?\s{0,2}[(（]?([A-Z])(?![A-Za-z])"
    r"|(?:答案|选项|选)(?:是|为)?\s{0,2}[:：]?\s{0,2}[(（]?([A-Z])(?![A-Za-z])"
)
_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
_BOX = re.compile(
    rf"<box>\s*\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)\s*</box>"
    rf"|\[\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)\]"
    rf"|\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]"
)
_REF = re.compile(r"<ref>([^<\n]*)</ref>")


@dataclass(frozen=True)
class Answer:
    """What was asked, expected and answered.

    Attributes:
        source: of the record, as "eval.json[3]".
    """

    source: str
    question: str
    expected: str
    answer: str

    def record(self) -> dict:
        """As JSON values, with its scores."""
        return {**asdict(self), "scores": scores(self)}


def metrics_for(question: str, expected: str) -> tuple[str, ...]:
    """The METRICS that mean something here.

    Choices need options in the question, boxes one in the expected answer, and BLEU four words there, which it counts.
    """
    without = set()
    if choice_of(expected, options_in(question)) is None:
        without.add("choice_accuracy")
    if not boxes_in(expected):
        without.add("box_iou")
    if len(words(expected)) < _BLEU_WORDS:
        without.add("bleu")
    return tuple(name for name in METRICS if name not in without)


def scores(answered: Answer) -> dict[str, float]:
    """The scores of one answer: all of `metrics_for`, by name."""
    functions = {
        "exact_match": lambda: float(answered.answer.strip() == answered.expected.strip()),
        "choice_accuracy": lambda: _chooses_right(answered),
        "rouge_l": lambda: rouge_l(answered.expected, answered.answer),
        "bleu": lambda: bleu([(answered.expected, answered.answer)]),
        "anls": lambda: anls(answered.expected, answered.answer),
        "box_iou": lambda: box_iou(boxes_in(answered.expected), boxes_in(answered.answer)),
    }
    return {name: round(functions[name](), 6) for name in metrics_for(answered.question, answered.expected)}


def summary(records: list[dict]) -> dict[str, float]:
    """The METRICS over all answers, as far as they mean something for any.

    Means over the answers they mean something for; BLEU is the corpus's.

    Args:
        records: of `Answer.record`.
    """
    columns = {name: [record["scores"][name] for record in records if name in record["scores"]] for name in METRICS}
    means = {name: sum(column) / len(column) for name, column in columns.items() if column}
    if "bleu" in means:
        long_enough = [record for record in records if "bleu" in record["scores"]]
        means["bleu"] = bleu([(record["expected"], record["answer"]) for record in long_enough])
    return {name: round(mean, 6) for name, mean in means.items()}


def words(text: str) -> list[str]:
    """The text as BLEU and ROUGE count it: words, Chinese characters and signs, in small letters."""
    return _WORD.findall(text.lower())


def rouge_l(expected: str, answer: str) -> float:
    """ROUGE-L with a recall that weighs 1.2 times the precision (PaddleNLP's default)."""
    from paddlenlp.metrics import RougeL

    metric = RougeL()
    metric.lcs = _common_words  # PaddleNLP's takes a second for answers of a thousand words
    metric.add_inst(words(answer), [words(expected)])
    return float(metric.score())


def _common_words(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, row by row of the usual table."""
    if not first or not second:
        return 0
    numbers: dict[str, int] = {}
    columns = np.array([numbers.setdefault(word, len(numbers)) for word in second])
    row = np.zeros(len(second) + 1, np.int64)
    for word in first:
        longer = row[:-1] + (columns == numbers.get(word, -1))
        row[1:] = np.maximum.accumulate(np.maximum(row[1:], longer))
    return int(row[-1])


def bleu(pairs: list[tuple[str, str]]) -> float:
    """BLEU-4 of (expected, answer) pairs taken together, not smoothed: 0 if no four words running are right."""
    from paddlenlp.metrics import BLEU

    metric = BLEU()
    for expected, answer in pairs:
        metric.add_inst(words(answer), [words(expected)])
    return float(metric.score()) if metric.bp_c else 0.0


def anls(expected: str, answer: str) -> float:
    """1 - edit distance / length of the longer text; 0 if that is below a half. Case and extra blanks don't count."""
    expected, answer = (" ".join(text.lower().split()) for text in (expected, answer))
    if not expected or not answer:
        return float(expected == answer)
    similarity = 1 - _edit_distance(expected, answer) / max(len(expected), len(answer))
    return similarity if similarity >= _ANLS_THRESHOLD else 0.0


def _edit_distance(first: str, second: str) -> int:
    import paddle
    from paddle.nn.functional.loss import edit_distance

    texts = [paddle.to_tensor([[ord(character) for character in text]], "int64") for text in (first, second)]
    lengths = [paddle.to_tensor([len(text)], "int64") for text in (first, second)]
    # The number of sequences comes first, though Paddle's text says the distance does.
    _, distance = edit_distance(*texts, normalized=False, input_length=lengths[0], label_length=lengths[1])
    return int(distance.item())


def options_in(question: str) -> dict[str, str]:
    """The options of a question, as {"A": "a cat", "B": "a dog"}; {} unless there are two or more, from A on.

    Read are `A. ...`, `A) ...`, `(A) ...`, `A: ...` and their Chinese signs, each on a line of its own or in a row.
    """
    options: dict[str, str] = {}
    start, letter = 0, ""
    for found in _OPTION.finditer(question):
        if found[1] != chr(ord("A") + len(options)):
            continue
        if letter:
            options[letter] = question[start : found.start()]
        letter, start = found[1], found.end()
        options[letter] = ""
    if letter:
        options[letter] = question[start:].partition("\n")[0]
    return {letter: text.strip(" \n\t(（;；,，") for letter, text in options.items()} if len(options) > 1 else {}


def choice_of(answer: str, options: dict[str, str]) -> str | None:
    """The letter of the option that an answer names: by its text, by a letter it begins with, or by "the answer is B".

    None if it names none, or several.
    """
    said = answer.strip()
    bare = said.rstrip(".。").casefold()
    by_text = [letter for letter, text in options.items() if text and text.rstrip(".。").casefold() == bare]
    if by_text:
        return by_text[0] if len(by_text) == 1 else None
    first = _LETTER_FIRST.match(said) or _LETTER_ALONE.fullmatch(said)
    letters = {first[1].upper()} if first else {a or b for a, b in _LETTER_NAMED.findall(said)}
    return letters.pop() if len(letters) == 1 and letters <= options.keys() else None


def _chooses_right(answered: Answer) -> float:
    options = options_in(answered.question)
    return float(choice_of(answered.answer, options) == choice_of(answered.expected, options))


def boxes_in(text: str) -> list[tuple[float, float, float, float]]:
    """Boxes (left, top, right, bottom) in a text.

    They are written as `<box>(x1,y1),(x2,y2)</box>`, `[(x1,y1),(x2,y2)]` or `[x1,y1,x2,y2]`.
    """
    return [box for _, box in named_boxes_in(text)]


def named_boxes_in(text: str) -> list[tuple[str, tuple[float, float, float, float]]]:
    """As `boxes_in`, each with what stands before it in `<ref>...</ref>`, else ""."""
    found_boxes, name, end = [], "", 0
    for found in _BOX.finditer(text):
        between = text[end : found.start()]
        if named := _REF.findall(between):
            name = named[-1].strip()
        elif between.strip():
            name = ""
        end = found.end()
        x1, y1, x2, y2 = (float(number) for number in found.groups() if number is not None)
        found_boxes.append((name, (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))))
    return found_boxes


def box_iou(expected: list[tuple], answered: list[tuple]) -> float:
    """Intersection over union, mean over boxes: paired by overlap, the best first; one without a partner is 0."""
    pairs = sorted(
        ((_overlap(one, other), i, j) for i, one in enumerate(expected) for j, other in enumerate(answered)),
        reverse=True,
    )
    total, used_expected, used_answered = 0.0, set(), set()
    for overlap, i, j in pairs:
        if i not in used_expected and j not in used_answered:
            total += overlap
            used_expected.add(i)
            used_answered.add(j)
    return total / max(len(expected), len(answered), 1)


def _overlap(one: tuple, other: tuple) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)
