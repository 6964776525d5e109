import json
import shutil
import threading

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from paddle_xc2 import XComposer2ForCausalLM, runtime
from paddle_xc2.checkpoint import lazy_tensor
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.hub.weight_files import INDEX_FILE
from paddle_xc2.model import load_model
from paddle_xc2.models.clip_vit import resize_position_table
from paddle_xc2.weights import load as loading
from paddle_xc2.weights.convert import convert
from paddle_xc2.weights.load import build_without_memory
from tests.tiny import tiny_checkpoint, tiny_config, tiny_model
from tests.weights.torch_zip import write_state_dict

SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Upstream's layout, three shards; read only."""
    return tiny_checkpoint(tmp_path_factory.mktemp("original"), num_shards=3)


@pytest.fixture
def checkpoint(tmp_path):
    return tiny_checkpoint(tmp_path / "checkpoint", num_shards=3)


def rewrite_shard(checkpoint, change):
    """Lets `change` alter the tensors of a shard, and the index with them."""
    tensors = load_file(checkpoint / SHARD)
    change(tensors)
    save_file(tensors, checkpoint / SHARD)
    index = json.loads((checkpoint / INDEX_FILE).read_text())
    kept = {name: file for name, file in index["weight_map"].items() if file != SHARD}
    index["weight_map"] = kept | dict.fromkeys(tensors, SHARD)
    (checkpoint / INDEX_FILE).write_text(json.dumps(index))


def test_two_tensors_are_loaded_at_a_time(original, monkeypatch):
    fill, both, calls = loading._fill, threading.Barrier(2, timeout=60), iter(range(1000))

    def together(*args):
        if next(calls) < 2:
            both.wait()  # passes only if another one is on its way meanwhile
        fill(*args)

    monkeypatch.setattr(loading, "_fill", together)
    assert_equal_weights(load_model(original), tiny_model())


def assert_equal_weights(model, expected):
    expected = dict(expected.named_parameters())
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.numpy(), expected.pop(name).numpy(), err_msg=name)
    assert not expected


class TestLayouts:
    def test_upstream(self, original):
        model = XComposer2ForCausalLM.from_pretrained(str(original))
        assert_equal_weights(model, tiny_model())
        assert model.provenance.directory.path == original and not model.training

    def test_it_computes_the_same(self, original):
        input_ids = paddle.randint(3, 100, [2, 7])
        with paddle.no_grad():
            np.testing.assert_array_equal(
                load_model(original)(input_ids).logits.numpy(), tiny_model()(input_ids).logits.numpy()
            )

    def test_converted(self, original, tmp_path):
        convert(original, tmp_path / "converted")
        assert_equal_weights(load_model(tmp_path / "converted"), tiny_model())

    def test_torch_files(self, original, tmp_path):
        weight_map = {}
        for number, shard in enumerate(sorted(original.glob("*.safetensors")), start=1):
            file = f"pytorch_model-0000{number}-of-00003.bin"
            arrays = load_file(shard)
            write_state_dict(tmp_path / file, arrays, "FloatStorage")
            weight_map |= dict.fromkeys(arrays, file)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        for name in ("config.json", "clip_vision_config.json"):
            (tmp_path / name).write_bytes((original / name).read_bytes())
        assert_equal_weights(load_model(tmp_path), tiny_model())

    def test_goldens(self, shared):
        """PyTorch's own .bin files give the weights of the .safetensors."""
        ckpt = shared / "goldens/xc2_7b/ckpt"
        assert_equal_weights(load_model(ckpt.with_name("ckpt_bin")), load_model(ckpt))


