"""XTuner's `iter_*.pth`: what was trained is found among mmengine's own objects, and merged into a base."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from paddle_xc2 import XComposer2ForCausalLM, cli
from paddle_xc2.checkpoint.xtuner_training import read_training_checkpoint
from paddle_xc2.hub.directory import open_model
from paddle_xc2.weights.convert import convert
from paddle_xc2.weights.sources import TrainedByXTuner
from tests.tiny import TINY_VOCAB_SIZE, tiny_model, tiny_tokenizer
from tests.weights.torch_zip import Call, Global, WithState, contiguous_tensor, write_torch_file

NO_LORA = {"llm": None, "visual_encoder": None}
WO = "llm.base_model.model.model.layers.0.attention.wo.lora_{}.default.weight"
FC1 = "visual_encoder.base_model.model.vision_model.encoder.layers.0.mlp.fc1.lora_{}.default.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    directory = tmp_path_factory.mktemp("llava") / "hf"
    tiny_model(xc2_family="llava-internlm2", vocab_size=TINY_VOCAB_SIZE).save_pretrained(directory, to="hf")
    tiny_tokenizer(directory)
    return directory


def write_checkpoint(path, arrays):
    """As mmengine pickles it: a history of the loss and NumPy's numbers beside the state dict."""
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    state = {
        name: contiguous_tensor(array, "FloatStorage", str(key)) for key, (name, array) in enumerate(arrays.items())
    }
    history = WithState(Call(Global("mmengine.logging.history_buffer", "HistoryBuffer"), ()), {"_max_length": 1000000})
    number = Call(Global("numpy.core.multiarray", "scalar"), (Call(Global("numpy", "dtype"), ("f8", False, True)), "x"))
    content = {
        "meta": {"epoch": 1, "iter": 2181},
        "state_dict": state,
        "message_hub": {"loss": history, "last": number},
    }
    return write_torch_file(path, content, {str(key): array.tobytes() for key, array in enumerate(arrays.values())})


def parameters(directory):
    return {name: value.numpy() for name, value in XComposer2ForCausalLM.from_pretrained(directory).named_parameters()}


def test_projector_alone(base, tmp_path):
    """Pretraining trains nothing else."""
    before = parameters(base)
    new = {
        f"projector.model.{name}": before[f"vision_proj.{name}"].T + 1 for name in ("0.weight", "0.bias", "2.weight")
    }
    path = write_checkpoint(tmp_path / "iter_2181.pth", new)
    convert(TrainedByXTuner(open_model(base), path), tmp_path / "trained")
    after = parameters(tmp_path / "trained")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"vision_proj.0.weight", "vision_proj.0.bias", "vision_proj.2.weight"}
    np.testing.assert_array_equal(after["vision_proj.0.weight"], before["vision_proj.0.weight"] + 1)


