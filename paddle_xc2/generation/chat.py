"""Question, images, history -> reply, whole or streamed. Chat, batch, web and server all come through here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

import paddle

from paddle_xc2.data.chat_request import grown_history, read_request
from paddle_xc2.data.encode import Example
from paddle_xc2.data.images.given_images import given_image
from paddle_xc2.data.marked_text import marked_pieces
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.generation.generate import decode_steps, end_ids, generate
from paddle_xc2.generation.runner import image_features, pad_left
from paddle_xc2.generation.sampling_settings import CHAT_SAMPLING, MAX_NEW_TOKENS
from paddle_xc2.text.stream_decoder import StreamDecoder


def chat(
    model,
    tokenizer,
    query: str,
    image=None,
    history=(),
    meta_instruction: str | None = None,
    streamer=None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    num_beams: int = 1,
    **sampling,
) -> tuple[str, list]:
    """One answer.

    Args:
        query: the question, one `<ImageHere>` per image; a single image without one goes first.
        image: a path, an address, bytes of a file, a PIL image, an array (RGB), the tensor of `encode_img` (several
            concatenated on axis 0) or of pixel values, or a list of these: all images of history and query, in reading
            order. `data/images/given_images.py` has the details.
        history: what an earlier call returned, (question, answer) pairs, or OpenAI's messages (`read_request`).
        meta_instruction: system turn; None is the checkpoint's default, "" is none.
        streamer, max_new_tokens, num_beams: as of `generate`.
        sampling: those of `SamplingSettings` that differ from CHAT_SAMPLING, such as do_sample or temperature.
    Returns: (answer, history with this turn, in the form that it came in).
    Raises: ValueError if images and placeholders don't match, an argument is out of range or nothing that is known.
    """
    settings = replace(CHAT_SAMPLING, **sampling)
    batch = _encode(model, tokenizer, query, image, history, meta_instruction)
    ids, _ = generate(
        model,
        **batch,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        eos_token_id=stop_ids(model, tokenizer),
        streamer=streamer,
        **asdict(settings),
    )
    answer = decode_answer(tokenizer, ids[0].tolist(), stop_ids(model, tokenizer))
    return answer, grown_history(history, query, answer)


def stream_chat(
    model,
    tokenizer,
    query: str,
    image=None,
    history=(),
    meta_instruction: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    **sampling,
) -> Iterator[tuple[str, list]]:
    """The growing answer and history, after every token that completes a character. Arguments as of `chat`."""
    settings = replace(CHAT_SAMPLING, **sampling)
    batch = _encode(model, tokenizer, query, image, history, meta_instruction)
    stops = stop_ids(model, tokenizer)
    answer, decoder = "", StreamDecoder(tokenizer)
    prompt = pad_left(model, **batch)
    for ids, _, _ in decode_steps(model, prompt, settings, max_new_tokens, end_ids(model, stops)):
        if ids[0] in stops:
            break
        if new := decoder.push(int(ids[0])):
            answer += new
            yield answer, grown_history(history, query, answer)
    answer += decoder.flush()
    yield answer, grown_history(history, query, answer)


def stop_ids(model, tokenizer) -> list[int]:
    """Ids at which an answer ends."""
    return [tokenizer.convert_tokens_to_ids(token) for token in model.config.family.template.stop_tokens]


def decode_answer(tokenizer, ids: list[int], stops: list[int]) -> str:
    """Text of new tokens up to the first that ends the answer."""
    end = next((index for index, token in enumerate(ids) if token in stops), len(ids))
    return tokenizer.answer_text(ids[:end])


def prompt_text(model, tokenizer, query: str, image=None, history=(), meta_instruction: str | None = None) -> str:
    """The literal prompt that `chat` gives the model, special tokens included: `<image: 256 tokens>` is an image."""
    example, image_tokens = _prompt(model, tokenizer, query, image, history, meta_instruction)
    return "".join(piece.text for piece in marked_pieces(example, image_tokens, tokenizer))


def _encode(model, tokenizer, query, image, history, meta_instruction) -> dict:
    """A batch of one prompt, as arguments of `pad_left`."""
    example, _ = _prompt(model, tokenizer, query, image, history, meta_instruction)
    return {
        "input_ids": example.input_ids[None],
        "image_mask": example.image_mask[None],
        "pixel_values": example.pixel_values,
    }


def _prompt(model, tokenizer, query, image, history, meta_instruction) -> tuple[Example, list[int]]:
    """The prompt, and how many tokens each of its images has."""
    processor = XComposer2Processor.for_config(model.config, tokenizer)
    request = read_request(query, image, history, meta_instruction, processor.family.template)
    request = processor.in_window(request)
    count = len(request.images)
    images = [part for image in request.images for part in _pixel_values(model, processor, image, count)]
    image_tokens = [
        part.shape[0] if part.ndim == 2 else processor.family.num_image_tokens(*part.shape[1:], processor.patch_size)
        for part in images
    ]
    example = processor.encode_request(request, image_tokens)
    example.pixel_values = images
    return example, image_tokens


def _pixel_values(model, processor, image, num_images: int) -> list:
    """Image -> what `image_features` takes: one, or as many as a tensor holds on axis 0.

    Args:
        image: of a ChatRequest. A tensor is what `encode_img` returns, or what `image_transform` does, alone or
            stacked.
    """
    if not isinstance(image, paddle.Tensor):
        return [paddle.to_tensor(processor.image_transform(image, num_images=num_images))]
    if image.ndim == 3 and image.shape[2] == model.config.hidden_size:
        return list(image.unbind(0))
    pixels = image.unsqueeze(0) if image.ndim == 3 else image
    side = processor.image_size
    if pixels.ndim == 4 and pixels.shape[1] == 3 and not (pixels.shape[2] % side or pixels.shape[3] % side):
        return list(pixels.astype("float32").unbind(0))
    raise ValueError(
        f"image is a tensor of shape {list(image.shape)}; expected what encode_img returns: [images, tokens, "
        f"{model.config.hidden_size}], or pixel values of image_transform: [3, height, width] in multiples of {side}"
    )


@paddle.no_grad()
def encode_image(model, image, hd_num: int | None = None):
    """Image tokens as `chat` would make them, to be given to it in the image's place turn after turn.

    Args:
        image: in any form that `chat` takes.
        hd_num: tiles that the image may take; None is chat's default.
    Returns: float [1, tokens, hidden].
    """
    processor = XComposer2Processor.for_config(model.config, hd_num=hd_num)
    return image_features(model, _pixel_values(model, processor, given_image(image), num_images=1)).unsqueeze(0)