class TestDtypes:
    def test_bfloat16_checkpoint_becomes_float32_on_a_cpu(self, original, tmp_path):
        convert(original, tmp_path / "half", dtype="bfloat16")
        model = load_model(tmp_path / "half")
        assert model.config.dtype == "float32"
        for name, parameter in tiny_model().named_parameters():
            loaded = dict(model.named_parameters())[name]
            assert loaded.dtype == paddle.float32
            rounded = parameter.astype("bfloat16").astype("float32")
            np.testing.assert_array_equal(loaded.numpy(), rounded.numpy())

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_as_asked(self, original, dtype):
        model = load_model(original, dtype)
        assert model.config.dtype == dtype
        assert {str(parameter.dtype) for parameter in model.parameters()} == {f"paddle.{dtype}"}
        assert paddle.get_default_dtype() == "float32"

    def test_bfloat16_checkpoint_becomes_float16_on_a_v100(self, original, tmp_path, monkeypatch):
        """A device that has no bfloat16, answered falsely."""
        convert(original, tmp_path / "half", dtype="bfloat16")
        monkeypatch.setattr(runtime, "available_precisions", lambda device: ("float16", "float32"))
        model = load_model(tmp_path / "half")
        assert model.config.dtype == "float16"
        assert {str(parameter.dtype) for parameter in model.parameters()} == {"paddle.float16"}

    def test_unknown(self, original):
        with pytest.raises(ValueError, match='dtype "half" is not one of'):
            load_model(original, "half")


class TestImageSize:
    def test_position_table_is_resized(self, original):
        model = load_model(original, img_size=56)
        expected = resize_position_table(tiny_model().vit.position_embedding.weight, 4)
        assert expected.shape == [17, 32]
        np.testing.assert_array_equal(model.vit.position_embedding.weight.numpy(), expected.numpy())
        assert model.config.img_size == 56 and model.config.num_image_tokens == 16

    def test_not_unasked(self, checkpoint):
        """A table that is not of config.json's size is a contradiction, not an occasion to interpolate."""
        content = json.loads((checkpoint / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps(content | {"img_size": 42}))
        with pytest.raises(
            ValueError, match=r"position_embedding.weight: checkpoint shape \[5, 32\], model expects \[10,"
        ):
            load_model(checkpoint)

    def test_impossible(self, original):
        with pytest.raises(ValueError, match="img_size 30 is no multiple of"):
            load_model(original, img_size=30)

    def test_tiles_have_a_fixed_size(self, shared):
        with pytest.raises(
            ValueError, match="img_size is 28, but the tiles of xcomposer2-4khd-7b are always 336 pixels"
        ):
            load_model(shared / "goldens/xc2_4khd/ckpt", img_size=28)


class TestFourFaults:
    """A checkpoint of three shards with one byte flipped, one shard cut, one missing, one tensor renamed."""

    def test_a_flipped_byte(self, original, tmp_path):
        converted = tmp_path / "converted"
        convert(original, converted, max_shard_size="300KB")
        shard = sorted(converted.glob("*.safetensors"))[1]
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
        load_model(converted)  # nothing shows: a weight with another value is as good a weight
        with pytest.raises(ValueError, match=f"not as it was written: {shard.name} has changed .its SHA-256"):
            load_model(converted, verify=True)

    def test_a_flipped_byte_where_nobody_knows_better(self, original):
        with pytest.raises(FileNotFoundError, match="its values can't be verified: it has no paddle_xc2_manifest.json"):
            load_model(original, verify=True)

    def test_a_flipped_byte_in_the_header(self, checkpoint):
        shard = checkpoint / SHARD
        content = bytearray(shard.read_bytes())
        content[9] ^= 1
        shard.write_bytes(content)
        with pytest.raises(ValueError, match=f"{SHARD}: "):
            load_model(checkpoint)

    def test_a_shard_cut_off(self, checkpoint):
        shard = checkpoint / SHARD
        shard.write_bytes(shard.read_bytes()[:-1])
        with pytest.raises(ValueError, match=f"{SHARD}: is cut off: it has .* bytes, its header announces"):
            load_model(checkpoint)

    def test_a_shard_missing(self, checkpoint):
        (checkpoint / SHARD).unlink()
        with pytest.raises(FileNotFoundError, match=f"1 of 3 shards are missing: {SHARD}"):
            load_model(checkpoint)

    def test_a_tensor_renamed(self, checkpoint):
        def rename(tensors):
            name = next(name for name in tensors if "Plora_A" in name)
            tensors[name.replace("Plora_A", "lora_A")] = tensors.pop(name)

        rewrite_shard(checkpoint, rename)
        with pytest.raises(
            ValueError, match=r"1 tensors that the model has no parameter for: .*\.lora_A\.weight; 1 tensors"
        ):
            load_model(checkpoint)


class TestOtherFaults:
    def test_shape(self, checkpoint):
        def cut(tensors):
            name = next(name for name in tensors if name.endswith("w3.weight"))
            tensors[name] = np.ascontiguousarray(tensors[name][:-1])

        rewrite_shard(checkpoint, cut)
        with pytest.raises(ValueError, match=r"w3.weight: checkpoint shape \[95, 64\], model expects \[96, 64\]"):
            load_model(checkpoint)

    def test_dtype(self, checkpoint):
        def truncate(tensors):
            name = next(name for name in tensors if name.endswith("w3.weight"))
            tensors[name] = tensors[name].astype(np.int32)

        rewrite_shard(checkpoint, truncate)
        with pytest.raises(ValueError, match="w3.weight: checkpoint dtype int32, expected one of"):
            load_model(checkpoint)

    def test_overflow(self, checkpoint):
        def grow(tensors):
            next(array for name, array in tensors.items() if name.endswith("w3.weight"))[0, 0] = 1e6

        rewrite_shard(checkpoint, grow)
        with pytest.raises(
            ValueError, match=r"w3.linear.weight: 1 values do not fit into float16 .the largest is 1e\+06"
        ):
            load_model(checkpoint, "float16")

    def test_no_checkpoint(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="is no checkpoint: it has no config.json and no weights"):
            XComposer2ForCausalLM.from_pretrained(tmp_path)
        with pytest.raises(FileNotFoundError, match="this is no checkpoint, it has no config.json; give the directory"):
            load_model(tmp_path)  # which has to know of which family it is

    def test_hub_name_without_a_network(self):
        with pytest.raises(FileNotFoundError, match="internlm/internlm-xcomposer2-7b: not found"):
            XComposer2ForCausalLM.from_pretrained("internlm/internlm-xcomposer2-7b")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(70, 33), (5,)])
