"""The commands that torture.py kills at every file operation, starts twice at once, and takes the reader from.

Each writes into `place/out`, beside or into what lies there before: `Job.prepare` makes that anew, with files that are
not ours, which have to be as they were whatever happens.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.kills import in_child

SHARD_SIZE = "55KB"  # of the tiny model in float32: 36 shards and more
MEASURED = ("tokens_per_second", "peak_memory_gb", "eval_seconds")  # never the same twice
# Files of a run with times in them.
TIMED = ("run.json", "metrics.jsonl", "trainer_state.json", "loss.png", "checkpoint.json", "paddle_xc2_manifest.json")
THEIRS = {
    **{"notes.txt": "mine", "README.md": "mine", "projector/mine": "mine", ".writing-mine/a": "mine"},
    **{"checkpoint-777/weights": "mine", "predictions-99.jsonl": "mine", "mine.unfinished": "mine"},
}


@dataclass
class Job:
    """A command.

    Attributes:
        name: of the part.
        folder: of this job's own.
        words: of the command, which writes `out`.
        before: a folder that is copied to `out` before each start; None is nothing.
        theirs: files in `out` that are not ours, and their contents.
        single: `out` is one file (with its list of changes), in a folder of others' files.
    """

    name: str
    folder: Path
    words: list[str]
    before: Path | None = None
    theirs: dict[str, str] = field(default_factory=dict)
    single: bool = False

    @property
    def place(self) -> Path:
        """All that may be written lies below it."""
        return self.folder / "place"

    @property
    def out(self) -> Path:
        return self.place if self.single else self.place / "out"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def prepare(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        if self.before is not None:
            shutil.copytree(self.before, self.out, dirs_exist_ok=True)
        for name, content in self.theirs.items():
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
            (self.out / name).write_text(content)
        self.log.unlink(missing_ok=True)

    def run(self) -> int:
        """The command, in this process, its output in `log`. Returns: the exit status."""
        from paddle_xc2.cli import main

        with open(self.log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False, buffering=1) for number in (1, 2))
        return main(list(self.words))

    def told(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def outcome(self) -> dict[str, str]:
        """{every file and folder in `place`: SHA-256 of what has to be the same}; times don't count."""
        return {path.relative_to(self.place).as_posix(): _digest(path) for path in sorted(self.place.rglob("*"))}


def differences(expected: dict[str, str], got: dict[str, str]) -> list[str]:
    """What is another than expected, as text."""
    found = [f"missing: {name}" for name in expected if name not in got]
    found += [f"left over: {name}" for name in got if name not in expected]
    return found + [f"another: {name}" for name in expected if name in got and got[name] != expected[name]]


def _digest(path: Path) -> str:
    if path.is_dir():
        return "folder"
    content = path.read_bytes()
    if path.name == "metrics.jsonl":
        entries = [json.loads(line) for line in content.splitlines()]
        content = repr([[item for item in entry.items() if item[0] not in MEASURED] for entry in entries]).encode()
    elif path.name in TIMED:
        content = b""
    return hashlib.sha256(content).hexdigest()


