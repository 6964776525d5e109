"""An adapter's directory as a model: which base it belongs to, and how the two are asked together.

What is not in PEFT's files stands in a file of our own beside them: the base's name, its path from the adapter, its
fingerprint (checkpoint/base_fingerprint.py), and the settings that the model was trained with.
"""

from __future__ import annotations

from pathlib import Path

from paddle_xc2.families.asked_as import SETTINGS
from paddle_xc2.families.setting_values import wrong_values
from paddle_xc2.files.json_file import read_json
from paddle_xc2.hub.config_json import ADAPTER_CONFIG_FILE, ADAPTER_FACTS_FILE, PADDLENLP_ADAPTER_CONFIG_FILE
from paddle_xc2.hub.find import resolve_model_path
from paddle_xc2.messages import short_repr

_WHOLE_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", "model_state*.pdparams")
FACTS_VERSION = 1
_TEXTS = ("name", "relative_path", "quantization")


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter, and not a whole checkpoint."""
    configs = (ADAPTER_CONFIG_FILE, PADDLENLP_ADAPTER_CONFIG_FILE)
    return any((directory / name).is_file() for name in configs) and not any(
        found for kind in _WHOLE_WEIGHTS for found in directory.glob(kind)
    )


def adapter_facts(directory: Path) -> dict:
    """The content of the file of facts; {} for an adapter that another program wrote.

    Raises: ValueError if it is damaged or of a later format.
    """
    path = directory / ADAPTER_FACTS_FILE
    if not path.is_file():
        return {}
    facts = read_json(path)
    if facts.get("format_version") != FACTS_VERSION:
        found = short_repr(facts.get("format_version"))
        raise ValueError(f"{path}: format_version is {found}, expected {FACTS_VERSION}; install a newer paddle_xc2")
    base, settings = facts.get("base"), facts.get("settings")
    if not isinstance(base, dict) or not isinstance(settings, dict):
        raise ValueError(f"{path}: is damaged, it has no base or no settings; copy the adapter again")
    wrong = wrong_values({name: value for name, value in settings.items() if value is not None})
    for name in _TEXTS:
        if not isinstance(base.get(name), (str, type(None))):
            wrong.append(f"{name} is {short_repr(base[name])}, but must be text")
    if not _is_fingerprint(base.get("fingerprint")):
        wrong.append("fingerprint is no fingerprint of a base")
    if wrong:
        raise ValueError(f"{path}: is damaged: {'; '.join(wrong)}; copy the adapter again")
    return facts


def _is_fingerprint(value: object) -> bool:
    """Whether it is what checkpoint/base_fingerprint.py makes, or nothing."""
    match value:
        case None:
            return True
        case {"shapes": str(), "values": dict(values)}:
            return all(isinstance(digest, str) for digest in values.values())
    return False


def adapter_settings(directory: Path) -> dict:
    """Those of SETTINGS that the adapter's training decided."""
    settings = adapter_facts(directory).get("settings", {})
    return {name: settings[name] for name in SETTINGS if settings.get(name) is not None}


def take_settings(config, settings: dict) -> None:
    """Gives a model's configuration what `adapter_settings` found, but the image size, which changes a weight too."""
    for name, value in settings.items():
        if name != "img_size":
            setattr(config, name, value)


def was_quantized(directory: Path) -> bool:
    """Whether the adapter says that its base was quantized while it was trained."""
    return bool(adapter_facts(directory).get("base", {}).get("quantization"))


def base_name(directory: Path) -> str:
    """What the adapter says it was trained on: a released name or a path; "" if it doesn't say."""
    named = adapter_facts(directory).get("base", {}).get("name")
    for name in (ADAPTER_CONFIG_FILE, PADDLENLP_ADAPTER_CONFIG_FILE):
        if not named and (directory / name).is_file():
            named = read_json(directory / name).get("base_model_name_or_path")
    return named if isinstance(named, str) else ""


def find_base(directory: Path, base: str | Path | None = None) -> Path:
    """Directory of the model that an adapter was trained on.

    Looked for in this order: `base`; the path from the adapter that it remembers; the name that it remembers, as a
    directory or as a released model.

    Raises: FileNotFoundError saying where it was looked for, and how to give it.
    """
    if base is not None:
        return _not_an_adapter(resolve_model_path(base), directory)
    name, relative = base_name(directory), adapter_facts(directory).get("base", {}).get("relative_path")
    paths = [directory / relative] if isinstance(relative, str) else []
    paths += [Path(name).expanduser(), directory / name] if name else []
    for path in paths:
        if path.is_dir() and path.resolve() != directory.resolve():
            return _not_an_adapter(path.resolve(), directory)
    told = "it doesn't name its base"
    if name:
        try:
            return _not_an_adapter(resolve_model_path(name), directory)
        except FileNotFoundError as error:
            where = ", ".join(str(path) for path in paths)
            told = f"its base is not to be found (looked for at {where}; {error})"
    raise FileNotFoundError(f"{directory}: is an adapter, and {told}; give the base with --base (base=...)")


def _not_an_adapter(base: Path, directory: Path) -> Path:
    if is_adapter(base):
        raise ValueError(f"{directory}: its base {base} is an adapter too; merge that first: paddle-xc2 merge")
    return base