def test_the_way_to_a_device(monkeypatch, dtype, shape):
    """Here the device is the CPU too; only the way there is that of a GPU."""
    monkeypatch.setattr(lazy_tensor, "BLOCK_BYTES", 300)
    monkeypatch.setattr(lazy_tensor, "TILE", 8)
    values = np.random.randn(*shape).astype(np.float32)
    for tensor, expected in (
        (LazyTensor("float32", values.shape, lambda: values), values),
        (LazyTensor("float32", values.shape, lambda: values).transposed(), values.T),
    ):
        memory = paddle.zeros(expected.shape, dtype)
        loading._copy_blocks(memory, tensor, dtype, "x")
        np.testing.assert_array_equal(memory.numpy(), paddle.to_tensor(expected.copy()).astype(dtype).numpy())


def test_building_takes_no_memory():
    model = build_without_memory(XComposer2ForCausalLM, tiny_config(), "float16")
    assert not any(parameter._is_initialized() for parameter in model.parameters())
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"paddle.float16"}


def test_a_config_of_newer_transformers_gives_the_same_logits(shared, tmp_path):
    """Upstream's model with its rotary settings in the spelling of version 5: base and scaling count."""
    ids, logits = paddle.to_tensor([[1, 5, 6, 7, 8, 9, 20, 33, 41] * 8]), {}
    for name, rope in {
        "flat": {"rope_theta": 10000, "rope_scaling": {"type": "linear", "factor": 4.0}},
        "nested": {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0}},
    }.items():
        shutil.copytree(shared / "goldens/xc2d5/ckpt", tmp_path / name)
        path = tmp_path / name / "config.json"
        content = json.loads(path.read_text())
        del content["rope_theta"], content["rope_scaling"]
        path.write_text(json.dumps(content | rope))
        logits[name] = XComposer2ForCausalLM.from_pretrained(tmp_path / name)(ids).logits.numpy()
    np.testing.assert_array_equal(logits["flat"], logits["nested"])


def test_sizes_that_the_files_do_not_hold_are_not_built(checkpoint, monkeypatch):
    """A config.json of a few bytes can't ask for all memory."""

    def build(*_):
        raise AssertionError("built")

    monkeypatch.setattr(loading, "build_without_memory", build)
    path = checkpoint / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "num_hidden_layers": 1000, "hidden_size": 65536, "vocab_size": 10**7}))
    with pytest.raises(ValueError, match="the weights don't fit the model of its config.json"):
        load_model(checkpoint)
    path.write_text(json.dumps({**content, "num_hidden_layers": 10**9}))
    with pytest.raises(ValueError, match="num_hidden_layers is 1000000000, but must be 1000 at most"):
        load_model(checkpoint)
