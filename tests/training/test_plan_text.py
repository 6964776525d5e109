import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paddle_xc2.data.findings import Finding
from paddle_xc2.data.mixture import Dataset, DatasetSpec
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.data.records.conversations import load_conversations
from paddle_xc2.data.samples import fit_samples
from paddle_xc2.messages import PrintableOutput
from paddle_xc2.training.learning.parts import set_trainable
from paddle_xc2.training.plan_text import first_sample_text, plan_lines
from paddle_xc2.training.run_folder.start import StartingPoint
from tests.tiny import tiny_model


def said_by(plan):
    model = tiny_model()
    return "\n".join(plan_lines(plan, model.config, set_trainable(model), "a CPU", 10**9))


def test_mixture_is_told(samples, plan_of):
    first, second = (
        Dataset(DatasetSpec(name, (), **quota), records, False)
        for name, quota, records in (("many", {"num_samples": 1200}, 5), ("few", {"ratio": 0.5}, 8))
    )
    mixed = replace(samples, dataset_of=np.repeat([0, 1], [5, 8]), datasets=(first, second))
    plan = plan_of(mixed, num_train_epochs=1)
    assert plan.num_steps == 301
    assert (
        "an epoch     data set  records  asked  drawn  unique\n"
        "             many            5  1,200  1,200       5\n"
        "             few             8      4      4       4\n"
    ) in said_by(plan)
    assert "records  asked" not in said_by(plan_of(samples))
    assert "records  asked" in said_by(plan_of(samples, mixture="official"))


def test_packing_is_told(samples, plan_of):
    plan = plan_of(samples, mixtoken=True, max_tokens_per_batch=150)
    text = said_by(plan)
    rows = len(plan.order.plan_of(0).row_ends)
    assert re.search(
        r"step +4 rows of up to 150 tokens, about [\d.]+ samples = 2 a batch x 2 accumulated x 1 process; on av", text
    )
    full = samples.lengths[:, 0].sum() / (150 * rows)
    assert re.search(rf"[\d.]+% of what is computed is padding; rows are {full:.1%} full", text)
    assert plan_of(samples, mixtoken=True).layout.row_tokens == samples.max_length


def test_token_budget_is_told(samples, plan_of):
    text = said_by(plan_of(samples, max_tokens_per_batch=150))
    assert re.search(
        r"step +about [\d.]+ samples = as many a batch as stay within 150 tokens x 2 accumulated x 1", text
    )
    with pytest.raises(
        ValueError, match=r"train.json\[\d+\]: the sample has \d+ tokens, more than max_tokens_per_batch 30"
    ):
        said_by(plan_of(samples, max_tokens_per_batch=30))


def test_padding_is_told(samples, plan_of):
    uneven = replace(samples, lengths=samples.lengths * np.array([[1 + 9 * (index % 2)] for index in range(13)]))
    assert re.search(r"\n +[\d.]+% of what is computed is padding; mixtoken packs", said_by(plan_of(uneven)))
    assert "mixtoken packs" not in said_by(plan_of(samples, per_device_train_batch_size=1))


def test_one_sample_a_step_is_told_as_one(samples, plan_of):
    alone = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    assert "step         1 sample = 1 a batch x 1 accumulated" in said_by(plan_of(samples, **alone))
    assert "step         1 row of up to" in said_by(plan_of(samples, **alone, mixtoken=True))


