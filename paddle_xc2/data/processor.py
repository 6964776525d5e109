"""XComposer2Processor: what stands between a record or a question and the model's batch."""

from __future__ import annotations

import numpy as np

from paddle_xc2.data.chat_request import ChatRequest, read_request
from paddle_xc2.data.collate import collate_arrays, collate_rows, to_tensors
from paddle_xc2.data.conversation import Conversation, DataError, Message, check_trainable
from paddle_xc2.data.encode import (
    Example,
    TooLong,
    drop_oldest_turn,
    encode_prompt,
    encode_training,
    leading_images,
    num_history_tokens,
)
from paddle_xc2.data.images.given_images import given_image, is_tensor
from paddle_xc2.data.images.picture_reading import AS_UPSTREAM, PictureReading
from paddle_xc2.data.images.pictures import image_name, image_size_of, load_image
from paddle_xc2.data.images.pixels import (
    cropped_square_image,
    padded_square_image,
    square_image,
    tiled_image,
    tiled_size,
)
from paddle_xc2.data.images.video import is_video, video_pixels, video_size
from paddle_xc2.data.records.conversations import to_conversation
from paddle_xc2.families.asked_as import AskedAs
from paddle_xc2.families.table import FAMILIES, Family
from paddle_xc2.families.upstream_settings import model_settings
from paddle_xc2.hub.directory import open_model
from paddle_xc2.text.base import BaseTokenizer
from paddle_xc2.text.load_tokenizer import load_tokenizer

TRUNCATIONS = ("refuse", "turns")


