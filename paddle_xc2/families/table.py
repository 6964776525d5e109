"""What distinguishes the released families: one row of facts each (CONTRACT: the family is read from the checkpoint).

Everything else in the package asks the row, never the name.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from paddle_xc2.families.special_tokens import (
    ENDOFTEXT,
    EOS,
    IM_END,
    IM_START,
    IMAGE_PLACEHOLDER,
    IMG_END,
    IMG_START,
    TURN_END,
    TURN_START,
)
from paddle_xc2.messages import short_repr, shown

# Upstream's default system turn (`modeling_internlm_xcomposer2.py`, `chat`): released XComposer2 models were tuned
# with it.
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
    answers_alone: bool = False  # in training, an answer is tokenized apart from the text before and after it
    pieces_alone: bool = False  # every message, and what stands between two, is tokenized by itself
    has_bos: bool = True  # the tokenizer's BOS stands at the beginning
    trains_marks: bool = False  # in training, what begins and ends a turn is trained in every turn, whoever speaks
    trains_stripped: bool = True  # in training, white space around messages is taken away
    always_system: bool = False  # every conversation has a system turn: its own, else the family's, in training too
    image_marks: tuple[str, ...] = ()  # tokens before and after the slots of an image, or none
    marks_are_text: bool = False  # what begins or ends a turn is text where somebody says it, so that nobody forges one


XCOMPOSER2_TEMPLATE = Template(TURN_START, TURN_END, document_end=EOS, stop_tokens=(EOS, TURN_END))
# `preprocess` of Qwen-VL's finetune.py, and `make_context` of its checkpoints.
QWEN_TEMPLATE = Template(
    IM_START,
    IM_END,
    document_end="",
    stop_tokens=(ENDOFTEXT, IM_END, IM_START),
    pieces_alone=True,
    has_bos=False,
    trains_marks=True,
    trains_stripped=False,
    always_system=True,
    image_marks=(IMG_START, IMG_END),
    marks_are_text=True,
)
# XTuner's `internlm2_chat`.
INTERNLM2_CHAT_TEMPLATE = Template(IM_START, IM_END, document_end="", stop_tokens=(EOS, IM_END), answers_alone=True)


# The linear layers of InternLM2's decoder.
XCOMPOSER2_LORA = ("attention.wqkv", "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")


@dataclass(frozen=True)
class Tiling:
    """How a high-resolution image is laid out on a grid of square tiles (goldens/NOTES.md, quirk 14).

    Attributes:
        chat_tiles: at most so many in chat.
        chat_tiles_of_several: at most so many each when a prompt holds several images.
        training_tiles: at most so many in training.
        chat_enlargement, training_enlargement: the image is never made wider than this many times its own width,
            rounded up to whole tiles; None: as wide as the tiles allow.
        chat_centered: whether chat centres the image between its white borders, as training always does.
    """

    chat_tiles: int
    chat_tiles_of_several: int
    training_tiles: int
    chat_enlargement: float | None
    training_enlargement: float | None
    chat_centered: bool

    def columns(self, width: int, height: int, tile: int, max_tiles: int, enlargement: float | None) -> int:
        """Tiles along the longer side of an image whose longer side is `width`; all in pixels but `max_tiles`."""
        ratio = width / height
        columns = 1
        while (columns + 1) * ceil((columns + 1) / ratio) <= max_tiles:
            columns += 1
        return columns if enlargement is None else min(ceil(width * enlargement / tile), columns)


@dataclass(frozen=True)
class Family:
    """One released family.

    Attributes:
        name: the row's name, written into converted checkpoints.
        released_names: hub names whose checkpoints belong to it.
        image_size: pixels, side of the square that an image is squashed to, or of a tile.
        network: what computes it; the classes that belong to it stand in paddle_xc2/model.py under this name.
        tiling: None squashes every image to one square.
        takes_video: a video may stand for an image; its frames become one picture, a tile wide
            (`data/images/video.py`).
        merge: patches per side that become one image token.
        pad_to_square: an image is padded to a square first, not squashed.
        vision_select_layer: which hidden state of the ViT is taken: -1 is the last, -2 the one before.
        plora_rank, plora_alpha: of the PLoRA matrices beside every linear layer of the decoder; rank 0 is none.
        template: the text layout.
        meta_instruction: default system turn of chat; "" is none.
        chat_bos_at_every_text: upstream's chat puts BOS before every text between images (training does not), and
            two before a prompt without images (goldens/NOTES.md, quirks 1 and 2). Else chat puts one BOS at the start.
        image_leads_prompt: a single image without a placeholder goes before the whole prompt, not into the first
            question.
        leading_image: how images that are given without a place stand before a question; "{}" is the number of each.
            With a number, there may be several.
        after_image: what stands between an image that opens a question and its text.
        penalizes_prompt: the repetition penalty of chat sees the prompt where it holds no image (quirk 12).
        num_queries: image tokens of an image of any size; None: as many as there are merged patches.
        max_window_size: tokens of the earlier turns of a chat, system turn included, from which on the oldest are left
            out; None: never. Of families with num_queries.
        lora_targets: of a decoder layer, which linear layers upstream's LoRA updates: the ends of their paths.
        in_parts: upstream's checkpoint is a folder for each part (XTuner), not one for all.
        max_length: tokens, image slots included; upstream's default for fine-tuning.
    """

    name: str
    released_names: tuple[str, ...]
    image_size: int
    network: str = "xcomposer2"
    tiling: Tiling | None = None
    takes_video: bool = False
    merge: int = 1
    pad_to_square: bool = False
    vision_select_layer: int = -1
    plora_rank: int = 256
    plora_alpha: float = 256.0
    template: Template = XCOMPOSER2_TEMPLATE
    meta_instruction: str = XCOMPOSER2_META_INSTRUCTION
    chat_bos_at_every_text: bool = True
    image_leads_prompt: bool = False
    leading_image: str = IMAGE_PLACEHOLDER
    after_image: str = ""
    penalizes_prompt: bool = True
    num_queries: int | None = None
    max_window_size: int | None = None
    lora_targets: tuple[str, ...] = XCOMPOSER2_LORA
    in_parts: bool = False
    max_length: int = 4096

    @property
    def numbers_images(self) -> bool:
        """Whether several images may be given without a place: each is numbered, before the question."""
        return "{}" in self.leading_image

    def num_image_tokens(self, height: int, width: int, patch_size: int) -> int:
        """Slots that an image of `height` x `width` pixels, as the model gets it, takes in the sequence."""
        if self.num_queries is not None:
            return self.num_queries
        rows, columns = height // (patch_size * self.merge), width // (patch_size * self.merge)
        if self.tiling is None:
            return rows * columns
        # The image and, before it, its global view, both with a separator after each row and one between them.
        side = self.image_size // (patch_size * self.merge)
        return rows * (columns + 1) + side * (side + 1) + 1


FAMILIES = (
    Family("xcomposer2-7b", ("internlm/internlm-xcomposer2-7b",), image_size=224),
    Family(
        "xcomposer2-vl-7b",
        ("internlm/internlm-xcomposer2-vl-7b", "internlm/internlm-xcomposer2-vl-1_8b"),
        image_size=490,
    ),
    Family(
        "xcomposer2-4khd-7b",
        ("internlm/internlm-xcomposer2-4khd-7b",),
        image_size=336,
        tiling=Tiling(25, 25, 16, chat_enlargement=None, training_enlargement=None, chat_centered=True),
        merge=2,
    ),
    Family(
        "xcomposer2d5-7b",
        ("internlm/internlm-xcomposer2d5-7b",),
        image_size=560,
        tiling=Tiling(24, 6, 18, chat_enlargement=1.0, training_enlargement=1.5, chat_centered=False),
        takes_video=True,
        merge=2,
        meta_instruction="",
        chat_bos_at_every_text=False,
        image_leads_prompt=True,
        penalizes_prompt=False,
        max_length=16384,
    ),
    Family(
        "llava-internlm2",
        ("xtuner/llava-internlm2-7b",),
        image_size=336,
        pad_to_square=True,
        vision_select_layer=-2,
        plora_rank=0,
        template=INTERNLM2_CHAT_TEMPLATE,
        meta_instruction="",
        chat_bos_at_every_text=False,
        after_image="\n",
        in_parts=True,
        max_length=2048,
    ),
    Family(
        "qwen-vl",
        ("Qwen/Qwen-VL", "Qwen/Qwen-VL-Chat"),
        image_size=448,
        network="qwen_vl",
        plora_rank=0,
        template=QWEN_TEMPLATE,
        meta_instruction="You are a helpful assistant.",
        chat_bos_at_every_text=False,
        leading_image=f"Picture {{}}: {IMAGE_PLACEHOLDER}\n",
        num_queries=256,
        max_window_size=6144,
        lora_targets=("attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2"),
        max_length=2048,
    ),
)
_BY_NAME = {family.name: family for family in FAMILIES}

_SEPARATOR = "plora_glb_GN"  # a parameter that only the tiled families have
XCOMPOSER2_ARCHITECTURE = "InternLMXComposer2ForCausalLM"
INTERNLM2_ARCHITECTURE = "InternLM2ForCausalLM"  # of the language model in XTuner's LLaVA
QWEN_ARCHITECTURE = "QWenLMHeadModel"  # with "visual" in its config.json, Qwen-VL


def family_named(name: str) -> Family:
    """Raises: ValueError for a name that is no family."""
    if not isinstance(name, str) or name not in _BY_NAME:
        raise ValueError(f'unknown model family "{shown(name)}"; known are {", ".join(_BY_NAME)}')
    return _BY_NAME[name]


def detect_family(config: dict, tensor_names=(), source: str = "config.json") -> Family:
    """The family of a checkpoint, from its own config and tensor names; a path never decides.

    Args:
        config: the content of config.json, upstream's or ours.
        tensor_names: names of the tensors in the checkpoint, upstream's; may be empty where only config.json is at
            hand.
        source: what to call the config in messages.
    Raises: ValueError if the checkpoint is of no supported family.
    """
    if config.get("xc2_family") is not None:
        return family_named(config["xc2_family"])
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list):
        raise ValueError(f"{source}: architectures is {short_repr(architectures)}, but must be a list of names")
    if INTERNLM2_ARCHITECTURE in architectures and config.get("vision_config") is not None:
        return _BY_NAME["llava-internlm2"]
    if QWEN_ARCHITECTURE in architectures and config.get("visual") is not None:
        return _BY_NAME["qwen-vl"]
    if XCOMPOSER2_ARCHITECTURE not in architectures:
        hint = "this is not an InternLM-XComposer2 checkpoint"
        if INTERNLM2_ARCHITECTURE in architectures:
            hint = "this is a language model alone, a LLaVA has the folders projector and visual_encoder beside it"
        if QWEN_ARCHITECTURE in architectures:
            hint = 'this is a language model alone, the config.json of a Qwen-VL has "visual" in it'
        found = short_repr(architectures) if architectures else "missing"
        raise ValueError(f"{source}: architectures is {found}, expected [{XCOMPOSER2_ARCHITECTURE!r}]; {hint}")
    image_size = config.get("img_size")
    is_2d5 = image_size == 560 or config.get("model_type") == "internlm2"
    tiled = _SEPARATOR in tensor_names if tensor_names else is_2d5 or image_size is None
    if tiled:
        return _BY_NAME["xcomposer2d5-7b" if is_2d5 else "xcomposer2-4khd-7b"]
    return _BY_NAME["xcomposer2-7b" if image_size == 224 else "xcomposer2-vl-7b"]
