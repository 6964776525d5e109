import pytest

from paddle_xc2.data.conversation import Conversation, Message
from paddle_xc2.data.picture_marks import set_apart, unlike_chat, without_marks
from paddle_xc2.families.table import family_named

XC2, XC2D5, LLAVA, QWEN = map(family_named, ("xcomposer2-7b", "xcomposer2d5-7b", "llava-internlm2", "qwen-vl"))


def talk(*texts):
    return tuple(Message(("user", "assistant")[index % 2], text) for index, text in enumerate(texts))


@pytest.mark.parametrize(
    ("text", "num_images", "want"),
    [
        ("<ImageHere>\nQ", 1, "Q"),
        ("<ImageHere>\r\nQ", 1, "Q"),
        ("\n<ImageHere>Q", 1, "Q"),
        ("Picture 1: <ImageHere>\nQ", 1, "Q"),
        ("<ImageHere>\n\nQ", 1, "\nQ"),
        ("Q\n<ImageHere>", 1, "Q\n<ImageHere>"),
        ("<ImageHere>\n<ImageHere>\nQ", 2, "<ImageHere><ImageHere>Q"),
        ("<ImageHere> Q <ImageHere>\n", 2, "<ImageHere> Q <ImageHere>\n"),
        ("Picture 1: <ImageHere>\nPicture 2: <ImageHere>\nQ", 2, None),
        ("<ImageHere><ImageHere>Q", 1, "<ImageHere><ImageHere>Q"),  # an error, as it was
        ("Q", 1, "Q"),
    ],
)
def test_what_belongs_to_a_mark_goes_with_it(text, num_images, want):
    assert without_marks(talk(text, "A"), num_images)[0].text == (want or text)


def test_a_mark_in_a_later_question_stays_without_its_line_break():
    messages = talk("Q", "A", "<ImageHere>\nR", "B")
    assert without_marks(messages, 1) == talk("Q", "A", "<ImageHere>R", "B")
    answer = talk("Q", "<ImageHere>\nA")
    assert without_marks(answer, 1) == answer


def test_what_a_family_puts_between():
    assert set_apart("<ImageHere> \nQ", "") == "<ImageHere> \nQ"
    assert set_apart("<ImageHere>Q", "\n") == set_apart("<ImageHere>\nQ", "\n") == set_apart(" <ImageHere>  Q", "\n")
    assert set_apart("<ImageHere><ImageHere> Q", "\n") == "<ImageHere>\n<ImageHere>\nQ"
    assert set_apart("Between <ImageHere> and", "\n") == "Between <ImageHere> and"


@pytest.mark.parametrize(
    ("text", "family", "told"),
    [
        ("Q", XC2, None),
        ("<ImageHere>Q", XC2, None),
        (
            "<ImageHere>\nQ",
            XC2,
            r"'\n' stands between picture and question, where chat puts nothing; remove it, or ask",
        ),
        ("<ImageHere>\nQ", LLAVA, None),
        ("<ImageHere>Q", LLAVA, None),
        ("<ImageHere>Q", XC2D5, "in the question, where xcomposer2d5-7b's chat puts it before the whole prompt; ask"),
        ("Picture 1: <ImageHere>\nQ", QWEN, None),
        ("<ImageHere>Q", QWEN, r"chat writes 'Picture 1: <ImageHere>\n' before the question; write it so, or ask"),
        ("Q <ImageHere>", LLAVA, "the picture stands behind other text, where chat puts it before the question; ask"),
    ],
)
def test_what_chat_would_ask_otherwise(text, family, told):
    found = unlike_chat(Conversation(talk(text, "A"), ("a.png",)), family)
    assert found is None if told is None else told in found


def test_several_pictures_have_marks_in_chat_too():
    assert unlike_chat(Conversation(talk("<ImageHere>\n<ImageHere>\nQ", "A"), ("a", "b")), XC2) is None
