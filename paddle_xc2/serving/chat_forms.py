"""What a client of OpenAI's chat completions sends: checked, and turned into requests to the engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from paddle_xc2.data.chat_request import ChatRequest, read_request
from paddle_xc2.data.conversation import DataError
from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER
from paddle_xc2.generation.request import MOST_LIKELY, Request
from paddle_xc2.generation.sampling import SamplingSettings
from paddle_xc2.generation.served_model import ServedModel
from paddle_xc2.serving.errors import ApiError
from paddle_xc2.serving.limits import Limits
from paddle_xc2.serving.sent_images import decoded_image, image_file


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TextPart(_Form):
    type: Literal["text"]
    text: str


class ImageAddress(_Form):
    url: str
    detail: Literal["auto", "low", "high"] | None = None  # taken, without effect: the model decides


class ImagePart(_Form):
    type: Literal["image_url"]
    image_url: ImageAddress


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


# A text stands for a list, so that what is wrong with it is told once, and not of every form that it isn't.
def _as_parts(content):
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_list(stop):
    return [stop] if isinstance(stop, str) else stop


class ChatMessage(_Form):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], BeforeValidator(_as_parts)] | None = None
    name: str | None = None
    refusal: None = None

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        return self.content or []


class StreamOptions(_Form):
    include_usage: bool = False
    include_obfuscation: bool = False  # taken, without effect


StopText = Annotated[str, StringConstraints(min_length=1)]


class ChatForm(_Form):
    """The body of a request. Fields that are taken without effect tell the server about the client."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1)
    stop: Annotated[list[StopText], Field(max_length=4), BeforeValidator(_as_list)] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LIKELY)
    # Ours, in OpenAI's client through extra_body.
    top_k: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, gt=0)
    # Without effect.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Taken as long as they ask for nothing.
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def new_tokens(self) -> int | None:
        """That it asks for."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """In a stream."""
        return self.stream_options is not None and self.stream_options.include_usage


def read_form(body: bytes) -> ChatForm:
    """Raises: ApiError that names the field."""
    try:
        form = ChatForm.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or None
        if first["type"] == "extra_forbidden":
            raise ApiError(400, f"there is no argument {field} here", "unknown_parameter", field) from None
        where = f"{field}: " if field else "the body: "
        raise ApiError(400, f"{where}{first['msg']}", "invalid_value" if field else "invalid_json", field) from None
    if form.top_logprobs and not form.logprobs:
        raise ApiError(400, "top_logprobs is given without logprobs: true", "invalid_value", "top_logprobs")
    if form.stream_options and not form.stream:
        raise ApiError(400, "stream_options are given without stream: true", "invalid_value", "stream_options")
    return form


def sent_images(form: ChatForm, limits: Limits, fetch: bool) -> list[bytes]:
    """The files of its images, of which those behind addresses are fetched if `fetch` allows it. Raises: ApiError, also
    for messages that can't be answered, before anything is fetched."""
    urls = [part.image_url.url for message in form.messages for part in message.parts if part.type == "image_url"]
    if len(urls) > limits.max_images:
        message = f"there are {len(urls)} images; at most {limits.max_images} are taken"
        raise ApiError(400, message, "too_many_images", "messages")
    _read(form, None)
    return [image_file(url, limits, fetch) for url in urls]


def read_chat(form: ChatForm, files: list[bytes], limits: Limits) -> ChatRequest:
    """Messages and images. files: as `sent_images` gives them. Raises: ApiError."""
    return _read(form, [decoded_image(content, limits) for content in files])


def _read(form: ChatForm, images: list | None) -> ChatRequest:
    """images: None leaves them out."""
    turns = [{"role": message.role, "content": _text(message)} for message in form.messages]
    _check_roles([message.role for message in form.messages])
    opens = next((message for message in form.messages if message.role == "user"), form.messages[-1])
    if images and len(images) == 1 and opens.parts and opens.parts[0].type == "image_url":
        # A single picture in front stands where the family's own chat puts it.
        place = form.messages.index(opens)
        turns[place]["content"] = turns[place]["content"].removeprefix(IMAGE_PLACEHOLDER)
    try:
        return read_request(turns[-1]["content"], images, turns[:-1])
    except DataError as error:
        raise ApiError(400, str(error), "invalid_value", "messages") from error


def _check_roles(roles: list[str]) -> None:
    """Raises: ApiError unless, after a system turn or none, user and assistant speak in turn, the user last."""
    begins = int(roles[0] in ("system", "developer"))
    if roles[-1] != "user":
        raise ApiError(400, "the last message must be the user's: there is nothing to answer", param="messages")
    for index, role in enumerate(roles[begins:], start=begins):
        wanted = "assistant" if (index - begins) % 2 else "user"
        if role != wanted:
            message = (
                f"messages.{index} is from the {role}, where the {wanted} should speak: after a system message or "
                "none, user and assistant take turns; join what one of them says into one message"
            )
            raise ApiError(400, message, "invalid_value", f"messages.{index}.role")


def engine_requests(
    form: ChatForm, chat: ChatRequest, served: ServedModel, defaults: SamplingSettings, limits: Limits, most: int
) -> list[Request]:
    """A request for each choice.

    Args:
        defaults: of what the form leaves open.
        most: tokens of prompt and answer that there is room for.
    Raises: ApiError if the prompt is too long, or can't be made.
    """
    most = min(most, served.context_length)
    least = chat.num_characters // served.tokenizer.longest_token
    if least > most:  # a tokenizer takes hundreds of bytes of memory for a character
        raise _too_long(f"at least {least:,} tokens", most)
    try:
        prompt = served.processor.encode_chat_request(chat)
    except DataError as error:
        raise ApiError(400, str(error), "invalid_value", "messages") from error
    room = most - len(prompt)
    wanted = form.new_tokens or max(1, min(limits.max_new_tokens, room))
    if wanted > room:
        raise _too_long(f"{len(prompt):,} tokens, images included, and {wanted:,} may follow", most)
    return [
        Request(
            served,
            prompt,
            _sampling(form, defaults),
            wanted,
            None if form.seed is None else (form.seed + choice) % 2**63,
            tuple(form.stop or ()),
            limits.answer_seconds,
            form.top_logprobs or 0,
        )
        for choice in range(form.num_choices)
    ]


def _too_long(what: str, most: int) -> ApiError:
    advice = "shorten the messages, or lower max_completion_tokens"
    message = f"the messages have {what}, but the model takes {most:,} in all; {advice}"
    return ApiError(400, message, "context_length_exceeded", "messages")


def _sampling(form: ChatForm, defaults: SamplingSettings) -> SamplingSettings:
    temperature = defaults.temperature if form.temperature is None else form.temperature
    samples = defaults.do_sample if form.temperature is None else form.temperature > 0
    top_p = defaults.top_p if form.top_p is None else form.top_p
    return SamplingSettings(
        samples and top_p > 0,
        temperature or 1.0,
        defaults.top_k if form.top_k is None else form.top_k,
        top_p or 1.0,
        form.repetition_penalty or defaults.repetition_penalty,
    )


def _text(message: ChatMessage) -> str:
    """With an `<ImageHere>` for each image; texts side by side are joined by a line break."""
    if message.role != "user" and any(part.type == "image_url" for part in message.parts):
        raise ApiError(400, f"a message of the {message.role} shows an image; only the user's can", param="messages")
    text, after_text = "", False
    for part in message.parts:
        is_text = part.type == "text"
        text += ("\n" if is_text and after_text else "") + (part.text if is_text else IMAGE_PLACEHOLDER)
        after_text = is_text
    return text