def make_models(folder: Path) -> None:
    """model, adapter, xtuner (a LLaVA) and data for all jobs; computes, so it belongs into a process of its own."""
    import numpy as np
    from PIL import Image

    from paddle_xc2 import XComposer2ForCausalLM
    from paddle_xc2.models.lora import LoRALinear, layer_at, replace_layer
    from tests.tiny import TINY_VOCAB_SIZE, tiny_checkpoint, tiny_model, tiny_tokenizer

    tiny_checkpoint(folder / "model", num_unused=2)
    (folder / "model" / "LICENSE").write_text("a file that comes along")
    model = XComposer2ForCausalLM.from_pretrained(folder / "model")
    for path in ("model.layers.0.attention.wqkv.linear", "output"):
        replace_layer(model, path, LoRALinear(layer_at(model, path), 4, 2.0))
    model.save_pretrained(folder / "adapter")
    tiny_model(xc2_family="llava-internlm2", vocab_size=TINY_VOCAB_SIZE).save_pretrained(folder / "xtuner", to="hf")
    tiny_tokenizer(folder / "xtuner")
    draw = np.random.default_rng(0)
    for name, indexes in (("train", range(11)), ("eval", range(100, 102))):
        records = []
        for index in indexes:
            Image.fromarray(draw.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
            turns = [("user", f"Which digit is {index}?"), ("assistant", f"The digit {index * 7 % 10}.")]
            messages = [{"from": who, "value": text} for who, text in turns]
            records.append({"id": index, "image": [str(folder / f"{index}.png")], "conversations": messages})
        (folder / f"{name}.json").write_text(json.dumps(records))


def make_jobs(folder: Path, wanted: set[str]) -> dict[str, Job]:
    """{part: job}, of what `make_models` wrote in `folder`; what they begin with is made for those that are wanted."""

    def job(name: str, words: list, **settings) -> Job:
        (folder / name).mkdir()
        place = folder / name / "place"
        replaced = {"OUT": str(place / "out"), "PLACE": str(place)}
        words = [str(word).replace("OUT", replaced["OUT"]).replace("PLACE", replaced["PLACE"]) for word in words]
        return Job(name, folder / name, words, **settings)

    def finetune(name: str, steps: int = 4, workers: int = 0, **values) -> list:
        config = {
            "model_name_or_path": str(folder / "model"),
            "dataset": {part: [{"data_files": str(folder / f"{part}.json")}] for part in ("train", "eval")},
            "output_dir": str(folder / name / "place" / "out"),
            **{"per_device_train_batch_size": 2, "max_steps": steps, "learning_rate": 1e-3, "logging_steps": 2},
            **{"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "lr_scheduler_type": "constant"},
            **{"evaluation_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True},
            **{"eval_with_do_generation": True, "max_new_tokens": 3, "save_generation_output": True},
            **{"dataloader_num_workers": workers, "disable_tqdm": True, **values},
        }
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config))
        return ["finetune", path]

    quiet, theirs = "--disable_tqdm", dict(THEIRS)
    del theirs["README.md"]
    convert = ["convert", folder / "model", "OUT", "--max-shard-size", SHARD_SIZE, quiet]
    merge = ["merge", "--lora_path", folder / "adapter", "--base", folder / "model", "--output_path", "OUT"]
    merge += ["--no_compare", quiet]
    data = ["convert-data", folder / "train.json", "PLACE/data.jsonl", "--to", "llava", quiet]
    check = ["check-data", folder / "train.json", "--image_folder", folder, "--num_workers", "0", quiet]
    files = {"single": True, "theirs": {"notes.txt": "mine", ".writing-data.jsonl": "mine", "data.json": "mine"}}
    jobs = [
        job("convert", convert),
        job("overwrite", [*convert, "--overwrite"], before=folder / "converted", theirs=THEIRS),
        job("llava", ["convert", folder / "xtuner", "OUT", "--to", "hf", "--overwrite", quiet],
            before=folder / "llava written", theirs={"projector/mine": "mine", "notes.txt": "mine"}),
        job("merge", [*merge, "--overwrite", "--max-shard-size", "200KB"], before=folder / "converted", theirs=THEIRS),
        job("convert-data", data, **files),
        job("check-data", [*check, "--fix", "PLACE/mended.jsonl"], **files),
        job("report", [*check, "--report", "PLACE/report.html"], **files),
        job("finetune", finetune("finetune")),
        job("again", finetune("again", overwrite_output_dir=True), before=folder / "earlier", theirs=theirs),
        job("resumed", finetune("resumed", steps=6), before=folder / "begun", theirs=theirs),
        job("workers", finetune("workers", workers=2)),
    ]  # fmt: skip
    earlier = [
        (job("converting", [*convert, "--dtype", "bfloat16"]), "converted"),
        (job("converting llava", ["convert", folder / "xtuner", "OUT", "--to", "hf", quiet]), "llava written"),
        (job("first", finetune("first", steps=3, seed=7, load_best_model_at_end=False, eval_steps=3)), "earlier"),
        (job("begin", finetune("begin", steps=6)), "begun"),
    ]
    needed = {one.before for one in jobs if one.name in wanted}
    for one, name in earlier:
        if folder / name not in needed:
            continue
        one.prepare()
        if in_child(one.run if name != "begun" else lambda one=one: _stopped_after(one, 3)):
            raise RuntimeError(f"{one.name}: {one.told()[-2000:]}")
        shutil.copytree(one.out, folder / name)
    return {one.name: one for one in jobs}


def _stopped_after(job: Job, step: int) -> int:
    """A run that is asked to stop once a step is done."""
    import signal

    from paddle_xc2.training.trainer import StepTrainer

    train = StepTrainer.training_step

    def ask(trainer, model, inputs):
        if trainer.state.global_step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return train(trainer, model, inputs)

    StepTrainer.training_step = ask
    return job.run()
