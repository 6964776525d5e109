"""How a model is asked: one owner of these settings, whoever asks for them."""

import json

import pytest

from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.families.asked_as import SETTINGS, AskedAs
from paddle_xc2.families.table import FAMILIES, family_named
from paddle_xc2.weights.position_table import change_image_size
from tests.tiny import tiny_checkpoint, tiny_config

LLAVA, TILED = family_named("llava-internlm2"), family_named("xcomposer2-4khd-7b")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_way_to_a_processor_has_the_familys_max_length(family):
    sizes = {"img_size": family.image_size if family.tiling else 28}
    config = tiny_config(xc2_family=family.name, **sizes)
    assert config.max_length == family.max_length
    assert XComposer2Processor(family, None, family.image_size).max_length == family.max_length
    assert XComposer2Processor.for_config(config).max_length == family.max_length


def test_of_a_checkpoint_too(tmp_path):
    """LLaVA's is 2048, though upstream's config.json may hold another number."""
    path = tiny_checkpoint(tmp_path, max_length=4096)
    content = json.loads((path / "config.json").read_text()) | {"xc2_family": "llava-internlm2"}
    (path / "config.json").write_text(json.dumps(content))
    assert XComposer2Processor.from_pretrained(path).max_length == 2048
    (path / "config.json").write_text(json.dumps(content | {"chat_layout": "as_trained", "max_length": 77}))
    assert XComposer2Processor.from_pretrained(path).max_length == 77  # it was fine-tuned with it
    assert XComposer2Processor.from_pretrained(path, max_length=78).max_length == 78


def test_of_a_model_what_it_was_fine_tuned_with():
    config = tiny_config(xc2_family=LLAVA.name, chat_layout="as_trained", max_length=99, pad_image_to_square=False)
    assert AskedAs.of_model(config) == AskedAs("as_trained", 99, None, 28, False)
    assert AskedAs.of_model(config, max_length=5, img_size=42, pad_image_to_square=True, chat_layout="official") == (
        AskedAs("official", 5, None, 42, True)
    )


def test_what_is_recorded_is_what_is_read():
    asked = AskedAs.of_family(LLAVA, "as_trained", 123, -1, 28, False)
    config = tiny_config(xc2_family=LLAVA.name)
    asked.record(config)
    assert AskedAs.of_model(config) == asked
    assert SETTINGS == ("chat_layout", "max_length", "hd_num", "img_size", "pad_image_to_square", "exif", "background")


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        (LLAVA, {"max_length": 0}, "max_length is 0, but must be at least 1, or left out"),
        (LLAVA, {"max_length": -5}, "max_length is -5, but must be at least 1, or left out"),
        (LLAVA, {"max_length": 2.5}, "max_length is 2.5, but must be a whole number, or left out"),
        (LLAVA, {"max_length": True}, "max_length is True, but must be a whole number, or left out"),
        (LLAVA, {"img_size": 0}, "img_size is 0, but must be at least 1, or left out"),
        (LLAVA, {"img_size": "28"}, "img_size is '28', but must be a whole number, or left out"),
        (LLAVA, {"chat_layout": ""}, 'chat_layout "" is not one of official, as_trained'),
        (LLAVA, {"hd_num": 3}, "hd_num is 3, but llava-internlm2 takes no tiles; leave it out or set -1"),
        (TILED, {"hd_num": 0}, "hd_num is 0, but an image takes at least 1 tile"),
        (TILED, {"hd_num": 2.5}, "hd_num is 2.5, but must be a whole number, or left out"),
        (TILED, {"pad_image_to_square": False}, "pad_image_to_square is False, but xcomposer2-4khd-7b neither pads"),
        (LLAVA, {"pad_image_to_square": 1}, "pad_image_to_square is 1, but must be true, false or left out"),
    ],
)
def test_wrong_values(family, given, message):
    with pytest.raises(ValueError) as caught:
        AskedAs.of_family(family, **given)
    assert str(caught.value).startswith(message)
    names = {"img_size": "image_size"}
    with pytest.raises(ValueError) as caught:
        XComposer2Processor(family, None, **{"image_size": 28, **{names.get(k, k): v for k, v in given.items()}})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("family", "img_size", "message"),
    [
        (LLAVA.name, 30, "img_size 30 is no multiple of 14 pixels, the side of an image token"),
        (TILED.name, 28, "img_size is 28, but the tiles of xcomposer2-4khd-7b are always 336 pixels; leave img_size"),
    ],
)
def test_image_sizes_that_a_model_can_not_have(family, img_size, message):
    config = tiny_config(xc2_family=family, **({"img_size": 336} if family == TILED.name else {}))
    for ask in (lambda: AskedAs.of_model(config, img_size=img_size), lambda: change_image_size(config, img_size)):
        with pytest.raises(ValueError) as caught:
            ask()
        assert str(caught.value).startswith(message)
