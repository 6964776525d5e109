"""What an adapter remembers of its training: which base it belongs to, and how the two are asked together.

PEFT's and PaddleNLP's files have no place for it; it stands in a file of our own beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from paddle_xc2.families.asked_as import SETTINGS
from paddle_xc2.families.setting_values import wrong_values
from paddle_xc2.messages import short_repr

FORMAT_VERSION = 1
_TEXTS = ("name", "relative_path", "quantization")


@dataclass(frozen=True)
class AdapterOrigin:
    """Attributes:
    base_name: the released name or the path of the base; "" if it is not known.
    relative_path: of the base, from the adapter's directory; None if it is not known.
    quantization: how the base was quantized while the adapter was trained ("nf4"), or None; `merge --dequantize` merges
        into the values that quantizing made of it.
    fingerprint: of the base (checkpoint/base_fingerprint.py), or None.
    settings: those of AskedAs that the training decided, by name.
    """

    base_name: str = ""
    relative_path: str | None = None
    quantization: str | None = None
    fingerprint: dict | None = None
    settings: dict = field(default_factory=dict)

    def as_json(self) -> dict:
        """The content of the file."""
        base: dict = {"name": self.base_name}
        if self.relative_path is not None:
            base["relative_path"] = self.relative_path
        if self.fingerprint is not None:
            base["fingerprint"] = self.fingerprint
        base["quantization"] = self.quantization
        return {"format_version": FORMAT_VERSION, "base": base, "settings": self.settings}

    @classmethod
    def from_json(cls, content: dict, source: str) -> AdapterOrigin:
        """Args:
            content: of the file.
            source: the file, for messages.
        Raises: ValueError if it is damaged or of a later format.
        """
        if content.get("format_version") != FORMAT_VERSION:
            found = short_repr(content.get("format_version"))
            raise ValueError(
                f"{source}: format_version is {found}, expected {FORMAT_VERSION}; install a newer paddle_xc2"
            )
        base, settings = content.get("base"), content.get("settings")
        if not isinstance(base, dict) or not isinstance(settings, dict):
            raise ValueError(f"{source}: is damaged, it has no base or no settings; copy the adapter again")
        settings = {name: value for name, value in settings.items() if value is not None}
        wrong = wrong_values(settings)
        for name in _TEXTS:
            if not isinstance(base.get(name), (str, type(None))):
                wrong.append(f"{name} is {short_repr(base[name])}, but must be text")
        if not _is_fingerprint(base.get("fingerprint")):
            wrong.append("fingerprint is no fingerprint of a base")
        if wrong:
            raise ValueError(f"{source}: is damaged: {'; '.join(wrong)}; copy the adapter again")
        return cls(
            base.get("name") or "",
            base.get("relative_path"),
            base.get("quantization") or None,
            base.get("fingerprint"),
            {name: settings[name] for name in SETTINGS if name in settings},
        )


def _is_fingerprint(value: object) -> bool:
    """Whether it is what checkpoint/base_fingerprint.py makes, or nothing."""
    match value:
        case None:
            return True
        case {"shapes": str(), "values": dict(values)}:
            return all(isinstance(digest, str) for digest in values.values())
    return False
