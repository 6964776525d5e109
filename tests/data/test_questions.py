import json

import pytest
from PIL import Image

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.questions import QuestionFile


@pytest.fixture
def read(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def read(*records):
        path = tmp_path / "in.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return QuestionFile(path)

    return read


def test_an_answer_is_open_or_given(read):
    asked = {"from": "user", "value": "What?"}
    questions = read(
        {"id": 7, "image": "a.png", "conversations": [asked]},
        {"image": "a.png", "conversations": [asked, {"from": "assistant", "value": "A cat."}]},
        {"image": "a.png", "conversations": [asked, {"from": "assistant", "value": ""}]},
        {"conversations": [["<img>a.png</img>What?", "A cat."]]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Q"}]}
            ]
        },
    )
    assert [question.given for question in questions] == [None, "A cat.", None, "A cat.", None]
    assert [question.id for question in questions] == [7, None, None, None, None]
    assert [question.request.query for question in questions][:3] == ["What?"] * 3
    assert all(question.request.images[0].name == "a.png" for question in questions)


def test_earlier_turns_and_the_system_turn_belong_to_the_question(read):
    turns = [("system", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")]
    (question,) = read({"messages": [{"role": role, "content": text} for role, text in turns]})
    assert question.request == ("Be brief.", (("One?", "1"),), "Two?", ())
    assert question.given == "2"


def test_records_without_a_question(read):
    questions = read({"conversations": [{"from": "assistant", "value": "A"}]}, {"image": "a.png"})
    with pytest.raises(DataError, match=r"in.jsonl\[0\]: there is no question; write one as the user's last turn"):
        questions[0]
    with pytest.raises(DataError, match=r"in.jsonl\[1\]"):
        questions[1]
