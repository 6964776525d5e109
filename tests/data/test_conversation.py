"""What a conversation may be, and the message for everything that it may not be."""

import pytest

from paddle_xc2.data.conversation import (
    Conversation,
    DataError,
    Message,
    broken_rules,
    check_trainable,
    place_leading_image,
)

QUESTION, ANSWER = Message("user", "What is it?"), Message("assistant", "A cat.")
PICTURE = Message("user", "<ImageHere>What is it?")


def test_what_is_allowed():
    system = Message("system", "Be brief.")
    for messages, images in (
        ((QUESTION,), ()),
        ((system, QUESTION, ANSWER), ()),
        ((PICTURE, ANSWER, QUESTION), ("a.png",)),
        ((Message("user", "<ImageHere> or <ImageHere>?"), Message("assistant", "<ImageHere>")), ("a", "b")),
        ((QUESTION, Message("assistant", "<p><s>9.99</s> <ImageHere><ImageHere>")), ("a",)),
        ((QUESTION, ANSWER), ("a.png",)),  # a single image needs no placeholder
        ((Message("user", ""), ANSWER), ()),
    ):
        conversation = Conversation(messages, images, "train.json[17]")
        assert conversation.messages == messages and conversation.images == images


@pytest.mark.parametrize(
    "messages, images, message",
    [
        ((), (), "there is no message; a conversation needs at least one question"),
        ((Message("robot", "Hi"),), (), 'message 0 has role "robot"; use one of system, user, assistant'),
        ((QUESTION, Message("system", "Hi")), (), "message 1 is a system turn; only the first message can be one"),
        ((QUESTION, QUESTION), (), "messages 0 and 1 are both from the user; question and answer must alternate"),
        ((ANSWER, QUESTION), (), "the conversation starts with the assistant; the first turn must be the user's"),
        ((Message("system", "Hi"), ANSWER), (), "the conversation starts with the assistant; the first turn must be"),
        ((Message("system", "Hi"),), (), "the conversation starts with the system; the first turn must be the user's"),
        ((PICTURE,), (), "the messages hold 1 <ImageHere> but 0 images are given; write one <ImageHere> per image"),
        ((Message("user", "<ImageHere><ImageHere>"),), ("a",), "the messages hold 2 <ImageHere> but 1 image is given"),
        ((PICTURE, Message("assistant", "<ImageHere>")), ("a", "b"), "the messages hold 1 <ImageHere> but 2 images are "
         "given; write one <ImageHere> per image; the 1 in answers are text: images belong into questions"),
        ((QUESTION,), ("a", "b"), "the messages hold 0 <ImageHere> but 2 images are given; write one <ImageHere> per"),
        ((QUESTION, Message("assistant", " \n")), (), "message 1 (assistant) is empty; write the answer or remove the"),
    ],
)  # fmt: skip
def test_what_is_not(messages, images, message):
    with pytest.raises(DataError) as caught:
        Conversation(messages, images, "train.json[17]")
    assert str(caught.value).startswith(f"train.json[17]: {message}")


def test_every_broken_rule_is_found():
    messages = (Message("assistant", "[UNUSED_TOKEN_145]"), Message("assistant", ""), Message("system", "<ImageHere>"))
    errors = list(broken_rules(messages, 2, "r"))
    assert [error.rule for error in errors] == [
        *("reserved text", "roles", "roles", "roles", "placeholders", "empty answer"),
    ]  # fmt: skip
    with pytest.raises(DataError) as caught:
        Conversation(messages, ("a", "b"), "r")
    assert str(caught.value) == str(errors[0]) and caught.value.rule == "reserved text"
    assert DataError("r: a key is missing").rule == "schema"


@pytest.mark.parametrize("reserved", ["[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]"])
@pytest.mark.parametrize("place", [0, 1])
def test_no_message_can_forge_a_turn(reserved, place):
    messages = [QUESTION, ANSWER]
    messages[place] = Message(messages[place].role, f"Hi{reserved}")
    with pytest.raises(DataError) as caught:
        Conversation(tuple(messages), source="train.json[17]")
    assert str(caught.value) == (
        f"train.json[17]: message {place} holds {reserved}, which the prompt template uses itself; "
        "remove it or write it differently"
    )


def test_a_training_sample_ends_with_an_answer():
    check_trainable(Conversation((QUESTION, ANSWER)))
    with pytest.raises(
        DataError, match=r"train.json\[17\]: the last message is from the user; a training sample must end"
    ):
        check_trainable(Conversation((QUESTION, ANSWER, QUESTION), source="train.json[17]"))


def test_a_data_error_is_a_users_mistake():
    assert issubclass(DataError, ValueError)


def test_a_single_image_without_a_place_leads():
    assert Conversation((QUESTION,), ("a",)).image_leads
    assert not Conversation((PICTURE,), ("a",)).image_leads
    assert not Conversation((QUESTION,)).image_leads


def test_leading_image_goes_before_the_first_question():
    system = Message("system", "Be brief.")
    placed = place_leading_image((system, QUESTION, ANSWER, QUESTION), "<ImageHere>")
    assert placed == (system, PICTURE, ANSWER, QUESTION)
