"""The only place where special-token strings and reserved ids are written."""

# Token ids that no model computes with.
IGNORE_INDEX = -100  # in labels: this position is not trained
IMAGE_SLOT_ID = 0  # in input_ids where image_mask is true; the embedding there is replaced, so any valid id would do

# Placeholders that users write in their texts.
IMAGE_PLACEHOLDER = "<ImageHere>"  # XComposer2: one per image, at its place
LLAVA_IMAGE = "<image>"  # LLaVA's data: the same
LLAVA_VIDEO = "<video>"  # ... and for a video

# Pieces of InternLM2's tokenizer.
BOS = "<s>"
EOS = "</s>"
UNK = "<unk>"
TURN_START = "[UNUSED_TOKEN_146]"  # XComposer2 opens every message with it
TURN_END = "[UNUSED_TOKEN_145]"  # ... and closes it with this one; generation stops here

IM_START = "<|im_start|>"  # what InternLM2-chat calls the same two
IM_END = "<|im_end|>"

# Of Qwen-VL: the end of a document, and what marks pictures and places in them.
ENDOFTEXT = "<|endoftext|>"
IMG_START, IMG_END, IMG_PAD = "<img>", "</img>", "<imgpad>"
REF_START, REF_END = "<ref>", "</ref>"
BOX_START, BOX_END = "<box>", "</box>"
QUAD_START, QUAD_END = "<quad>", "</quad>"

# Strings that belong to the template. A message that holds one of a turn could forge turns, so it is refused; the
# others are text there, as HTML's <s> is.
TURN_TOKENS = (TURN_START, TURN_END)
RESERVED = (BOS, EOS, *TURN_TOKENS)
