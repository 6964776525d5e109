import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_xc2.generation import scores as metrics
from paddle_xc2.generation.scores import (
    METRICS,
    Answer,
    anls,
    bleu,
    box_iou,
    boxes_in,
    choice_of,
    metrics_for,
    options_in,
    rouge_l,
    scores,
    summary,
    words,
)


def edit_distance(first, second):
    """By the definition."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        previous, row = row, [i]
        for j, b in enumerate(second, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (a != b)))
    return row[-1]


def test_words():
    assert " ".join(words("The cat's 3.5 m, 图中a猫。")) == "the cat ' s 3 . 5 m , 图 中 a 猫 。"


def test_rouge_and_bleu_of_known_texts():
    assert rouge_l("a b c d", "a b c d") == 1.0 and rouge_l("a b c d", "e f") == 0.0 and rouge_l("a", "") == 0.0
    # "the cat on the mat": 5 of 6 and of 7 words.
    recall, precision = 5 / 6, 5 / 7
    expected = 2.44 * recall * precision / (recall + 1.44 * precision)
    assert rouge_l("the cat is on the mat", "the cat the cat on the mat") == pytest.approx(expected)
    assert bleu([("a b c d e", "a b c d e")]) == pytest.approx(1.0)
    assert bleu([("a b c d e", "a b c d")]) == pytest.approx(2.718281828 ** (1 - 5 / 4))
    assert bleu([("a b c d", "")]) == 0.0 and bleu([]) == 0.0
    # The corpus's: n-grams are counted over all pairs, (4+0)/8, (3+0)/6, (2+0)/4, (1+0)/2.
    assert bleu([("a b c d", "a b c d"), ("e f g h", "i j k l")]) == pytest.approx(0.5)


def test_common_subsequence_is_paddlenlps():
    from paddlenlp.metrics import RougeL

    draw = random.Random(0)
    for _ in range(30):
        first, second = (draw.choices("abcd", k=draw.randint(0, 12)) for _ in range(2))
        assert metrics._common_words(first, second) == RougeL().lcs(first, second), (first, second)


def test_anls():
    assert anls("Hello  World", "hello world") == 1.0
    assert anls("abcd", "abcx") == pytest.approx(0.75)
    assert anls("abcd", "abyx") == 0.5 and anls("abcd", "azyx") == 0.0
    assert anls("a", "") == 0.0 and anls(" ", "") == 1.0
    draw = random.Random(0)
    for _ in range(20):
        first, second = ("".join(draw.choices("abc", k=draw.randint(1, 9))) for _ in range(2))
        similarity = 1 - edit_distance(first, second) / max(len(first), len(second))
        assert anls(first, second) == pytest.approx(similarity if similarity >= 0.5 else 0.0)


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which?\nA. a cat\nB. a dog\nAnswer with the letter.", {"A": "a cat", "B": "a dog"}),
        ("Which? (A) a cat (B) a dog", {"A": "a cat", "B": "a dog"}),
        ("Which? A: one, B: two, C: three", {"A": "one", "B": "two", "C": "three"}),
        ("哪个？\nA、猫\nB、狗\nC．鸟", {"A": "猫", "B": "狗", "C": "鸟"}),
        ("Is this vitamin A. or not?", {}),
        ("What is in the picture?", {}),
        ("B. first\nC. second", {}),
    ],
)
def test_options(question, options):
    assert options_in(question) == options


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        *(
            ("A", "A"),
            ("b.", "B"),
            ("(a)", "A"),
            ("a", "A"),
            ("c", None),
            ("B.", "B"),
            ("(B)", "B"),
            ("B. a dog", "B"),
            ("a dog", "B"),
            ("A dog.", "B"),
        ),
        *(("A cat", "A"), ("The answer is B", "B"), ("The answer is (B).", "B"), ("答案是A。", "A"), ("选B", "B")),
        *(("C", None), ("", None), ("neither", None), ("The answer is A or the answer is B", None), ("Apple", None)),
        ("The answer is Banana", None),
        *(("B) a dog", "B"), ("(B) a dog", "B"), ("（B）狗", "B"), ("**B**", "B"), ("**B.** A dog", "B")),
        *(("Answer: B", "B"), ("Option A", "A"), ("ANSWER: A.", "A"), ("B)arbara", None)),
    ],
)
def test_choices(answer, letter):
    assert choice_of(answer, {"A": "a cat", "B": "a dog"}) == letter


def test_options_of_one_text_name_no_choice():
    assert choice_of("a cat", {"A": "a cat", "B": "a cat"}) is None


def test_boxes():
    assert boxes_in("<box>(1, 2),(3,4)</box> and [5.5, 6, 7, 8]") == [(1, 2, 3, 4), (5.5, 6, 7, 8)]
    assert boxes_in("[[30,40,10,20]]") == [(10, 20, 30, 40)]
    assert boxes_in("a dog [(1,2),(3,4)]") == [(1, 2, 3, 4)]
    assert boxes_in("[1,2,3] (1,2),(3,4) <box>(1,2)</box>") == []


def test_overlap_of_boxes():
    box = (0, 0, 2, 2)
    assert box_iou([box], [box]) == 1.0
    assert box_iou([box], [(1, 0, 3, 2)]) == pytest.approx(1 / 3)
    assert box_iou([box], [(2, 0, 3, 2)]) == 0.0 and box_iou([box], []) == 0.0 and box_iou([], []) == 0.0
    assert box_iou([(0, 0, 0, 0)], [(0, 0, 0, 0)]) == 0.0  # nothing in it
    far = (10, 10, 12, 12)
    assert box_iou([box, far], [far, box]) == 1.0
    assert box_iou([box, far], [far]) == 0.5 and box_iou([far], [box, far]) == 0.5


def test_what_is_counted():
    choice = Answer("a[0]", "Which?\nA. cat\nB. dog", "B", "dog")
    assert scores(choice)["choice_accuracy"] == 1.0 and scores(choice)["exact_match"] == 0.0
    assert metrics_for(choice.question, choice.expected) == (
        "exact_match",
        "choice_accuracy",
        "rouge_l",
        "anls",
    )
    box = Answer("a[1]", "Where?", "[0,0,2,2]", "<box>(1,0),(3,2)</box>")
    assert scores(box)["box_iou"] == pytest.approx(1 / 3, abs=1e-6)
    text = Answer("a[2]", "What?", "a red house by the river", " a red house by the river\n")
    assert set(scores(text)) == set(METRICS) - {"choice_accuracy", "box_iou"} and set(scores(text).values()) == {1.0}
    over_all = summary([one.record() for one in (choice, box, text)])
    assert list(over_all) == list(METRICS)
    assert metrics_for("Q", "one two three") == ("exact_match", "rouge_l", "anls")
    assert metrics_for("Q", "图中是猫") == ("exact_match", "rouge_l", "bleu", "anls")  # four words
    short = Answer("a[3]", "Who?", "Ann", "Bob")  # says nothing about four words running
    assert summary([text.record(), short.record()])["bleu"] == 1.0 and "bleu" not in summary([short.record()])
    assert over_all["exact_match"] == pytest.approx(1 / 3, abs=1e-6) and over_all["choice_accuracy"] == 1.0
    assert "box_iou" not in summary([text.record()])
    assert text.record() | {"scores": 0} == {
        "source": "a[2]",
        "question": "What?",
        "expected": "a red house by the river",
        "answer": " a red house by the river\n",
        "scores": 0,
    }


@settings(max_examples=40, deadline=None)
@given(*[st.text(st.sampled_from(string.ascii_letters + string.digits + " .,:()[]<>/\n猫图、"), max_size=60)] * 3)
def test_any_text_has_scores_from_0_to_1(question, expected, answer):
    record = Answer("a", question, expected, answer).record()
    assert all(0 <= score <= 1 + 1e-9 for score in [*record["scores"].values(), *summary([record]).values()])
    if expected.strip():
        same = Answer("a", question, expected, expected).record()["scores"]
        assert same["exact_match"] == 1.0 and same["anls"] == 1.0 and same.get("choice_accuracy", 1.0) == 1.0
