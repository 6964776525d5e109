"""The text of samples and prompts is upstream's, character by character."""

from itertools import groupby

import pytest

from paddle_xc2.data.chat_template import render_prompt, render_training
from paddle_xc2.data.conversation import Message
from paddle_xc2.data.records.dialects import read_record
from paddle_xc2.families.table import XCOMPOSER2_TEMPLATE, Template
from tests.golden import Golden


@pytest.fixture(scope="module")
def golden():
    return Golden()


def text_of(spans):
    return "".join(span.text for span in spans)


def joined(spans):
    """(text, whether it is trained) of neighbours that are alike in that."""
    return [(text_of(group), trained) for trained, group in groupby(spans, lambda span: span.trained)]


@pytest.mark.parametrize("name", ["one_image", "two_images", "text", "multi_turn"])
def test_training_text_is_upstreams(golden, name):
    """And so is what is trained of it (`label_tokens_text`: with the space that upstream's decoding puts in front)."""
    messages, _ = read_record(golden.record(name), name)
    spans = render_training(messages, XCOMPOSER2_TEMPLATE)
    assert text_of(spans) == golden.facts["train_samples"][name]["text"]
    trained = text_of([span for span in spans if span.trained])
    assert trained == golden.facts["train_forward"][name]["label_tokens_text"][0].removeprefix(" ")


MESSAGES = (Message("user", " Hello?\n"), Message("assistant", "\n Yes. "), Message("user", "Who?"))


def test_prompt_text():
    """Upstream's chat keeps white space around messages; training takes it off."""
    want = (
        "[UNUSED_TOKEN_146]user\n Hello?\n[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n\n Yes. [UNUSED_TOKEN_145]\n"
        "[UNUSED_TOKEN_146]user\nWho?[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n"
    )
    assert joined(render_prompt(MESSAGES, XCOMPOSER2_TEMPLATE, as_trained=False)) == [(want, False)]
    stripped = want.replace(" Hello?\n", "Hello?").replace("\n Yes. ", "Yes.")
    assert joined(render_prompt(MESSAGES, XCOMPOSER2_TEMPLATE, as_trained=True)) == [(stripped, False)]


def test_a_prompt_is_the_beginning_of_its_training_sample():
    answered = (*MESSAGES, Message("assistant", "Me."))
    training = text_of(render_training(answered, XCOMPOSER2_TEMPLATE))
    prompt = text_of(render_prompt(MESSAGES, XCOMPOSER2_TEMPLATE, as_trained=True))
    assert training == prompt + "Me.[UNUSED_TOKEN_145]\n</s>"


def test_a_system_turn_is_not_trained_and_changes_nothing_else():
    """Upstream's mask counts closing tokens, so that a system turn would turn it inside out (quirk 7)."""
    plain = render_training((*MESSAGES[:2],), XCOMPOSER2_TEMPLATE)
    with_system = render_training((Message("system", "Be brief."), *MESSAGES[:2]), XCOMPOSER2_TEMPLATE)
    assert with_system[len(with_system) - len(plain) :] == plain
    system = with_system[: len(with_system) - len(plain)]
    assert joined(system) == [("[UNUSED_TOKEN_146]system\nBe brief.[UNUSED_TOKEN_145]\n", False)]


def test_who_says_what():
    spans = render_training(MESSAGES[:2], XCOMPOSER2_TEMPLATE)
    assert [(span.text, span.speaker) for span in spans if span.speaker] == [("Hello?", "user"), ("Yes.", "assistant")]
    spans = render_prompt(MESSAGES[:2], XCOMPOSER2_TEMPLATE, as_trained=True)
    assert [(span.text, span.speaker) for span in spans if span.speaker] == [("Hello?", "user"), ("Yes.", "assistant")]


def test_a_template_without_a_document_end():
    """What closes a turn is trained; the line break after it is only where a document end follows."""
    template = Template("<|im_start|>", "<|im_end|>", document_end="", stop_tokens=("<|im_end|>",))
    assert joined(render_training(MESSAGES[:2], template)) == [
        ("<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n", False),
        ("Yes.<|im_end|>", True),
        ("\n", False),
    ]
