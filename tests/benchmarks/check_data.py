#!/usr/bin/env python3
"""How long check-data takes for 100,000 records, and how much memory. By hand:

    python tests/benchmarks/check_data.py
    python tests/benchmarks/check_data.py --records 2000 --num_workers 0

The set is made in a temporary folder and deleted: conversations of one to three turns with answers of log-normal length
(median 74 words), four of five with a JPEG of 640 x 480 pixels and about 100 kB of its own. These are hard links to 200
files, so that the disk holds 20 MB; each is read and decoded anew. Near one in a thousand, an image is missing.

Prints one JSON line: records and seconds, wall and computing time of all processes, and the largest memory of one.
"""

import argparse
import json
import math
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# In place of this folder: works without an installation.
sys.path[0] = str(ROOT)

NUM_FILES = 200


def write_set(folder: Path, num_records: int, seed: int = 1) -> Path:
    """Writes the set into `folder`. Returns: its JSON lines."""
    import numpy as np
    from PIL import Image

    chance, noise = random.Random(seed), np.random.default_rng(seed)
    files = []
    for index in range(min(NUM_FILES, num_records)):
        # Smooth shapes with a little noise: as large, and as slow to decode, as a photograph.
        coarse = noise.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)).astype(np.int16)
        picture = np.clip(picture + noise.normal(0, 7, picture.shape), 0, 255).astype(np.uint8)
        files.append(folder / f"file{index}.jpg")
        Image.fromarray(picture).save(files[-1], quality=88)
    words = [
        "".join(chance.choices("etaoinshrdlucmfwypvbgk", k=max(1, round(chance.gauss(5, 2))))) for _ in range(5000)
    ]
    path = folder / "train.jsonl"
    with open(path, "w", encoding="utf-8") as out:
        for index in range(num_records):
            turns = []
            for _ in range(chance.choice((1, 1, 2, 3))):
                length = int(min(900, max(5, math.exp(chance.gauss(4.3, 0.8)))))
                turns.append({"from": "human", "value": " ".join(chance.choices(words, k=max(3, length // 6)))})
                turns.append({"from": "gpt", "value": " ".join(chance.choices(words, k=length))})
            record = {"id": str(index), "conversations": turns}
            if index % 5:
                turns[0]["value"] = "<image>\n" + turns[0]["value"]
                record["image"] = f"{index}.jpg"
                if index % 1000 != 7:
                    os.link(files[index % len(files)], folder / record["image"])
            out.write(json.dumps(record) + "\n")
    return path


def main() -> None:
    from paddle_xc2.data.checking.check import check_data, open_sources
    from paddle_xc2.data.processor import XComposer2Processor
    from paddle_xc2.runtime import usable_cpus

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--num_workers", type=int, default=usable_cpus())
    args = parser.parse_args()
    processor = XComposer2Processor.from_pretrained(ROOT / "tests" / "golden" / "xc2_7b" / "ckpt")
    with tempfile.TemporaryDirectory() as folder:
        path = write_set(Path(folder), args.records)
        before = time.process_time()
        start = time.perf_counter()
        sources, _ = open_sources([(path, None)])
        report = check_data(sources, processor, num_workers=args.num_workers)
        seconds = time.perf_counter() - start
        used = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
        computing = sum(now.ru_utime + now.ru_stime for now in used) - before
        print(
            json.dumps(
                {
                    "records": len(report.usable),
                    "usable": int(report.usable.sum()),
                    "images": len(report.images),
                    "megabytes": round(path.stat().st_size / 1e6, 1),
                    "num_workers": args.num_workers,
                    "seconds": round(seconds, 1),
                    "computing_seconds": round(computing, 1),
                    "peak_rss_mb": round(max(now.ru_maxrss for now in used) / 1024, 1),
                }
            )
        )


if __name__ == "__main__":
    main()
