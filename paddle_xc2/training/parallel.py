"""What processes that train together tell each other; alone, a process tells itself."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.distributed as dist


def sum_over_processes(values: list[float]) -> np.ndarray:
    """float64 [len(values)], each summed over all processes."""
    values = np.asarray(values, "float64")
    if dist.get_world_size() == 1:
        return values
    tensor = paddle.to_tensor(values)
    dist.all_reduce(tensor)
    return tensor.numpy()


def gather_from_processes(items: list) -> list:
    """The items of all processes, those of the first process first."""
    if dist.get_world_size() == 1:
        return items
    gathered: list[list] = []
    dist.all_gather_object(gathered, items)
    return [item for of_process in gathered for item in of_process]


def wait_for_processes() -> None:
    """Returns when every process has come here."""
    if dist.get_world_size() > 1:
        dist.barrier()
