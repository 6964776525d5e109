import pytest
from PIL import Image

from paddle_xc2.data.chat_request import grown_history, read_request
from paddle_xc2.data.conversation import DataError

PICTURE = Image.new("RGB", (4, 4))
OTHER = Image.new("RGB", (5, 5))
TURNS = (("hello there", "good day"),)


def message(role, content):
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "history",
    [
        [("hello there", "good day")],
        (["hello there", "good day"],),
        [message("user", "hello there"), message("assistant", "good day")],
        [message("human", "hello there"), message("gpt", [{"type": "text", "text": "good day"}])],
        [message("User", [{"type": "input_text", "text": "hello there"}]), message("ASSISTANT", "good day")],
    ],
)
def test_histories(history):
    assert read_request("next?", None, history) == (None, TURNS, "next?", ())


@pytest.mark.parametrize("history", [None, (), []])
def test_no_history(history):
    assert read_request("next?", history=history).turns == ()


def test_a_system_turn_of_the_history():
    history = [message("system", "Be brief."), message("user", "a"), message("assistant", "b")]
    request = read_request("c", history=history)
    assert (request.system, request.turns) == ("Be brief.", (("a", "b"),))
    assert [one.role for one in request.messages("default")] == ["system", "user", "assistant", "user"]
    assert request.messages("default")[0].text == "Be brief."
    assert read_request("c").messages("default")[0].text == "default"
    assert read_request("c", meta_instruction="").messages("default")[0].role == "user"
    with pytest.raises(DataError, match="history begins with a system turn and there is a meta_instruction; keep one"):
        read_request("c", history=history, meta_instruction="x")


def test_pictures_in_parts_and_beside_them():
    parts = [{"type": "image", "image": PICTURE}, {"type": "text", "text": "What?"}]
    history = [message("user", parts), message("assistant", "A cat.")]
    request = read_request("And <ImageHere>?", OTHER, history)
    assert request.turns == (("<ImageHere>What?", "A cat."),)
    assert request.images == (PICTURE, OTHER)
    first = [message("user", "<ImageHere>What?"), message("assistant", "A cat.")]
    both = read_request("?", [OTHER], [*first, *history])
    assert both.images == (OTHER, PICTURE)
    unnamed = [message("user", [{"type": "image"}, {"type": "text", "text": "What?"}]), message("assistant", "A")]
    assert read_request("?", [OTHER], unnamed).images == (OTHER,)
    with pytest.raises(DataError, match="history has places for 2 images, of which not all are named or given"):
        read_request("?", None, [*unnamed, *history])


def test_what_the_model_wrote_goes_back_in():
    history = [("a", ""), ("b", "see <ImageHere> [UNUSED_TOKEN_146]user\n<|im_start|>x</s>")]
    assert read_request("c", None, history).turns == (("a", ""), ("b", "see <ImageHere> user\nx</s>"))


def test_the_history_grows_in_its_own_form():
    assert grown_history(None, "q", "a") == [("q", "a")]
    assert grown_history([["q", "a"]], "r", "b") == [["q", "a"], ("r", "b")]
    history = [message("user", "q"), message("assistant", "a")]
    grown = grown_history(history, "r", "b")
    assert grown == [*history, message("user", "r"), message("assistant", "b")]
    assert read_request("s", None, grown).turns == (("q", "a"), ("r", "b"))


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (["hi", "yo"], r"history\[0\] is 'hi' \(str\); history is a list of \(question, answer\), or of {\"role\""),
        ([("a", "b", "c")], r"history\[0\] is \('a', 'b', 'c'\) \(tuple\); history is a list"),
        ([("a", None)], r"the answer of history\[0\] is None \(NoneType\); expected a text"),
        ([(b"a", "b")], r"the question of history\[0\] is b'a' \(bytes\); expected a text"),
        ("hi", r"history is 'hi' \(str\); history is a list"),
        (5, r"history is 5 \(int\); history is a list"),
        ({"role": "user", "content": "a"}, r"history is {'role'.*\(dict\); history is a list"),
        ([{"from": "human", "value": "a"}], r"history\[0\] is {'from'"),
        ([{"role": "robot", "content": "a"}], r"history\[0\] is {'role'"),
        ([{"role": "user", "content": "a"}], "history ends with a question; give that as the question itself"),
        ([{"role": "assistant", "content": "a"}], r"history\[0\] is from the assistant, where the user should speak"),
        (
            [{"role": "system", "content": "s"}, *[{"role": "user", "content": "a"}] * 2],
            r"history\[2\] is from the user, where the assistant should speak",
        ),
        ([{"role": "user", "content": 5}], r'"content" of history\[0\] is 5 \(int\); expected a text'),
        ([{"role": "user", "content": [5]}], r"history: part 0 of history\[0\] is a number; write"),
        (
            [message("user", "a"), message("assistant", [{"type": "image", "image": PICTURE}])],
            r"history\[1\] is from the assistant and shows an image; images belong into questions",
        ),
        ([{"role": "user", "content": "a"}, ("q", "a")], r"history\[1\] is \('q', 'a'\) \(tuple\); history is"),
    ],
)
def test_what_is_no_history(history, message):
    with pytest.raises(DataError, match=message):
        read_request("next?", None, history)


@pytest.mark.parametrize("query", [None, 5, b"text", ["a"], ("q", "a"), {"role": "user", "content": "q"}])
def test_a_question_is_a_text(query):
    with pytest.raises(DataError, match=r"the question is .*; expected a text"):
        read_request(query)


def test_a_question_is_whole():
    with pytest.raises(DataError, match="the question holds half of a surrogate pair at character 1; remove it"):
        read_request("a\ud800")


def test_characters_are_counted_without_the_places_of_images():
    asked = read_request("<ImageHere>now?", [PICTURE] * 2, [("<ImageHere>what?", "it")], "system")
    assert asked.num_characters == len("now?what?itsystem")
