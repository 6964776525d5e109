"""Every family through the same batch: text, one image, several images of unequal size, several turns."""

from dataclasses import replace

import numpy as np
import paddle
import pytest
from PIL import Image

from paddle_xc2.data.conversation import Conversation, Message
from paddle_xc2.families.special_tokens import IGNORE_INDEX
from paddle_xc2.families.table import FAMILIES
from paddle_xc2.model import CLASSES
from tests.tiny import tiny_family_tokenizer, tiny_model

# float32 on a CPU: the largest difference over families and layouts was 5.8e-6 for logits of up to 6.6, 2.5e-7 for
# losses; margin 4x covers other CPUs.
LOGITS_ATOL, LOSS_ATOL = 2.4e-5, 1e-6


def picture(width, height, seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, [height, width, 3], np.uint8))


SAMPLES = (
    Conversation((Message("user", "Which digit?"), Message("assistant", "The digit 7."))),
    Conversation((Message("user", "<ImageHere>What?"), Message("assistant", "A house.")), (picture(400, 300, 0),)),
    Conversation(
        (
            Message("user", "First <ImageHere>, then <ImageHere>: which is larger?"),
            Message("assistant", "The second."),
            Message("user", "Are you sure?"),
            Message("assistant", "是的。"),
        ),
        (picture(350, 200, 1), picture(180, 700, 2)),
    ),
    Conversation((Message("user", "What is it?"), Message("assistant", "河边的房子。")), (picture(90, 90, 3),)),
)


@pytest.fixture(scope="module", params=[family.name for family in FAMILIES])
def setting(request, tmp_path_factory):
    """(model, processor, the encoded samples) of a family."""
    family = next(family for family in FAMILIES if family.name == request.param)
    sizes = {"img_size": family.image_size} if family.tiling else {}
    model = tiny_model(xc2_family=family.name, **sizes)
    tokenizer = tiny_family_tokenizer(tmp_path_factory.mktemp("tokenizer"), family.name)
    processor = CLASSES[family.network].processor.for_config(
        model.config, tokenizer, hd_num=3 if family.tiling else None
    )
    processor.asked_as = replace(processor.asked_as, max_length=20000)
    return model, processor, [processor.encode_conversation(sample) for sample in SAMPLES]


@pytest.fixture(scope="module")
def alone(setting):
    """Logits and loss of every sample by itself."""
    model, processor, examples = setting
    results = []
    with paddle.no_grad():
        for example in examples:
            out = model(**processor.collate([example]))
            results.append((out.logits[0].numpy(), float(out.loss)))
    return results


def test_tiled_images_of_one_sample_differ_in_size(setting):
    model, _, examples = setting
    shapes = {pixels.shape for pixels in examples[2].pixel_values}
    assert len(shapes) == (2 if model.config.family.tiling else 1)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_padded_batch_equals_its_samples(setting, alone, side):
    model, processor, examples = setting
    batch = processor.collate(examples, padding_side=side)
    with paddle.no_grad():
        out = model(**batch)
        logits = out.logits.numpy()
    for row, (example, (want, _)) in enumerate(zip(examples, alone, strict=True)):
        columns = slice(0, len(example)) if side == "right" else slice(logits.shape[1] - len(example), None)
        np.testing.assert_allclose(logits[row, columns], want, rtol=0, atol=LOGITS_ATOL)
    check_loss(out.loss, examples, alone)


def test_a_packed_row_equals_its_samples(setting, alone):
    model, processor, examples = setting
    with paddle.no_grad():
        out = model(**processor.collate(examples, packed=True))
        logits = out.logits[0].numpy()
    np.testing.assert_allclose(logits, np.concatenate([want for want, _ in alone]), rtol=0, atol=LOGITS_ATOL)
    check_loss(out.loss, examples, alone)


def check_loss(loss, examples, alone):
    tokens = [example.num_trained_tokens for example in examples]
    assert float(loss) == pytest.approx(np.average([one for _, one in alone], weights=tokens), abs=LOSS_ATOL)


def test_images_are_counted_without_being_read(setting):
    _, processor, examples = setting
    for sample, example in zip(SAMPLES, examples, strict=True):
        assert processor.num_tokens(sample) == len(example)


def test_image_tokens_matter(setting, alone):
    model, processor, examples = setting
    batch = processor.collate([examples[1]])
    batch["pixel_values"] = [pixels + 1.0 for pixels in batch["pixel_values"]]
    with paddle.no_grad():
        changed = model(**batch).logits[0].numpy()
    assert np.abs(changed[-1] - alone[1][0][-1]).max() > 1e-3


def test_chat_batch_equals_one_by_one(setting):
    model, processor, _ = setting
    questions = [
        ("Which digit?", ()),
        ("What?", SAMPLES[1].images),
        ("<ImageHere><ImageHere>Which?", SAMPLES[2].images),
    ]
    prompts = [processor.encode_chat(query, images) for query, images in questions]
    settings = {"max_new_tokens": 4, "eos_token_id": []}

    def answers(examples):
        batch = processor.collate(examples, padding_side="left")
        del batch["labels"]
        return model.generate(**batch, **settings)[0].tolist()

    assert answers(prompts) == [answers([prompt])[0] for prompt in prompts]


def test_a_question_is_the_training_sample_up_to_its_last_answer(setting):
    _, processor, examples = setting
    for sample, example in zip(SAMPLES, examples, strict=True):
        question = processor.encode_question(sample)
        length = len(question)
        assert question.input_ids.tolist() == example.input_ids[:length].tolist()
        assert question.image_mask.tolist() == example.image_mask[:length].tolist()
        assert (question.labels == IGNORE_INDEX).all() and question.source == sample.source
        *_, last_answer = np.flatnonzero(np.diff((example.labels != IGNORE_INDEX).astype(int)) == 1) + 1
        if not processor.family.template.document_end:
            assert length == last_answer
        else:  # what closes the sample is trained after a newline that is not
            assert example.labels[length] != IGNORE_INDEX and length <= last_answer
        for pixels, trained in zip(question.pixel_values, example.pixel_values, strict=True):
            np.testing.assert_array_equal(pixels, trained)
