"""How a model is asked: the settings that training decides, and that whoever asks the model later has to follow."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from paddle_xc2.families.table import Family
from paddle_xc2.messages import short_repr, shown

AS_TRAINED = "as_trained"
CHAT_LAYOUTS = ("official", AS_TRAINED)


@dataclass(frozen=True)
class AskedAs:
    """Attributes:
    chat_layout: "official" asks as upstream's chat code does, "as_trained" as upstream's training code writes samples:
        for models fine-tuned with it.
    max_length: tokens of a training sample, image slots included.
    hd_num: tiles that an image may take; None is upstream's number, which differs between chat and training. Videos
        take as many as they need, 34 at most.
    img_size: pixels, side of the square image, or of a tile.
    pad_image_to_square: of LLaVA: whether an image is padded to a square, or its middle is taken as CLIP does it; None
        is the family's way.
    exif, background: how pictures are read that are not plain RGB (`data/images/picture_reading.py`); None is
        upstream's way.
    """

    chat_layout: str
    max_length: int
    hd_num: int | None
    img_size: int
    pad_image_to_square: bool | None
    exif: bool | None = None
    background: str | None = None

    @classmethod
    def of_family(
        cls,
        family: Family,
        chat_layout: str | None = None,
        max_length: int | None = None,
        hd_num: int | None = None,
        img_size: int | None = None,
        pad_image_to_square: bool | None = None,
        exif: bool | None = None,
        background: str | None = None,
    ) -> AskedAs:
        """What is not None, else the family's way.

        Raises: ValueError for a value that there is not, or that the family doesn't have.
        """
        hd_num = None if hd_num == -1 else hd_num  # upstream's scripts write it for families without tiles
        if hd_num is not None and family.tiling is None:
            raise ValueError(
                f"hd_num is {short_repr(hd_num)}, but {family.name} takes no tiles; leave it out or set -1"
            )
        if pad_image_to_square is not None and not family.pad_to_square:
            raise ValueError(
                f"pad_image_to_square is {short_repr(pad_image_to_square)}, but {family.name} neither pads nor crops "
                "images; leave it out"
            )
        for name, choice in (("pad_image_to_square", pad_image_to_square), ("exif", exif)):
            if not isinstance(choice, bool | None):
                raise ValueError(f"{name} is {short_repr(choice)}, but must be true, false or left out")
        if chat_layout not in (None, *CHAT_LAYOUTS):
            raise ValueError(f'chat_layout "{shown(chat_layout)}" is not one of {", ".join(CHAT_LAYOUTS)}')
        for name, value in (("max_length", max_length), ("img_size", img_size), ("hd_num", hd_num)):
            least = "but an image takes at least 1 tile" if name == "hd_num" else "but must be at least 1, or left out"
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise ValueError(f"{name} is {short_repr(value)}, but must be a whole number, or left out")
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, {least}")
        return cls(
            CHAT_LAYOUTS[0] if chat_layout is None else chat_layout,
            family.max_length if max_length is None else max_length,
            hd_num,
            family.image_size if img_size is None else img_size,
            pad_image_to_square,
            exif,
            background,
        )

    @classmethod
    def of_model(cls, config, **given) -> AskedAs:
        """What is given and not None, else what the model was fine-tuned with here, else the family's way.

        Args:
            config: ModelSettings.
            given: attributes of AskedAs.
        Raises: ValueError for a value that there is not, or that the model doesn't have.
        """
        own = {name: getattr(config, name) for name in SETTINGS}
        if own["chat_layout"] != AS_TRAINED:
            own["max_length"] = None  # upstream's configs hold something, which upstream's training doesn't go by
        asked = cls.of_family(
            config.family, **own | {name: value for name, value in given.items() if value is not None}
        )
        check_image_size(config, asked.img_size)
        return asked

    def record(self, config) -> None:
        """Notes it in the configuration of a model, as `take_settings`."""
        take_settings(config, asdict(self))


SETTINGS = tuple(field.name for field in fields(AskedAs))


def take_settings(config, settings: dict) -> None:
    """Notes in the configuration of a model how it is asked: but for the image size, which changes a weight too.

    Args:
        config: ModelSettings.
        settings: attributes of AskedAs by name; those that are left out stay.
    """
    for name, value in settings.items():
        if name != "img_size":
            setattr(config, name, value)


def check_image_size(config, img_size: int) -> None:
    """Args:
        config: ModelSettings.
    Raises: ValueError if a model can't have images of this size.
    """
    if config.family.tiling and img_size != config.img_size:
        raise ValueError(
            f"img_size is {img_size}, but the tiles of {config.xc2_family} are always {config.img_size} pixels; "
            "leave img_size out, hd_num says how many tiles an image may take"
        )
    token = config.vision.patch_size * config.family.merge
    if img_size % token:
        raise ValueError(f"img_size {img_size} is no multiple of {token} pixels, the side of an image token")