class XComposer2Processor:
    """Encodes samples and prompts for one checkpoint.

    Args:
        family: row of facts about the model.
        tokenizer: None for images alone.
        image_size: pixels, side of the square image, or of a tile.
        patch_size: pixels, side of a ViT patch.
        max_length, hd_num, chat_layout, pad_image_to_square: as of AskedAs; None is the family's way.
        truncation: what happens to longer training samples: "refuse" raises TooLong, "turns" drops the oldest turns but
            not their images, which later answers may be about.
        reading: of pictures that are not plain RGB.
    Attributes:
        asked_as: all of these settings but truncation.
    Raises: ValueError for an unknown truncation, or as AskedAs.of_family.
    """

    def __init__(
        self,
        family: Family,
        tokenizer: BaseTokenizer | None,
        image_size: int,
        patch_size: int = 14,
        max_length: int | None = None,
        hd_num: int | None = None,
        chat_layout: str | None = None,
        truncation: str = "refuse",
        pad_image_to_square: bool | None = None,
        reading: PictureReading = AS_UPSTREAM,
    ):
        if truncation not in TRUNCATIONS:
            raise ValueError(f'truncation "{truncation}" is not one of {", ".join(TRUNCATIONS)}')
        self.family = family
        self.tokenizer = tokenizer
        self.asked_as = AskedAs.of_family(
            family,
            chat_layout,
            max_length,
            hd_num,
            image_size,
            pad_image_to_square,
            reading.exif or None,
            reading.background,
        )
        self.patch_size = patch_size
        self.truncation = truncation
        self.reading = reading

    @property
    def image_size(self) -> int:
        return self.asked_as.img_size

    @property
    def hd_num(self) -> int | None:
        return self.asked_as.hd_num

    @property
    def max_length(self) -> int:
        return self.asked_as.max_length

    @property
    def chat_layout(self) -> str:
        return self.asked_as.chat_layout

    @property
    def pad_image_to_square(self) -> bool | None:
        return self.asked_as.pad_image_to_square

    @classmethod
    def from_pretrained(
        cls,
        path,
        max_length: int | None = None,
        hd_num: int | None = None,
        chat_layout: str | None = None,
        truncation: str = "refuse",
        image_size: int | None = None,
        pad_image_to_square: bool | None = None,
        base=None,
        exif: bool | None = None,
        background: str | None = None,
    ) -> XComposer2Processor:
        """The processor of a checkpoint, of an adapter with its base.

        Args:
            path: of the checkpoint: a directory, a released name, or what `open_model` gave.
            max_length, hd_num, chat_layout, image_size, pad_image_to_square: as of AskedAs; None is what the checkpoint
                was fine-tuned with here, else the family's way. Families without tiles take only None or -1 for hd_num.
            base: of an adapter, if it is not where the adapter remembers it.
            exif, background: as of PictureReading; None is what the checkpoint was fine-tuned with here.
        Raises: FileNotFoundError, ValueError.
        """
        directory, settings = open_model(path, base), {}
        tokenizer = load_tokenizer(directory)
        if directory.is_adapter:
            directory, settings = directory.base, directory.origin.settings
        content = directory.config() | settings
        config = model_settings(content, str(directory.config_path), directory.tensor_names())
        asked = AskedAs.of_model(
            config,
            chat_layout=chat_layout,
            max_length=max_length,
            hd_num=hd_num,
            img_size=image_size,
            pad_image_to_square=pad_image_to_square,
            exif=exif,
            background=background,
        )
        return cls._asked(asked, config, tokenizer, truncation)

    @classmethod
    def for_config(cls, config, tokenizer=None, hd_num: int | None = None) -> XComposer2Processor:
        """The processor of a model in memory. config: XComposer2Config."""
        return cls._asked(AskedAs.of_model(config, hd_num=hd_num), config, tokenizer)

    @classmethod
    def _asked(cls, asked: AskedAs, config, tokenizer, truncation: str = "refuse") -> XComposer2Processor:
        return cls(
            config.family,
            tokenizer,
            asked.img_size,
            config.vision.patch_size,
            asked.max_length,
            asked.hd_num,
            asked.chat_layout,
            truncation,
            asked.pad_image_to_square,
            PictureReading(bool(asked.exif), asked.background),
        )

    def image_transform(self, image, training: bool = False, source: str = "", num_images: int = 1) -> np.ndarray:
        """An image or the path of a video -> float32 [3, height, width], upstream's pixels.

        Args:
            image: in any form that `given_image` knows, but a tensor.
            training: training's pixels instead of chat's; the tiled families have other sizes and borders there, but
                for videos. A checkpoint asked `as_trained` always gets training's.
            source: the record that it belongs to, for messages.
            num_images: of the prompt; chat's limit of tiles depends on it.
        Raises: DataError if it can't be read, or is a video and the family takes none.
        """
        image = _picture(image)
        if self._is_video(image, source):
            return video_pixels(image, self.image_size, source)
        loaded, tiling = load_image(image, source, reading=self.reading), self.family.tiling
        if tiling is None:
            if not self.family.pad_to_square:
                return square_image(loaded, self.image_size)
            square = cropped_square_image if self.pad_image_to_square is False else padded_square_image
            return square(loaded, self.image_size)
        training = training or self.chat_layout == "as_trained"
        columns = self._tile_columns(*loaded.size, training, num_images)
        return tiled_image(loaded, self.image_size, columns, centered=training or tiling.chat_centered)

    def num_image_tokens(self, image, training: bool = False, source: str = "", num_images: int = 1) -> int:
        """Slots that an image or video takes in the sequence. Only its header is read (see `video_size` for videos).

        Arguments and errors as of `image_transform`.
        """
        image = _picture(image)
        width = height = self.image_size
        if self._is_video(image, source):
            width, height = video_size(image, self.image_size, source)
        elif self.family.tiling is not None:
            training = training or self.chat_layout == "as_trained"
            size = image_size_of(image, source, reading=self.reading)
            width, height = tiled_size(*size, self.image_size, self._tile_columns(*size, training, num_images))
        return self.family.num_image_tokens(height, width, self.patch_size)

    def _tile_columns(self, width: int, height: int, training: bool, num_images: int) -> int:
        tiling = self.family.tiling
        if training:
            max_tiles, enlargement = self.hd_num or tiling.training_tiles, tiling.training_enlargement
        else:
            max_tiles, enlargement = self.hd_num or tiling.chat_tiles, tiling.chat_enlargement
            if num_images > 1:
                max_tiles = min(max_tiles, tiling.chat_tiles_of_several)
        return tiling.columns(max(width, height), min(width, height), self.image_size, max_tiles, enlargement)

    def _is_video(self, image, source: str) -> bool:
        if not is_video(image):
            return False
        if not self.family.takes_video:
            raise DataError(
                f"{image_name(image, source)}: this is a video, and {self.family.name} takes pictures only; "
                f"use a picture, or {' or '.join(family.name for family in FAMILIES if family.takes_video)}"
            )
        return True

    def num_tokens(self, conversation: Conversation) -> int:
        """Length of the training sample, image slots included; no image is read."""
        return len(self._encode_text(conversation))

    def encode_sample(self, record: dict, image_folder=None) -> Example:
        """One training record of any known format -> Example. Raises: DataError."""
        return self.encode_conversation(to_conversation(record, source="record", image_folder=image_folder))

    def encode_conversation(self, conversation: Conversation) -> Example:
        """A training sample. Raises: DataError; TooLong if it can't be made to fit max_length."""
        fitting, example = self.lay_out(conversation)
        example.pixel_values = [self.image_transform(image, True, conversation.source) for image in fitting.images]
        return example

    def lay_out(self, conversation: Conversation) -> tuple[Conversation, Example]:
        """A training sample without its pixels: no image is read.

        Returns: the conversation as far as it fits max_length, and its ids, labels and image slots.
        Raises: DataError; TooLong if it can't be made to fit max_length.
        """
        check_trainable(conversation)
        fitting, example, dropped = conversation, self._encode_text(conversation), 0
        num_tokens = len(example)
        while len(example) > self.max_length:
            fitting = drop_oldest_turn(fitting) if self.truncation == "turns" else None
            if fitting is None:
                refused = self.truncation == "refuse"
                last = "even the last turn, with all images," if conversation.images else "even the last turn"
                raise TooLong(
                    f"{conversation.source}: {'the sample' if refused else last} has {len(example)} "
                    f"tokens ({int(example.image_mask.sum())} of them image slots), more than max_length "
                    f"{self.max_length}; raise max_length, shorten the sample"
                    + (", or set truncation to turns" if refused else ""),
                    num_tokens,
                )
            example, dropped = self._encode_text(fitting), dropped + 1
        if not example.num_trained_tokens:
            raise DataError(
                f"{conversation.source}: no token of it would be trained; write an answer", "nothing trained"
            )
        example.num_dropped_turns = dropped
        return fitting, example

    def encode_question(self, conversation: Conversation) -> Example:
        """What a training sample's last answer follows: the prompt with which that answer is asked for.

        In the layout of training, with its pixels, and with the turns that training sees; labels are IGNORE_INDEX.

        Raises: DataError; TooLong as `lay_out`.
        """
        fitting, _ = self.lay_out(conversation)
        question = Conversation(fitting.messages[:-1], fitting.images, fitting.source)
        image_tokens = [self.num_image_tokens(image, True, question.source) for image in question.images]
        example = encode_prompt(question, self.tokenizer, self.family, image_tokens, as_trained=True)
        example.source = question.source
        example.pixel_values = [self.image_transform(image, True, question.source) for image in question.images]
        return example

    def encode_chat(self, query: str, images=(), history=(), meta_instruction: str | None = None) -> Example:
        """The prompt of a chat. Arguments as of `read_request`, but for tensors. Raises: DataError."""
        return self.encode_chat_request(read_request(query, images, history, meta_instruction, self.family.template))

    def encode_chat_request(self, request: ChatRequest, max_window_size: int | None = None) -> Example:
        """The prompt of a request whose images are no tensors. Raises: DataError."""
        request = self.in_window(request, max_window_size)
        count = len(request.images)
        image_tokens = [self.num_image_tokens(image, num_images=count) for image in request.images]
        example = self.encode_request(request, image_tokens)
        example.pixel_values = [self.image_transform(image, num_images=count) for image in request.images]
        return example

    def in_window(self, request: ChatRequest, max_window_size: int | None = None) -> ChatRequest:
        """A chat without its oldest turns, where it has too many for the family's upstream.

        Args:
            max_window_size: tokens of system turn and earlier turns, fewer than which they have to be; None is the
                family's limit.
        """
        limit = max_window_size or self.family.max_window_size
        while limit is not None and request.turns and self._num_history_tokens(request) >= limit:
            request = request.without_oldest_turn()
        return request

    def _num_history_tokens(self, request: ChatRequest) -> int:
        messages = request.messages(self.family.meta_instruction, self.family.template.always_system)[:-1]
        image_tokens = [self.family.num_queries] * sum(message.num_images for message in messages)
        history = Conversation(messages, tuple(image_tokens), source="chat", is_prompt=True)
        return num_history_tokens(history, self.tokenizer, self.family, image_tokens)

    def encode_request(self, request: ChatRequest, image_tokens: list[int]) -> Example:
        """The text of a chat's prompt, with so many slots for each of its images. Raises: DataError."""
        as_trained = self.chat_layout == "as_trained"
        family = self.family
        always_system = family.template.always_system
        default = "" if as_trained and not always_system else family.meta_instruction
        messages = request.messages(default, always_system)
        if len(image_tokens) > 1 and family.numbers_images and not any(message.num_images for message in messages):
            asked = leading_images(family, len(image_tokens)) + request.query
            messages = (*messages[:-1], Message("user", asked))
        conversation = Conversation(messages, tuple(image_tokens), source="chat", is_prompt=True)
        return encode_prompt(conversation, self.tokenizer, self.family, image_tokens, as_trained)

    def collate(self, examples: list[Example], packed: bool = False, padding_side: str = "right") -> dict:
        """Batch of Paddle tensors, so that `model(**batch)` works; keys and shapes are in `collate.py`."""
        return to_tensors(self.collate_arrays(examples, packed, padding_side))

    def collate_arrays(self, examples: list[Example], packed: bool = False, padding_side: str = "right") -> dict:
        """The same as NumPy arrays, for worker processes."""
        return collate_arrays(examples, self.tokenizer.pad_token_id, packed, padding_side)

    def collate_rows(self, rows: list[list[Example]]) -> dict:
        """The same of the examples of each row, where attention stays within each example."""
        return collate_rows(rows, self.tokenizer.pad_token_id)

    def _encode_text(self, conversation: Conversation) -> Example:
        image_tokens = [self.num_image_tokens(image, True, conversation.source) for image in conversation.images]
        return encode_training(conversation, self.tokenizer, self.family, image_tokens)


def _picture(image):
    """As `given_image`, for what is a picture still. Raises: DataError for a float tensor."""
    image = given_image(image)
    if is_tensor(image):
        raise DataError(
            f"image is a tensor of shape {list(image.shape)}: pixel values, or tokens, already; give it to model.chat"
        )
    return image
