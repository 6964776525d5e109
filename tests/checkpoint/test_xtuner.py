"""XTuner's folders: read whichever way they are laid out, written as XTuner writes them."""

import json
import shutil

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from paddle_xc2 import XComposer2ForCausalLM, XComposer2Processor, XComposer2Tokenizer
from paddle_xc2.weights.convert import convert
from tests.tiny import TINY_VOCAB_SIZE, tiny_model, tiny_tokenizer

FOLDERS = ("", "projector", "visual_encoder")


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A LLaVA in XTuner's layout, the language model at the root."""
    directory = tmp_path_factory.mktemp("llava") / "hf"
    model = tiny_model(xc2_family="llava-internlm2", vocab_size=TINY_VOCAB_SIZE)
    model.save_pretrained(directory, to="hf")
    tiny_tokenizer(directory)
    return directory


def tensors(directory):
    return {
        f"{folder}/{name}": value
        for folder in FOLDERS
        for file in (directory / folder).glob("*.safetensors")
        for name, value in load_file(file).items()
    }


def in_llm_folder(llava, directory):
    """The same checkpoint with the language model in llm/."""
    shutil.copytree(llava, directory)
    (directory / "llm").mkdir()
    for path in [path for path in directory.iterdir() if path.is_file()]:
        path.rename(directory / "llm" / path.name)
    return directory


def test_names_are_xtuners(llava):
    names = set(tensors(llava))
    assert "/model.layers.0.attention.wqkv.weight" in names and "projector/model.2.bias" in names
    assert "visual_encoder/vision_model.encoder.layers.0.self_attn.q_proj.weight" in names
    assert not any("lora" in name.lower() for name in names)
    assert json.loads((llava / "config.json").read_text())["architectures"] == ["InternLM2ForCausalLM"]
    assert json.loads((llava / "visual_encoder/config.json").read_text())["image_size"] == 28


def test_both_places_of_the_language_model_give_the_same_logits(llava, tmp_path):
    ids = paddle.to_tensor([[1, 5, 6, 7]])
    one = XComposer2ForCausalLM.from_pretrained(llava)
    other = XComposer2ForCausalLM.from_pretrained(in_llm_folder(llava, tmp_path / "llm"))
    assert one.config.xc2_family == "llava-internlm2"
    np.testing.assert_array_equal(one(ids).logits.numpy(), other(ids).logits.numpy())


def test_tokenizer_and_processor_read_both_places(llava, tmp_path):
    split = in_llm_folder(llava, tmp_path / "llm")
    for directory in (llava, split):
        processor = XComposer2Processor.from_pretrained(directory)
        assert processor.family.name == "llava-internlm2" and processor.image_size == 28
        assert XComposer2Tokenizer.from_pretrained(directory).vocab_size == TINY_VOCAB_SIZE


@pytest.mark.parametrize("llm", [False, True])
def test_there_and_back_is_the_identity(llava, tmp_path, llm):
    source = in_llm_folder(llava, tmp_path / "source") if llm else llava
    convert(source, tmp_path / "paddle")
    convert(tmp_path / "paddle", tmp_path / "hf", to="hf")
    before, after = tensors(llava), tensors(tmp_path / "hf")
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    for file in ("config.json", "projector/config.json", "visual_encoder/preprocessor_config.json"):
        assert json.loads((tmp_path / "hf" / file).read_text()) == json.loads((llava / file).read_text())
    assert (tmp_path / "hf/tokenizer.model").is_file()


def test_a_changed_byte_in_a_part_is_found(llava, tmp_path):
    convert(llava, tmp_path / "hf", to="hf")
    path = tmp_path / "hf/projector/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="projector/model.safetensors has changed"):
        XComposer2ForCausalLM.from_pretrained(tmp_path / "hf", verify=True)


@pytest.mark.parametrize("folder", ["projector", "visual_encoder"])
def test_a_missing_part_is_named(llava, tmp_path, folder):
    shutil.copytree(llava, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / folder)
    with pytest.raises((FileNotFoundError, ValueError), match=f"{folder}"):
        XComposer2ForCausalLM.from_pretrained(tmp_path / "cut")


