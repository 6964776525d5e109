#!/usr/bin/env python3
"""Writes a checkpoint of a released model's size with random weights, in upstream's layout.

    python tests/benchmarks/synthetic_checkpoint.py /tmp/synthetic_7b --size 7b

Names, shapes, dtype (bfloat16), shards, index and config.json are upstream's; the values are small random numbers, each
tensor's from a seed of its own, and never in memory as a whole. 7b takes 17.4 GB of disk, qwen_vl 19.3 GB, 1_8b
4.9 GB, small 0.16 GB.
"""

import argparse
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    # The checkout's root in place of this folder: works without an installation.
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from paddle_xc2.checkpoint.lazy_tensor import LazyTensor, row_blocks
from paddle_xc2.checkpoint.shard_writer import write_shards

# Settings of the XComposer2-VL models, of one for tests, and of Qwen-VL.
SIZES = {
    "7b": {},
    "qwen_vl": {"xc2_family": "qwen-vl"},
    "1_8b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
    "small": {
        "vocab_size": 46272,
        "hidden_size": 512,
        "intermediate_size": 1792,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vision_config": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4},
    },
}


@dataclass(frozen=True)
class RandomTensor(LazyTensor):
    """A bfloat16 tensor of random values."""

    def blocks(self, dtype, name, buffer, fingerprint):
        random = np.random.Generator(np.random.SFC64(zlib.crc32(name.encode())))
        for rows in row_blocks(self.shape, dtype):
            block = buffer.array((rows.stop - rows.start, *self.shape[1:]), dtype)
            bits = random.integers(0, 2**64, -(-block.size // 4), np.uint64).view(np.uint16)[: block.size]
            # Any sign and mantissa, and exponents that give 0.0005 to 0.008 in size.
            np.bitwise_and(bits, 0x81FF, out=bits)
            np.bitwise_or(bits.reshape(block.shape), 0x3A00, out=block)
            yield block


def write_synthetic(directory: Path, size: str, max_shard_size: str = "5GB", num_layers: int | None = None) -> int:
    """Writes a checkpoint into `directory`, a new one.

    Args:
        num_layers: of the language model and of the vision encoder, in place of the size's own.
    Returns: bytes of its tensors.
    """
    from paddle_xc2.checkpoint.config_files import write_config
    from paddle_xc2.checkpoint.names import names_of
    from paddle_xc2.checkpoint.shapes import parameter_shapes
    from paddle_xc2.families.table import family_named
    from paddle_xc2.families.upstream_settings import settings_class

    settings = {"xc2_family": "xcomposer2-vl-7b", **SIZES[size]}
    config = settings_class(family_named(settings["xc2_family"]))(**settings)
    if num_layers is not None:
        config.num_hidden_layers = num_layers
        if size == "qwen_vl":
            config.visual["layers"] = num_layers
        else:
            config.vision_config["num_hidden_layers"] = num_layers
    tensors = {}
    for name, shape in parameter_shapes(config).items():
        upstream_name, transpose = names_of(config.family).to_hf(name)
        tensors[upstream_name] = RandomTensor("bfloat16", tuple(shape[::-1] if transpose else shape), None)
    directory.mkdir(parents=True)
    write_shards(directory, tensors, "pt", max_shard_size=max_shard_size)
    write_config(directory, config, "hf", "bfloat16")
    return sum(tensor.num_bytes for tensor in tensors.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="a new directory")
    parser.add_argument("--size", choices=SIZES, default="7b", help="%(default)s")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has, for a quick trial")
    parser.add_argument("--max-shard-size", default="5GB", help="%(default)s")
    args = parser.parse_args()
    started = time.perf_counter()
    num_bytes = write_synthetic(args.directory, args.size, args.max_shard_size, args.layers)
    seconds = time.perf_counter() - started
    print(f"{args.directory}: {num_bytes / 1e9:.2f} GB in {seconds:.1f} s")


if __name__ == "__main__":
    main()
