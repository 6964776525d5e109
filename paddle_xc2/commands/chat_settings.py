"""The settings of a conversation as words: "temperature=0.5", "greedy=true"."""

from __future__ import annotations

from dataclasses import asdict, replace

from paddle_xc2.generation.sampling_settings import SamplingSettings
from paddle_xc2.generation.session import ChatSettings
from paddle_xc2.messages import did_you_mean, shown

_SAMPLING = {"temperature": float, "top_p": float, "top_k": int, "repetition_penalty": float}
_WHOLE = {"max_new_tokens": int, "seed": int}
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
NAMES = ("greedy", *_SAMPLING, *_WHOLE)


def settings_line(settings: ChatSettings) -> str:
    """All of them, as they can be typed."""
    sampling = asdict(settings.sampling)
    values = {"greedy": not settings.sampling.do_sample} | {name: sampling[name] for name in _SAMPLING}
    values |= {name: getattr(settings, name) for name in _WHOLE}
    return " ".join(f"{name}={str(value).lower()}" for name, value in values.items())


def with_changes(settings: ChatSettings, words: list[str]) -> ChatSettings:
    """The settings with those that the words change. Raises: ValueError saying what is wrong."""
    sampling, whole = asdict(settings.sampling), {}
    for word in words:
        name, equals, text = word.partition("=")
        if name not in NAMES:
            raise ValueError(
                f"there is no setting {shown(name)}{did_you_mean(name, NAMES)}; there are {', '.join(NAMES)}"
            )
        if not equals:
            raise ValueError(f"{name} has no value; write {name}=...")
        if name == "greedy":
            if text.lower() not in (*_YES, *_NO):
                raise ValueError(f"greedy is {shown(text)}; write greedy=true or greedy=false")
            sampling["do_sample"] = text.lower() in _NO
            continue
        kind = (_SAMPLING | _WHOLE)[name]
        try:
            value = kind(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise ValueError(f"{name} is {shown(text)}, but must be {wanted}") from None
        (sampling if name in _SAMPLING else whole)[name] = value
    if whole.get("max_new_tokens", 1) < 1 or whole.get("seed", 0) < 0:
        raise ValueError("max_new_tokens must be at least 1, and seed 0 or more")
    return replace(settings, sampling=SamplingSettings(**sampling), **whole)
