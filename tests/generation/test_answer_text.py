import pytest

from paddle_xc2.generation.answer_text import AnswerText
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def told(tokenizer, text, *stops):
    """(what each token and the end bring, whether a stop text came)."""
    answer, parts = AnswerText(tokenizer, stops), []
    for token in tokenizer.encode(text, add_special_tokens=False):
        parts.append(answer.push(token))
        if answer.stopped:
            return parts, True
    return [*parts, answer.flush()], answer.stopped


@pytest.mark.parametrize(
    ("stops", "want", "stopped"),
    [
        ((), "one two\n\nthree", False),
        (("two",), "one ", True),
        (("three", "\n"), "one two", True),
        (("\n\n\n",), "one two\n\nthree", False),
        (("threefold",), "one two\n\nthree", False),
        (("o",), "", True),
    ],
)
def test_the_text_ends_before_the_first_stop_text(tokenizer, stops, want, stopped):
    parts, was_stopped = told(tokenizer, "one two\n\nthree", *stops)
    assert ("".join(parts), was_stopped) == (want, stopped)


def test_nothing_is_shown_that_has_to_be_taken_back(tokenizer):
    text = "a 3. b 3, c"
    for stop in ("3, c", ". b 4", "b 3, d"):
        shown = ""
        for part in told(tokenizer, text, stop)[0]:
            shown += part
            assert text.startswith(shown) and stop not in shown
