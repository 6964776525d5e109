"""tokenizer_config.json and special_tokens_map.json, as other programs write them: what they may say."""

from __future__ import annotations

from paddle_xc2.families.special_tokens import BOS, EOS, UNK
from paddle_xc2.files.json_file import parse_json
from paddle_xc2.messages import in_json, shown

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"

# Roles and their tokens where nothing is said.
SPECIAL_TOKENS = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK, "pad_token": EOS}
_SIDES = ("left", "right")
# What upstream's tokenizer would do otherwise with another value, and this one does not.
_FIXED = {"add_bos_token": True, "add_eos_token": False, "sp_model_kwargs": {}, "split_special_tokens": False}


def read_settings(files: dict[str, bytes], source: str) -> dict:
    """Both files together, the second one's values before the first one's; null is "not there".

    Args:
        files: their contents, by name; either may be missing.
        source: the directory they came from, for messages.
    Raises: ValueError naming file and key for what is damaged, of another type, or can't be carried out.
    """
    settings = {**SPECIAL_TOKENS, "additional_special_tokens": [], "added_tokens_decoder": {}, "padding_side": "right"}
    for name in (TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE):
        content = parse_json(files[name], f"{source}/{name}") if name in files else {}
        said = {key: value for key, value in content.items() if value is not None}
        _check(said, f"{source}/{name}")
        settings.update(said)
    return settings


def content_of(token: str | dict) -> str:
    """A special token is written as a string, or as an object that holds it."""
    return token["content"] if isinstance(token, dict) else token


def _check(settings: dict, file: str) -> None:
    for role in SPECIAL_TOKENS:
        if role in settings and not _is_token(settings[role]):
            raise ValueError(f'{file}: "{role}" is {in_json(settings[role])}, expected a text')
    others = settings.get("additional_special_tokens", [])
    if not isinstance(others, list) or not all(map(_is_token, others)):
        raise ValueError(f'{file}: "additional_special_tokens" is {in_json(others)}, expected a list of texts')
    if settings.get("padding_side", "right") not in _SIDES:
        raise ValueError(f'{file}: "padding_side" is {in_json(settings["padding_side"])}, expected left or right')
    added = settings.get("added_tokens_decoder", {})
    if not isinstance(added, dict):
        raise ValueError(f'{file}: "added_tokens_decoder" is {in_json(added)}, expected an object')
    for token_id, token in added.items():
        if not (token_id.isascii() and token_id.isdigit() and len(token_id) < 10):
            raise ValueError(f'{file}: "added_tokens_decoder" has the key "{shown(token_id)}", expected a token id')
        if not isinstance(token, dict) or not _is_token(token):
            raise ValueError(f"{file}: added token {token_id} is {in_json(token)}, expected an object with its content")
    for key, only in _FIXED.items():
        if settings.get(key, only) != only or type(settings.get(key, only)) is not type(only):
            raise ValueError(
                f'{file}: "{key}" is {in_json(settings[key])}, but this tokenizer always does as with '
                f"{in_json(only)}, which is InternLM2's; set it to that if the model was trained so"
            )


def _is_token(token: object) -> bool:
    return isinstance(content := token.get("content") if isinstance(token, dict) else token, str) and content != ""
