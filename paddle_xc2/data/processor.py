"""XComposer2Processor: what stands between a record or a question and the model's batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paddle_xc2.checkpoint_config import read_checkpoint_config
from paddle_xc2.data.collate import collate_arrays, to_tensors
from paddle_xc2.data.conversation import Conversation, Message, check_trainable, place_leading_image
from paddle_xc2.data.encode import Example, TooLong, drop_oldest_turn, encode_prompt, encode_training
from paddle_xc2.data.image_transform import load_image, square_image
from paddle_xc2.data.json_formats import to_conversation
from paddle_xc2.data.tokenizer import XComposer2Tokenizer
from paddle_xc2.families import Family, detect_family

CHAT_LAYOUTS = ("official", "as_trained")
TRUNCATIONS = ("refuse", "turns")


class XComposer2Processor:
    """Encodes samples and prompts for one checkpoint.

    Args:
        family: row of facts about the model.
        tokenizer: None for images alone.
        image_size: pixels, side of the square image.
        patch_size: pixels, side of a ViT patch.
        max_length: tokens of a training sample, image slots included; None is the family's.
        chat_layout: "official" asks as upstream's chat code does, "as_trained" as upstream's training code writes
            samples: for models fine-tuned with it.
        truncation: what happens to longer training samples: "refuse" raises TooLong, "turns" drops the oldest turns.
    Raises: ValueError for an unknown chat_layout or truncation.
    """

    def __init__(
        self,
        family: Family,
        tokenizer: XComposer2Tokenizer | None,
        image_size: int,
        patch_size: int = 14,
        max_length: int | None = None,
        chat_layout: str = "official",
        truncation: str = "refuse",
    ):
        if chat_layout not in CHAT_LAYOUTS:
            raise ValueError(f'chat_layout "{chat_layout}" is not one of {", ".join(CHAT_LAYOUTS)}')
        if truncation not in TRUNCATIONS:
            raise ValueError(f'truncation "{truncation}" is not one of {", ".join(TRUNCATIONS)}')
        self.family = family
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.tokens_per_image = (image_size // patch_size) ** 2
        self.max_length = max_length or family.max_length
        self.chat_layout = chat_layout
        self.truncation = truncation

    @classmethod
    def from_pretrained(
        cls,
        path,
        max_length: int | None = None,
        hd_num: int | None = None,
        chat_layout: str | None = None,
        truncation: str = "refuse",
        image_size: int | None = None,
    ) -> XComposer2Processor:
        """The processor of a checkpoint directory.

        Args:
            hd_num: number of tiles; this family has none, so only None or -1 is taken.
            chat_layout: None is what the checkpoint says: "as_trained" if it was fine-tuned here, else "official".
            image_size: None is the checkpoint's.
        Raises: FileNotFoundError, ValueError.
        """
        config = read_checkpoint_config(path)
        family = detect_family(config, source=str(Path(path) / "config.json"))
        if hd_num not in (None, -1):
            raise ValueError(f"hd_num is {hd_num}, but {family.name} takes no tiles; leave it out or set -1")
        return cls(
            family,
            XComposer2Tokenizer.from_pretrained(path),
            image_size or config.get("img_size") or family.image_size,
            (config.get("vision_config") or {}).get("patch_size", 14),
            max_length,
            chat_layout or config.get("chat_layout") or "official",
            truncation,
        )

    @classmethod
    def for_config(cls, config, tokenizer=None) -> XComposer2Processor:
        """The processor of a model in memory. config: XComposer2Config."""
        return cls(
            config.family,
            tokenizer,
            config.img_size,
            config.vision.patch_size,
            config.max_length,
            config.chat_layout or "official",
        )

    def image_transform(self, image, training: bool = False, source: str = "") -> np.ndarray:
        """Path or PIL image -> float32 [3, image_size, image_size], upstream's pixels.

        Args:
            training: families whose training pixels differ from chat's look at it; this one has the same.
            source: the record that it belongs to, for messages.
        Raises: DataError if it can't be read.
        """
        return square_image(load_image(image, source), self.image_size)

    def num_image_tokens(self, image) -> int:
        """Slots that an image takes in the sequence."""
        return self.tokens_per_image

    def num_tokens(self, conversation: Conversation) -> int:
        """Length of the training sample, image slots included; no image is read."""
        return len(self._encode_text(conversation))

    def encode_sample(self, record: dict, image_folder=None) -> Example:
        """One training record of any known format -> Example. Raises: DataError."""
        return self.encode_conversation(to_conversation(record, source="record", image_folder=image_folder))

    def encode_conversation(self, conversation: Conversation) -> Example:
        """A training sample. Raises: DataError; TooLong if it can't be made to fit max_length."""
        check_trainable(conversation)
        fitting, example, dropped = conversation, self._encode_text(conversation), 0
        num_tokens = len(example)
        while len(example) > self.max_length:
            fitting = drop_oldest_turn(fitting) if self.truncation == "turns" else None
            if fitting is None:
                raise TooLong(
                    f"{conversation.source}: the sample has {num_tokens} tokens ({int(example.image_mask.sum())} of them "
                    f"image slots), more than max_length {self.max_length}; raise max_length, shorten the sample"
                    + (", or set truncation to turns" if self.truncation == "refuse" else ""),
                    num_tokens,
                )
            example, dropped = self._encode_text(fitting), dropped + 1
        example.num_dropped_turns = dropped
        example.pixel_values = [self.image_transform(image, True, conversation.source) for image in fitting.images]
        return example

    def encode_chat(self, query: str, images=(), history=(), meta_instruction: str | None = None) -> Example:
        """The prompt of a chat.

        Args:
            query: the question, one `<ImageHere>` per image; a single image without a placeholder goes first.
            images: paths or PIL images, in reading order over history and query.
            history: (question, answer) pairs.
            meta_instruction: system turn; None is the default, "" is none.
        Raises: DataError.
        """
        example = self.encode_chat_text(query, [self.num_image_tokens(image) for image in images], history, meta_instruction)
        example.pixel_values = [self.image_transform(image) for image in images]
        return example

    def encode_chat_text(self, query: str, image_tokens: list[int], history=(), meta_instruction=None) -> Example:
        """As `encode_chat`, for images of which only the number of tokens is known."""
        as_trained = self.chat_layout == "as_trained"
        if meta_instruction is None:
            meta_instruction = "" if as_trained else self.family.meta_instruction
        messages = [Message("system", meta_instruction)] if meta_instruction else []
        for question, answer in history:
            messages += [Message("user", question), Message("assistant", answer)]
        messages.append(Message("user", query))
        placed = place_leading_image(tuple(messages), len(image_tokens))
        conversation = Conversation(placed, tuple(image_tokens), source="chat")
        example = encode_prompt(
            conversation.messages,
            self.tokenizer,
            self.family.template,
            image_tokens,
            official_bos=not as_trained and self.family.chat_bos_at_every_text,
            strip=as_trained,
        )
        example.source = conversation.source
        return example

    def collate(self, examples: list[Example], packed: bool = False, padding_side: str = "right") -> dict:
        """Batch of Paddle tensors, so that `model(**batch)` works; keys and shapes are in `collate.py`."""
        return to_tensors(self.collate_arrays(examples, packed, padding_side))

    def collate_arrays(self, examples: list[Example], packed: bool = False, padding_side: str = "right") -> dict:
        """The same as NumPy arrays, for worker processes."""
        return collate_arrays(examples, self.tokenizer.pad_token_id, packed, padding_side)

    def _encode_text(self, conversation: Conversation) -> Example:
        image_tokens = [self.num_image_tokens(image) for image in conversation.images]
        example = encode_training(conversation.messages, self.tokenizer, self.family.template, image_tokens)
        example.source = conversation.source
        return example
