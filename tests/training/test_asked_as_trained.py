"""Whatever format the data has: chat, given the picture and the question, asks what training taught."""

import json

import numpy as np
import pytest
from PIL import Image

from paddle_xc2 import XComposer2ForCausalLM, XComposer2Processor, XComposer2Tokenizer
from paddle_xc2.data.images.picture_reading import PictureReading
from paddle_xc2.data.records.conversations import to_conversation
from paddle_xc2.families.table import FAMILIES
from paddle_xc2.training.finetune import finetune
from tests.tiny import TINY_VOCAB_SIZE, tiny_config, tiny_family_tokenizer, tiny_model, tiny_tokenizer

QUESTION = "What is in the picture?"


def turns(question, answer, names=("user", "assistant")):
    return [{"from": names[0], "value": question}, {"from": names[1], "value": answer}]


def said(content, answer):
    return [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]


# A picture, a question and its answer as each format's documents write them.
FORMATS = {
    "xcomposer2": lambda path, q, a: {"image": [path], "conversations": turns(f"<ImageHere>{q}", a)},
    "xcomposer2d5": lambda path, q, a: {"image": path, "conversations": turns(q, a, ("human", "bot"))},
    "chatml": lambda path, q, a: {"conversations": [[f"<img>{path}</img>\n{q}", a]]},
    "llava": lambda path, q, a: {"image": path, "conversations": turns(f"<image>\n{q}", a, ("human", "gpt"))},
    "qwen-vl": lambda path, q, a: {"conversations": turns(f"Picture 1: <img>{path}</img>\n{q}", a)},
    "messages": lambda path, q, a: {"messages": said(f"<image>\n{q}", a), "images": [path]},
    "parts": lambda path, q, a: {
        "messages": said([{"type": "image_url", "image_url": {"url": path}}, {"type": "text", "text": q}], a)
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds model/, of the family whose pictures are followed by a line break, and four pictures."""
    folder = tmp_path_factory.mktemp("asked")
    model = tiny_model(xc2_family="llava-internlm2", vocab_size=TINY_VOCAB_SIZE)
    model.provenance.tokenizer = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(folder / "tokenizer"))
    model.save_pretrained(folder / "model")
    random = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(random.integers(0, 256, (28, 28, 3), np.uint8)).save(folder / f"{index}.png")
    return folder


def records(kind, folder):
    return [FORMATS[kind](str(folder / f"{index}.png"), QUESTION, f"The digit {index}.") for index in range(4)]


@pytest.mark.parametrize("kind", FORMATS)
def test_evaluation_and_chat_give_the_same_answers(folder, config, tmp_path, kind):
    (tmp_path / "data.json").write_text(json.dumps(records(kind, folder)))
    data = [{"name": kind, "data_files": str(tmp_path / "data.json")}]
    keys = {"do_eval": True, "eval_with_do_generation": True, "save_generation_output": True, "max_new_tokens": 8}
    keys |= {"learning_rate": 1e-2, "max_steps": 6, "model_name_or_path": str(folder / "model")}
    assert finetune(config(dataset={"train": data, "eval": data}, **keys)) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions-6.jsonl").read_text().splitlines()]
    model = XComposer2ForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = XComposer2Tokenizer.from_pretrained(tmp_path / "out")
    settings = {"do_sample": False, "max_new_tokens": 8, "repetition_penalty": 1.0}
    chatted = [model.chat(tokenizer, QUESTION, str(folder / f"{index}.png"), **settings)[0] for index in range(4)]
    assert chatted == [line["answer"] for line in lines] and len(set(chatted)) > 1


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_prompts_of_every_family_and_format_are_those_of_chat(folder, family, tmp_path):
    sizes = {"img_size": 28} if not next(one for one in FAMILIES if one.name == family).tiling else {}
    config = tiny_config(xc2_family=family, **sizes)
    config.chat_layout = "as_trained"
    processor = XComposer2Processor.for_config(config, tiny_family_tokenizer(tmp_path, family))
    asked = processor.encode_chat(QUESTION, [folder / "0.png"])
    for kind in FORMATS:
        trained = processor.encode_question(to_conversation(records(kind, folder)[0], "r"))
        # What stands within the question stays there; these two show it elsewhere, or with its number.
        same = trained.input_ids.tolist() == asked.input_ids.tolist()
        assert same is not (family in ("xcomposer2d5-7b", "qwen-vl") and kind == "xcomposer2"), kind
        np.testing.assert_array_equal(trained.pixel_values[0], asked.pixel_values[0])


@pytest.mark.parametrize("lora", [False, True])
def test_pictures_are_read_as_in_training(folder, config, tmp_path, lora, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "0.png").convert("RGBA").save(tmp_path / "0.png", exif=exif)
    record = FORMATS["llava"](str(tmp_path / "0.png"), QUESTION, "The digit 0.")
    (tmp_path / "data.json").write_text(json.dumps([record]))
    data = {"train": [{"name": "data", "data_files": str(tmp_path / "data.json")}]}
    keys = {"dataset": data, "max_steps": 1, "model_name_or_path": str(folder / "model"), "lora": lora}
    assert finetune(config(**keys, exif=True, background="white")) == 0
    asked = XComposer2Processor.from_pretrained(tmp_path / "out")
    assert asked.reading == PictureReading(exif=True, background="white")
    model = XComposer2ForCausalLM.from_pretrained(tmp_path / "out")
    assert XComposer2Processor.for_config(model.config).reading == asked.reading
    assert "EXIF" not in capsys.readouterr().out
    assert finetune(config(**keys, output_dir=str(tmp_path / "plain"))) == 0
    assert XComposer2Processor.from_pretrained(tmp_path / "plain").reading == PictureReading()
    assert (
        '1 x picture shown as it is stored, not as its EXIF orientation says; "exif": true' in capsys.readouterr().out
    )
    with pytest.raises(ValueError, match='background is "whit", which is no colour'):
        finetune(config(**keys, background="whit"))