def test_lora_of_both_parts(base, tmp_path):
    before, rng = parameters(base), np.random.default_rng(0)
    wo, fc1 = (before[name].T for name in ("model.layers.0.attention.wo.linear.weight", "vit.layers.0.mlp.fc1.weight"))
    pairs = {
        pattern.format(side): rng.normal(size=shape)
        for pattern, weight in ((WO, wo), (FC1, fc1))
        for side, shape in (("A", (4, weight.shape[1])), ("B", (weight.shape[0], 4)))
    }
    path = write_checkpoint(tmp_path / "iter_100.pth", pairs)
    convert(TrainedByXTuner(open_model(base), path, llm_alpha=8, vision_alpha=2), tmp_path / "trained")
    after = parameters(tmp_path / "trained")
    got = after["model.layers.0.attention.wo.linear.weight"].T - wo
    np.testing.assert_allclose(got, 8 / 4 * pairs[WO.format("B")] @ pairs[WO.format("A")], atol=1e-5)
    got = after["vit.layers.0.mlp.fc1.weight"].T - fc1
    np.testing.assert_allclose(got, 2 / 4 * pairs[FC1.format("B")] @ pairs[FC1.format("A")], atol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {WO.format("A"): np.ones((4, 64))},
            "holds LoRA matrices of llm, but not their alpha; give the run's --lora_alpha",
        ),
        ({FC1.format("A"): np.ones((4, 64))}, "matrices of visual_encoder.* give the run's --visual_lora_alpha"),
        ({"other.weight": np.ones(3)}, "holds 1 tensors of no part of a LLaVA, first other.weight"),
        ({"projector.other": np.ones(3)}, "holds 1 tensors of no part of a LLaVA, first projector.other"),
        ({}, "holds no state_dict; it is no checkpoint of XTuner's training"),
    ],
)
def test_what_cannot_be_used(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        read_training_checkpoint(write_checkpoint(tmp_path / "iter_1.pth", arrays), NO_LORA)


def test_a_checkpoint_of_another_base(base, tmp_path):
    path = write_checkpoint(tmp_path / "iter_1.pth", {"projector.model.0.bias": np.ones(7)})
    with pytest.raises(
        ValueError, match=r"1 of its 1 tensors don't fit the base model, first vision_proj.0.bias \[7\]"
    ):
        convert(TrainedByXTuner(open_model(base), path), tmp_path / "trained")
    assert not (tmp_path / "trained").exists()


@pytest.mark.parametrize("forbidden", [Global("os", "system"), Global("builtins", "eval"), Global("torch", "load")])
def test_forbidden_globals_are_named_and_not_executed(tmp_path, forbidden):
    witness = tmp_path / "executed"
    content = {"state_dict": {}, "message_hub": Call(forbidden, (f"touch {witness}",))}
    path = write_torch_file(tmp_path / "iter_1.pth", content, {})
    with pytest.raises(ValueError, match=f"refused.*asks for {forbidden.module}.{forbidden.name}"):
        read_training_checkpoint(path, NO_LORA)
    assert not witness.exists()


@pytest.fixture
def parts(base, tmp_path):
    """(language model alone, a whole CLIP) as they are released."""
    llm, clip = tmp_path / "llm", tmp_path / "clip"
    shutil.copytree(base, llm, ignore=shutil.ignore_patterns("projector", "visual_encoder", "*manifest.json"))
    clip.mkdir()
    vision = load_file(base / "visual_encoder/model.safetensors")
    others = {"text_model.final_layer_norm.weight": np.ones(8, np.float32), "logit_scale": np.ones(1, np.float32)}
    save_file(vision | others, clip / "model.safetensors")
    settings = json.loads((base / "visual_encoder/config.json").read_text())
    (clip / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": settings}))
    return llm, clip


def test_a_llava_with_a_fresh_projector(base, parts, tmp_path):
    llm, clip = parts
    assert cli.main(["convert", str(llm), str(tmp_path / "fresh"), "--visual_encoder", str(clip)]) == 0
    fresh, whole = parameters(tmp_path / "fresh"), parameters(base)
    assert fresh.keys() == whole.keys()
    for name, value in fresh.items():
        if name.startswith("vision_proj."):
            assert value.std() > 0 and np.abs(value).max() <= value.shape[0] ** -0.5 + 0.1
        else:
            np.testing.assert_array_equal(value, whole[name])
    convert(tmp_path / "fresh", tmp_path / "hf", to="hf")
    assert json.loads((tmp_path / "hf/config.json").read_text())["architectures"] == ["InternLM2ForCausalLM"]


def test_parts_in_the_wrong_place(base, parts, tmp_path, capsys):
    llm, clip = parts
    assert cli.main(["convert", str(llm), str(tmp_path / "x"), "--visual_encoder", str(llm)]) == 2
    assert "has no tensor that begins with vision_model." in capsys.readouterr().err
    assert cli.main(["convert", str(clip), str(tmp_path / "x"), "--visual_encoder", str(clip)]) == 2
    assert not (tmp_path / "x").exists()


def test_a_pth_needs_its_base(base, tmp_path, capsys):
    path = write_checkpoint(tmp_path / "iter_1.pth", {"projector.model.0.bias": np.ones(64)})
    assert cli.main(["convert", str(path), str(tmp_path / "x")]) == 2
    assert "give --base, the LLaVA that it was trained from" in capsys.readouterr().err
    assert cli.main(["convert", str(path), str(tmp_path / "x"), "--base", str(base)]) == 0
    assert (parameters(tmp_path / "x")["vision_proj.0.bias"] == 1).all()


class TestDeepSpeed:
    """XTuner with --deepspeed writes `iter_N.pth` as a folder of DeepSpeed's."""

    def write(self, path, arrays, file="mp_rank_00_model_states.pt", key="module"):
        path.mkdir(exist_ok=True)
        arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
        state = {name: contiguous_tensor(a, "FloatStorage", str(i)) for i, (name, a) in enumerate(arrays.items())}
        shapes = {"projector.model.0.bias": Call(Global("torch", "Size"), ((64,),))}
        scaler = WithState(Call(Global("deepspeed.runtime.fp16.loss_scaler", "LossScaler"), ()), {"cur_scale": 1})
        rest = {
            "param_shapes": shapes,
            "loss_scaler": scaler,
            "optimizer": None,
            "ds_version": "0.14.0",
            "mp_world_size": 1,
        }
        content = {key: state, **rest} if key else state
        return write_torch_file(path / file, content, {str(i): a.tobytes() for i, a in enumerate(arrays.values())})

    def test_its_whole_weights_are_read(self, base, tmp_path):
        self.write(tmp_path / "iter_10.pth", {"projector.model.0.bias": np.ones(64)})
        (tmp_path / "iter_10.pth/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"of no use here")
        words = ["convert", f"{tmp_path}/iter_10.pth/", str(tmp_path / "x"), "--base", str(base)]
        assert cli.main(words) == 0
        assert (parameters(tmp_path / "x")["vision_proj.0.bias"] == 1).all()

    def test_what_its_script_made_of_pieces_is_read(self, base, tmp_path):
        """A plain state dict: a file, or a folder with one or several."""
        self.write(
            tmp_path / "iter_10_whole.pth", {"projector.model.0.bias": np.ones(64)}, "pytorch_model.bin", key=None
        )
        for path in (tmp_path / "iter_10_whole.pth", tmp_path / "iter_10_whole.pth/pytorch_model.bin"):
            assert list(read_training_checkpoint(path, NO_LORA).replaced) == ["vision_proj.0.bias"]

    @pytest.mark.parametrize(
        ("file", "arrays", "message"),
        [
            ("mp_rank_00_model_states.pt", None, "is a checkpoint of DeepSpeed: .*is no file of torch.save"),
            ("zero_pp_rank_0_mp_rank_00_model_states.pt", None, "python zero_to_fp32.py .*/iter_10_whole.pth -t iter"),
            ("other.pt", None, "iter_10.pth: is a folder, but none of a DeepSpeed checkpoint"),
            ("mp_rank_00_model_states.pt", {"projector.x": np.ones(0)}, "1 tensors are empty .*zero_to_fp32.py"),
        ],
    )  # fmt: skip
    def test_what_it_cut_in_pieces_is_named(self, tmp_path, file, arrays, message):
        self.write(tmp_path / "iter_10.pth", arrays or {}, file)
        if arrays is None:
            (tmp_path / "iter_10.pth" / file).write_bytes(b"x")
        with pytest.raises(ValueError, match=message):
            read_training_checkpoint(tmp_path / "iter_10.pth", NO_LORA)

    def test_tensor_parallel_is_named(self, tmp_path):
        for rank in range(2):
            self.write(tmp_path / "iter_10.pth", {}, f"mp_rank_0{rank}_model_states.pt")
        with pytest.raises(ValueError, match=r"is a checkpoint of DeepSpeed in 2 parts \(tensor parallel\)"):
            read_training_checkpoint(tmp_path / "iter_10.pth", NO_LORA)

    def test_its_state_is_no_model(self, tmp_path):
        self.write(tmp_path / "global_step10", {})
        with pytest.raises(FileNotFoundError, match="is no checkpoint of a model, but DeepSpeed's state of a training"):
            XComposer2ForCausalLM.from_pretrained(tmp_path / "global_step10")