def test_a_foreign_tensor_in_a_part_is_refused(llava, tmp_path):
    shutil.copytree(llava, tmp_path / "odd")
    shutil.copy(llava / "visual_encoder/model.safetensors", tmp_path / "odd/projector/model.safetensors")
    (tmp_path / "odd/projector/model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match="projector: holds vision_model.* expected only names that begin with model."):
        XComposer2ForCausalLM.from_pretrained(tmp_path / "odd")


def test_a_language_model_alone_is_no_llava(llava, tmp_path):
    shutil.copytree(llava, tmp_path / "llm")
    for folder in ("projector", "visual_encoder"):
        shutil.rmtree(tmp_path / "llm" / folder)
    with pytest.raises(ValueError, match="this is a language model alone, a LLaVA has the folders projector and"):
        XComposer2ForCausalLM.from_pretrained(tmp_path / "llm")


def test_the_reference_checkpoints(shared, tmp_path):
    ids = paddle.to_tensor([[1, 5, 6, 7]])
    golden = shared / "goldens/llava_internlm2"
    logits = [
        XComposer2ForCausalLM.from_pretrained(golden / name)(ids).logits.numpy() for name in ("ckpt", "ckpt_llm_subdir")
    ]
    np.testing.assert_array_equal(*logits)


def lora(directory, name, shape, alpha=32, rank=4, **settings):
    """Writes an adapter of one weight as PEFT does; returns the update that it means, [out, in]."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    a = rng.normal(size=(rank, shape[1])).astype(np.float32)
    b = rng.normal(size=(shape[0], rank)).astype(np.float32)
    module = name.removesuffix(".weight")
    save_file(
        {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b},
        directory / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, **settings}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return alpha / rank * b @ a


def test_adapters_beside_are_merged(llava, tmp_path):
    """XTuner saves a part that was trained with LoRA as an adapter, and not the part itself."""
    split = in_llm_folder(llava, tmp_path / "base")
    trained = tmp_path / "trained"
    trained.mkdir()
    shutil.copytree(llava / "projector", trained / "projector")
    before = tensors(llava)
    wo, q = "model.layers.0.attention.wo.weight", "vision_model.encoder.layers.0.self_attn.q_proj.weight"
    wo_shape, q_shape = before["/" + wo].shape, before["visual_encoder/" + q].shape
    wo_update = lora(trained / "llm_adapter", wo, wo_shape, base_model_name_or_path=str(split / "llm"))
    q_update = lora(trained / "visual_encoder_adapter", q, q_shape, base_model_name_or_path="../base/visual_encoder")
    model = XComposer2ForCausalLM.from_pretrained(trained)
    parameters = dict(model.named_parameters())
    np.testing.assert_allclose(
        parameters["model.layers.0.attention.wo.linear.weight"].numpy().T, before["/" + wo] + wo_update, rtol=1e-6
    )
    np.testing.assert_allclose(
        parameters["vit.layers.0.self_attn.q_proj.weight"].numpy().T,
        before["visual_encoder/" + q] + q_update,
        rtol=1e-6,
    )
    assert XComposer2Processor.from_pretrained(trained).tokenizer.vocab_size == TINY_VOCAB_SIZE
    convert(trained, tmp_path / "paddle")
    again = dict(XComposer2ForCausalLM.from_pretrained(tmp_path / "paddle").named_parameters())
    assert all((again[name].numpy() == parameter.numpy()).all() for name, parameter in parameters.items())


@pytest.mark.parametrize(
    ("name", "shape", "settings", "message"),
    [
        (
            "model.layers.9.attention.wo.weight",
            (64, 64),
            {},
            "1 of its 1 tensors don't fit the base model, first model.layers.9",
        ),
        ("model.layers.0.attention.wo.weight", (64, 32), {}, r"\[64, 32\], which is \[64, 64\] there"),
        (
            "model.layers.0.attention.wo.weight",
            (64, 64),
            {"use_dora": True},
            "has no lora_magnitude_vector, but adapter_config.json says use_dora",
        ),
        (
            "model.layers.0.attention.wo.weight",
            (64, 64),
            {"rank_pattern": {"wo": 2}},
            "have rank 4, but adapter_config.json says 2",
        ),
    ],
)
def test_adapters_that_cannot_be_merged(llava, tmp_path, name, shape, settings, message):
    shutil.copytree(llava, tmp_path / "llava")
    lora(tmp_path / "llava/llm_adapter", name, shape, **settings)
    with pytest.raises(ValueError, match=message):
        XComposer2ForCausalLM.from_pretrained(tmp_path / "llava")


def test_half_an_adapter_is_refused(llava, tmp_path):
    shutil.copytree(llava, tmp_path / "llava")
    adapter = tmp_path / "llava/llm_adapter"
    lora(adapter, "model.layers.0.attention.wo.weight", (64, 64))
    saved = load_file(adapter / "adapter_model.safetensors")
    save_file({name: value for name, value in saved.items() if "lora_A" in name}, adapter / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="has a lora_A without its other half"):
        XComposer2ForCausalLM.from_pretrained(tmp_path / "llava")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="there is no adapter_model.safetensors or adapter_model.bin"):
        XComposer2ForCausalLM.from_pretrained(tmp_path / "llava")


def test_the_reference_adapter(shared, tmp_path):
    """XTuner's own adapter, merged at loading, gives upstream's merged logits."""
    golden = shared / "goldens/llava_internlm2"
    shutil.copytree(golden / "ckpt", tmp_path / "llava")
    shutil.copytree(golden / "llm_adapter", tmp_path / "llava/llm_adapter")
    arrays = load_file(golden / "golden.safetensors")
    stored = json.loads((golden / "golden.json").read_text())["arrays"]["lora.merged_text_logits"]
    model = XComposer2ForCausalLM.from_pretrained(tmp_path / "llava")
    with paddle.no_grad():
        logits = model(paddle.to_tensor(arrays["text.input_ids"])).logits.numpy()
    want = arrays["lora.merged_text_logits"].reshape(-1)
    np.testing.assert_allclose(logits.reshape(-1)[:: stored["stride"]], want, atol=3e-4)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("projector/config.json", {"hidden_act": "relu"}, "hidden_act is 'relu', only 'gelu' is supported"),
        ("visual_encoder/config.json", {"model_type": "siglip"}, "model_type is 'siglip', only 'clip_vision_model' or"),
        ("visual_encoder/config.json", {"hidden_act": "gelu"}, 'hidden_act "gelu" is not supported, only "quick_gelu"'),
        (
            "visual_encoder/preprocessor_config.json",
            {"image_mean": [0.5] * 3},
            r"image_mean is \[0.5, 0.5, 0.5\], only",
        ),
        ("visual_encoder/preprocessor_config.json", {"resample": 2}, "resample is 2, only 3 is supported"),
    ],
)
def test_settings_of_the_parts_that_change_the_numbers_are_refused(llava, tmp_path, file, change, message):
    """In the folders, and in what a converted checkpoint remembers of them."""
    directory = tmp_path / "llava"
    shutil.copytree(llava, directory)
    content = json.loads((directory / file).read_text())
    (directory / file).write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=message):
        convert(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_of_the_parts_that_say_nothing(llava, tmp_path):
    directory = tmp_path / "llava"
    shutil.copytree(llava, directory)
    for file, change in (
        ("projector/config.json", {"depth": None, "hidden_act": None}),
        ("visual_encoder/config.json", {"projection_dim": 768, "num_channels": None}),
        ("visual_encoder/preprocessor_config.json", {"size": 28, "crop_size": 28, "processor_class": "CLIPProcessor"}),
    ):
        (directory / file).write_text(json.dumps(json.loads((directory / file).read_text()) | change))
    ids = paddle.to_tensor([[1, 5, 6, 7]])
    one, other = (XComposer2ForCausalLM.from_pretrained(path)(ids).logits.numpy() for path in (llava, directory))
    np.testing.assert_array_equal(one, other)


def test_a_size_of_images_that_changed_is_written_wherever_it_stands(llava, tmp_path):
    model = XComposer2ForCausalLM.from_pretrained(llava, img_size=42)
    model.save_pretrained(tmp_path / "hf", to="hf")
    folder = tmp_path / "hf/visual_encoder"
    assert json.loads((folder / "config.json").read_text())["image_size"] == 42
    pixels = json.loads((folder / "preprocessor_config.json").read_text())
    assert (pixels["size"], pixels["crop_size"]) == ({"shortest_edge": 42}, {"height": 42, "width": 42})
    assert XComposer2ForCausalLM.from_pretrained(tmp_path / "hf").config.img_size == 42


def test_others_files_in_its_folders_stay(llava, tmp_path):
    """The folder of a part can't be replaced as a whole then."""
    convert(llava, tmp_path / "hf", to="hf", dtype="bfloat16")
    (tmp_path / "hf" / "projector" / "notes.txt").write_text("mine")
    convert(llava, tmp_path / "hf", to="hf", overwrite=True)
    assert (tmp_path / "hf" / "projector" / "notes.txt").read_text() == "mine"
    found, expected = tensors(tmp_path / "hf"), tensors(llava)
    assert found.keys() == expected.keys()
    assert all(value.dtype == expected[name].dtype for name, value in found.items())
