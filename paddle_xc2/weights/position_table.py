"""The position table of the vision encoder, for images of another size than the checkpoint's."""

from __future__ import annotations

import paddle

from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.families.asked_as import check_image_size
from paddle_xc2.families.settings import BaseSettings
from paddle_xc2.models.clip_vit import resize_position_table


def change_image_size(config: BaseSettings, img_size: int) -> None:
    """Raises: ValueError if the model can't have it."""
    check_image_size(config, img_size)
    config.img_size = img_size


def resized_table(table: LazyTensor, patches_per_side: int, name: str) -> LazyTensor:
    """A position table for images of another size, float32."""
    resized = resize_position_table(paddle.to_tensor(table.load("float32", name)), patches_per_side).numpy()
    return LazyTensor("float32", resized.shape, lambda: resized)
