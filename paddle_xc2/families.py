"""What distinguishes the released families: one row of facts each (CONTRACT: the family is read from the checkpoint).

Everything else in the package asks the row, never the name.
"""

from __future__ import annotations

from dataclasses import dataclass

from paddle_xc2.special_tokens import EOS, TURN_END, TURN_START

# Upstream's default system turn (`modeling_internlm_xcomposer2.py`, `chat`): released XComposer2 models were tuned with it.
XCOMPOSER2_META_INSTRUCTION = (
    "You are an AI assistant whose name is InternLM-XComposer (浦语·灵笔).\n"
    "- InternLM-XComposer (浦语·灵笔) is a multi-modality conversational language model that is developed by "
    "Shanghai AI Laboratory (上海人工智能实验室). It is designed to be helpful, honest, and harmless.\n"
    "- InternLM-XComposer (浦语·灵笔) can understand and communicate fluently in the language chosen by the user "
    "such as English and 中文.\n"
    "- InternLM-XComposer (浦语·灵笔) is capable of comprehending and articulating responses effectively based on the "
    "provided image."
)


@dataclass(frozen=True)
class Template:
    """How a conversation is written as text. Strings are what upstream's `conv2text` and `build_inputs` write."""

    turn_start: str
    turn_end: str
    document_end: str  # closes a training sample, and is trained; "" for templates that stop at turn_end
    stop_tokens: tuple[str, ...]  # generation ends at any of these


XCOMPOSER2_TEMPLATE = Template(TURN_START, TURN_END, document_end=EOS, stop_tokens=(EOS, TURN_END))


@dataclass(frozen=True)
class Family:
    """One released family.

    Attributes:
        name: the row's name, written into converted checkpoints.
        released_names: hub names whose checkpoints belong to it.
        image_size: pixels, side of the square that an image is squashed to.
        plora_rank, plora_alpha: of the PLoRA matrices beside every linear layer of the decoder.
        template: the text layout.
        meta_instruction: default system turn of chat; "" is none.
        chat_bos_at_every_text: upstream's chat puts BOS before every text between images (training does not), and
            two before a prompt without images (goldens/NOTES.md, quirks 1 and 2).
        max_length: tokens, image slots included; upstream's default for fine-tuning.
    """

    name: str
    released_names: tuple[str, ...]
    image_size: int
    plora_rank: int = 256
    plora_alpha: float = 256.0
    template: Template = XCOMPOSER2_TEMPLATE
    meta_instruction: str = XCOMPOSER2_META_INSTRUCTION
    chat_bos_at_every_text: bool = True
    max_length: int = 4096


FAMILIES = (
    Family("xcomposer2-7b", ("internlm/internlm-xcomposer2-7b",), image_size=224),
    Family(
        "xcomposer2-vl-7b",
        ("internlm/internlm-xcomposer2-vl-7b", "internlm/internlm-xcomposer2-vl-1_8b"),
        image_size=490,
    ),
)
_BY_NAME = {family.name: family for family in FAMILIES}

# Recognised, so that the message can say what the checkpoint is, but not supported yet.
_UNSUPPORTED_TILES = "plora_glb_GN"
XCOMPOSER2_ARCHITECTURE = "InternLMXComposer2ForCausalLM"


def family_named(name: str) -> Family:
    """Raises: ValueError for a name that is no family."""
    if name not in _BY_NAME:
        raise ValueError(f'unknown model family "{name}"; known are {", ".join(_BY_NAME)}')
    return _BY_NAME[name]


def detect_family(config: dict, tensor_names: tuple[str, ...] = (), source: str = "config.json") -> Family:
    """The family of a checkpoint, from its own config and tensor names; a path never decides.

    Args:
        config: the content of config.json, upstream's or ours.
        tensor_names: names of the tensors in the checkpoint, upstream's; may be empty where only config.json is at hand.
        source: what to call the config in messages.
    Raises: ValueError if the checkpoint is of no supported family.
    """
    if "xc2_family" in config:
        return family_named(config["xc2_family"])
    architectures = config.get("architectures") or []
    if XCOMPOSER2_ARCHITECTURE not in architectures:
        raise ValueError(
            f"{source}: architectures is {architectures or 'missing'}, expected [{XCOMPOSER2_ARCHITECTURE!r}]; "
            "this is not an InternLM-XComposer2 checkpoint"
        )
    image_size = config.get("img_size")
    if _UNSUPPORTED_TILES in tensor_names or config.get("model_type") == "internlm2" or (tensor_names and image_size is None):
        raise ValueError(
            f"{source}: this is a checkpoint of the 4KHD or 2.5 family, which this version does not support; "
            f"supported are {', '.join(_BY_NAME)}"
        )
    return _BY_NAME["xcomposer2-7b"] if image_size == 224 else _BY_NAME["xcomposer2-vl-7b"]
