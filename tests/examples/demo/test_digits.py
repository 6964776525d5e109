"""The demo's data: real scans, split by index, with the right answers."""

import numpy as np
import pytest
from PIL import Image

from examples.demo import digits
from paddle_xc2.data.records.conversations import load_conversations

load_digits = pytest.importorskip("sklearn.datasets", reason="scikit-learn is missing").load_digits


@pytest.fixture(scope="module")
def scans():
    return digits.load_scans()


def test_split_by_index(scans):
    training, held_out = scans
    assert (len(training), len(held_out)) == (1437, 360)
    original = load_digits()
    np.testing.assert_array_equal(np.concatenate([training.images, held_out.images]), original.images)
    np.testing.assert_array_equal(np.concatenate([training.digits, held_out.digits]), original.target)


def test_picture_is_the_scan(scans):
    scan = scans[0].images[0]
    pixels = np.asarray(digits.picture(scan))
    assert pixels.shape == (8, 8)
    np.testing.assert_array_equal(np.round(pixels / 255 * digits.GREY_LEVELS), scan)


def test_distorted_picture_resembles_the_scan(scans):
    plain = digits.picture(scans[0].images[0])
    others = [digits.distorted(plain, np.random.default_rng(seed)) for seed in range(10)]
    for other in others:
        assert other.size == plain.size
        assert 0.3 < np.corrcoef(np.asarray(plain).flatten(), np.asarray(other).flatten())[0, 1] < 0.9999
    assert len({other.tobytes() for other in others}) == 10


def test_training_data(scans, tmp_path):
    training = scans[0][:40]
    digits.write_training_data(tmp_path / "data", training, seed=0)
    conversations = load_conversations(tmp_path / "data" / "train.json")
    assert len(conversations) == 40 * digits.COPIES
    kinds = {kind.query: kind for kind in digits.KINDS}
    asked = set()
    for conversation in conversations:
        query, answer = (message.text for message in conversation.messages)
        shown = [int(training.digits[int(image.name[:4])]) for image in conversation.images]
        asked.add(kinds[query])
        assert answer == kinds[query].answer(*shown)
        assert len(set(shown)) == kinds[query].num_images
        assert all(Image.open(image).size == (8, 8) for image in conversation.images)
    assert asked == set(digits.KINDS)
    plain = np.asarray(Image.open(tmp_path / "data" / "train" / "0003_0.png"))
    np.testing.assert_array_equal(plain, np.asarray(digits.picture(training.images[3])))


def test_training_data_follow_the_seed(scans, tmp_path):
    contents = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        digits.write_training_data(tmp_path / folder, scans[0][:5], seed)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / folder).rglob("*.*")})
    assert contents[0] == contents[1] != contents[2]


def test_held_out_questions(scans, tmp_path):
    held_out = scans[1][:12]
    questions = digits.write_held_out(tmp_path, held_out)
    assert len(questions) == 12 * len(digits.KINDS)
    for question in questions:
        shown = [int(held_out.digits[int(image.stem)]) for image in question.images]
        assert question.answer == question.kind.answer(*shown)
    records = load_conversations(tmp_path / "eval.json")
    assert sorted(str(record.images[0]) for record in records) == sorted(
        {str(question.images[0]) for question in questions}
    )
    about_first = [question for question in questions if question.images[0].stem == "000"]
    digit, other = held_out.digits[:2]
    assert (digit, other) == (2, 3)
    assert [question.answer for question in about_first] == ["2", "二", "even", "偶数", "the second", "第二个"]


def test_texts_hold_every_question_and_answer():
    texts = digits.texts()
    assert {"Which digit is this?", "这是数字几？", "7", "七", "odd", "偶数", "the first", "第二个"} <= set(texts)
    assert not any("<ImageHere>" in text for text in texts)


def test_lesson(scans, tmp_path):
    training = scans[0][:30]
    digits.write_training_data(tmp_path, training, seed=0)
    digits.write_lesson(tmp_path, training, seed=0)
    conversations = load_conversations(tmp_path / "lesson.json")
    assert len(conversations) == 30 * digits.LESSON_COPIES
    kinds = {kind.query: kind for kind in digits.LESSON_KINDS}
    for conversation in conversations:
        query, answer = (message.text for message in conversation.messages)
        assert answer == kinds[query].answer(int(training.digits[int(conversation.images[0].name[:4])]))
    assert not {kind.query for kind in digits.KINDS} & set(kinds)


def test_questions_of_the_lesson(scans, tmp_path):
    held_out = scans[1][:12]
    digits.write_held_out(tmp_path, held_out)
    questions = digits.held_out_questions(tmp_path, held_out, digits.LESSON_KINDS)
    assert len(questions) == 12 * len(digits.LESSON_KINDS) and all(
        path.is_file() for q in questions for path in q.images
    )
    about_first = [question.answer for question in questions if question.images[0].stem == "000"]
    assert held_out.digits[0] == 2 and about_first == ["7", "七"]