def test_lines(samples, plan_of):
    model = tiny_model()
    start = StartingPoint(Path("out/checkpoint-4"), 4, {}, 1)
    arguments = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 3}
    plan = plan_of(samples, samples, start, num_train_epochs=3, fix_vit=True, **arguments)
    text = "\n".join(plan_lines(plan, model.config, set_trainable(model, fix_vit=True), "a CPU", 10**9))
    for said in (
        r"model        model \(xcomposer2-\S+, 28 pixels\)",
        r"precision    float32 on a CPU",
        r"trained      PLoRA +409,600 of +409,600",
        r"ViT +0 of +35,120   frozen",
        r"all +528,832 of +563,952",
        r"samples      13, \d+ tokens on average, the longest \d+",
        r"evaluation   13, ",
        r"step         4 samples = 2 a batch x 2 accumulated x 1 process; on average \d+ tokens, \d+ of them image tok",
        r"schedule     12 steps in 3 epochs, 1 of warm-up, then cosine from learning rate 1e-05; AdamW, weight decay 0",
        r"checkpoints  every 2 steps, the newest 3 kept, in out",
        r"memory       about [\d.]+ MB a process: weights 2.26 MB, gradients 2.1\d MB, optimizer 4.2\d MB, activations",
        r"goes on      after step 4, from out/checkpoint-4",
    ):
        assert re.search(said, text), said


def test_a_plan_of_one_step(samples, plan_of):
    model = tiny_model()
    plan = plan_of(samples, max_steps=1, save_strategy="steps", save_steps=1)
    text = "\n".join(plan_lines(plan, model.config, set_trainable(model), "a CPU", 10**9))
    assert "schedule     1 step, " in text and "checkpoints  every step, " in text


def test_refused_samples_are_listed(workspace, samples, plan_of):
    short = XComposer2Processor.from_pretrained(workspace / "model", max_length=31)
    fitting = fit_samples(load_conversations(workspace / "train.json"), short, leave_out=True)
    model = tiny_model()
    text = "\n".join(plan_lines(plan_of(fitting), model.config, set_trainable(model), "a CPU", 10**9))
    assert f"{len(fitting.refused)} more are left out because they are too long:" in text
    assert fitting.refused[0] in text and f"and {len(fitting.refused) - 5} more" in text


def test_shortened_samples_are_told(samples, plan_of):
    model = tiny_model()
    lines = plan_lines(plan_of(replace(samples, num_shortened=2)), model.config, set_trainable(model), "a CPU", 10**9)
    assert any("2 of them lose their oldest turns to fit max_length" in line for line in lines)


def test_oddities_of_the_data_are_told(samples, plan_of):
    notes = Notes()
    notes.add("messages before the first question, left out", "train.json[3]", 1200)
    said = "\n             1,200 x messages before the first question, left out (first: train.json[3])\n"
    assert said in said_by(plan_of(replace(samples, notes=notes)))


def test_too_little_memory_is_told(samples, plan_of):
    model = tiny_model()
    lines = plan_lines(plan_of(samples), model.config, set_trainable(model), "a CPU", 10**6)
    assert "this is more than the 1 MB of the device: it will most likely run out" in lines[-1]


def test_first_sample(processor, samples):
    conversation, example = processor.lay_out(samples.conversations[2])
    text = "".join(first_sample_text(example, [4, 4], processor.tokenizer, colour=False))
    assert text == (
        "<s>[UNUSED_TOKEN_146]user\n<image: 4 tokens><image: 4 tokens>Which digit is 2?[UNUSED_TOKEN_145]\n"
        "[UNUSED_TOKEN_146]assistant\n⟦The digit 4.[UNUSED_TOKEN_145]\n</s>⟧"
    )
    coloured = first_sample_text(example, [4, 4], processor.tokenizer, colour=True)
    assert "\x1b[32mThe digit 4." in "".join(coloured) and "⟦" not in coloured
    stream = io.StringIO()
    PrintableOutput(stream).writelines(["\x1b[32mof the data", *coloured])
    assert stream.getvalue().startswith("\\x1b[32mof the data") and "\x1b[32mThe digit 4." in stream.getvalue()


def test_bad_records_that_are_left_out_are_counted(samples, plan_of):
    bad = {"image damaged": Finding(True, 2, [(3, "train.json[3]: cut.png: the image can't be read")])}
    said = "\n             2 records can't be used and are left out:\n               image damaged: 2\n"
    assert said in said_by(plan_of(replace(samples, bad=bad, num_bad=2)))
