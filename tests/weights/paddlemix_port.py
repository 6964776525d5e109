"""The layers of PaddleMIX's port, so that PaddleNLP itself writes their names, files and config.json.

PaddleMIX can't be installed from a package index. What is known of it here is from PaddlePaddle/PaddleMIX, develop of
October 2024, paddlemix/models/internlm_xcomposer2: the layers' names and kinds (modeling.py), the arguments that its
configuration is made with (configuration.py, tests/models/test_internlm_xcomposer2.py), the tokenizer's file name
(tokenizer.py). Its ViT is PaddleNLP's CLIPVisionModel with another position table; it drops `ln_post`, others keep it.
"""

from paddle import nn
from paddlenlp.transformers import CLIPVisionConfig, CLIPVisionModel, PretrainedConfig, PretrainedModel

from tests.tiny import tiny_config, tiny_tokenizer


class PortConfig(PretrainedConfig):
    model_type = "internlm"
    _auto_class = "AutoConfig"  # makes PaddleNLP write an auto_map and copy this file beside the weights

    def __init__(self, attn_implementation="eager", pad_token_id=0, bos_token_id=1, eos_token_id=2, **kwargs):
        self.attn_implementation = attn_implementation
        super().__init__(pad_token_id=pad_token_id, bos_token_id=bos_token_id, eos_token_id=eos_token_id, **kwargs)


class PLoRA(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias_attr=False)
        self.Plora_A = nn.Linear(inputs, 256, bias_attr=False)
        self.Plora_B = nn.Linear(256, outputs, bias_attr=False)


class RMSNorm(nn.Layer):
    def __init__(self, size):
        super().__init__()
        self.weight = self.create_parameter([size])


def modules(**children):
    """A layer of the given sublayers."""
    layer = nn.Layer()
    for name, child in children.items():
        setattr(layer, name, child)
    return layer


def decoder_layer(config):
    hidden, intermediate = config.hidden_size, config.intermediate_size
    head_dim = hidden // config.num_attention_heads
    return modules(
        attention=modules(
            wqkv=PLoRA(hidden, (config.num_attention_heads + 2 * config.num_key_value_heads) * head_dim),
            wo=PLoRA(hidden, hidden),
        ),
        feed_forward=modules(
            w1=PLoRA(hidden, intermediate), w3=PLoRA(hidden, intermediate), w2=PLoRA(intermediate, hidden)
        ),
        attention_norm=RMSNorm(hidden),
        ffn_norm=RMSNorm(hidden),
    )


class InternLMXComposer2ForCausalLM(PretrainedModel):
    config_class = PortConfig
    base_model_prefix = "model"

    def __init__(self, config, vision):
        super().__init__(config)
        hidden = config.hidden_size
        self.model = modules(
            tok_embeddings=nn.Embedding(config.vocab_size, hidden),
            layers=nn.LayerList([decoder_layer(config) for _ in range(config.num_hidden_layers)]),
            norm=RMSNorm(hidden),
        )
        self.output = nn.Linear(hidden, config.vocab_size, bias_attr=False)
        self.vit = modules(vision_tower=CLIPVisionModel(vision))
        self.vision_proj = nn.Sequential(nn.Linear(vision.hidden_size, hidden), nn.GELU(), nn.Linear(hidden, hidden))


def port(dtype="float32"):
    """The port in the sizes of `tests.tiny`, with random weights."""
    tiny = tiny_config()
    names = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "img_size"),
        *("num_key_value_heads", "hidden_act", "initializer_range", "max_length", "max_position_embeddings"),
    )
    config = PortConfig(
        **{name: getattr(tiny, name) for name in names},
        bias=False,
        pad_token_id=2,
        rms_norm_eps=3e-5,
        rope_scaling={"factor": 1.0, "type": "dynamic"},
        rope_theta=500000,
        tie_word_embeddings=False,
        vision_tower="openai/clip-vit-large-patch14-336",
        vision_projector={"mlp_depth": 2, "mm_hidden_size": 32, "hidden_size": 64},
        dtype=dtype,
    )
    vision = CLIPVisionConfig(**tiny.vision_config, image_size=tiny.img_size)
    model = InternLMXComposer2ForCausalLM(config, vision).to(dtype=dtype)
    model.eval()
    return model


def save_port(model, directory, **how):
    """Writes the port as PaddleMIX's training does: PaddleNLP's `save_pretrained`, and its tokenizer's files.

    The sizes of the tiny ViT, which PaddleMIX takes from the CLIP that `vision_tower` names, stand in
    clip_vision_config.json.
    """
    import json

    model.save_pretrained(str(directory), **how)
    (directory / "clip_vision_config.json").write_text(json.dumps(tiny_config().vision_config))
    tiny_tokenizer(directory)
    (directory / "tokenizer.model").rename(directory / "sentencepiece.bpe.model")
    settings = {"bos_token": "<s>", "tokenizer_class": "InternLMXComposer2Tokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory
