#!/usr/bin/env python3
"""Files that are damaged, odd or hostile: are they refused in a sentence, or do they compute what they say?

    python tests/benchmarks/fuzz.py [--kinds config adapter ...] [--number 2000] [--seed 0] [--one config:17]

Makes a tiny checkpoint, an adapter, training data and a run that was stopped after a step; then changes one file of
them again and again (values of other types and sizes, keys that are missing, misspelt, doubled or new, bits, cuts,
brackets without end) and does what users do with it, each time in a process forked from this one, which has imported
everything and computed nothing.

A change must end in a message and exit 2, or in a result. Found are: tracebacks, other exits, messages that are long
or steer a terminal, more than 20 seconds, more than 2 GB of memory beyond what this process has, and silence: another
result from a file in which no key that bears on it changed to another value of its kind. Prints each of these once,
and a JSON line of counts for each kind of file; exits with 1 if anything was found.
"""

import argparse
import contextlib
import copy
import hashlib
import io
import json
import math
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import ModuleType

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# The checkout's root in place of this folder: works without an installation.
sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

SECONDS, MEMORY, MESSAGE = 20, 2 * 2**30, 4000
# Of these, only the tensors beside them decide.
NEUTRAL = {"target_modules", "modules_to_save", "architectures", "auto_map"}
# Ours gives every text back as it was, whatever this says.
NEUTRAL |= {"clean_up_tokenization_spaces"}
DEEP = "[" * 100_000
STRANGE = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 64, 1.5, -0.5, 1e-300, 1e308, math.nan, math.inf, 2**31, 2**63, 10**30),
    *("", "x", "3", "1e5", "nan", "true", "../..", "/dev/zero", "http://a..b", "\x1b[2J", "\u202ex", "\ud800", "图"),
    *("a" * 100_000, [], {}, [1], ["a"], [[]], {"a": 1}, [None] * 1000, [[[[[[[[[[]]]]]]]]]]),
)


# --- Changes ---


def places(value, place=()):
    """Every (place, key) in a JSON value at which something stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from places(inner, (*place, key))


def at(value, place):
    for key in place:
        value = value[key]
    return value


def misspelt(name: str, random) -> str:
    where = random.randrange(len(name) + 1)
    return random.choice(
        [name[:where] + name[where + 1 :], name[:where] + "x" + name[where:], name.upper(), f"{name}s", f"_{name}"]
    )


def changed_value(value, random):
    if isinstance(value, (int, float)) and not isinstance(value, bool) and random.random() < 0.4:
        return random.choice([value * 2, value + 1, value * 10, -value, value / 3, value * 10**6, str(value), [value]])
    if isinstance(value, str) and random.random() < 0.3:
        return random.choice([value + "x", value[:-1], value.upper(), [value], {value: value}])
    return strange(random)


def strange(random):
    return copy.deepcopy(random.choice(STRANGE))  # a second change may change it


def changed_json(raw: bytes, random) -> bytes:
    """One or two changes of what the file says."""
    content = json.loads(raw)
    doubled = ""
    for _ in range(random.choice([1, 1, 1, 2])):
        everywhere = list(places(content))
        if not everywhere:
            break
        *above, key = random.choice(everywhere)
        holder = at(content, above)
        kind = random.choice(["value"] * 6 + ["missing", "misspelt", "new", "doubled", "swapped"])
        if kind == "value":
            holder[key] = changed_value(holder[key], random)
        elif kind == "missing":
            del holder[key]
        elif kind == "misspelt" and isinstance(holder, dict):
            holder[misspelt(key, random)] = holder.pop(key)
        elif kind == "new" and isinstance(holder, dict):
            holder[random.choice(["x", "rope", "use_x", f"{key}_2"])] = strange(random)
        elif kind == "doubled" and isinstance(key, str) and isinstance(content, dict) and not above:
            doubled = f"{json.dumps(key)}: {json.dumps(random.choice(STRANGE))}, "
        elif kind == "swapped":
            *other_above, other = random.choice(everywhere)
            with contextlib.suppress(KeyError, IndexError, TypeError):  # the first change may have removed it
                there = at(content, other_above)
                holder[key], there[other] = there[other], holder[key]
            try:
                json.dumps(content, check_circular=True)
            except ValueError:  # a value was put into itself
                return raw
    text = json.dumps(content, indent=random.choice([None, 2]))
    return (text[:1] + doubled + text[1:]).encode("utf-8", "surrogatepass")


def changed_bytes(raw: bytes, random) -> bytes:
    start = random.randrange(len(raw))
    end = min(len(raw), start + random.choice([1, 4, 40, 400]))
    kind = random.choice(["bit", "bit", "cut", "removed", "inserted", "twice", "deep", "empty", "other"])
    if kind == "bit":
        return raw[:start] + bytes([raw[start] ^ 1 << random.randrange(8)]) + raw[start + 1 :]
    if kind == "inserted":
        return raw[:start] + random.randbytes(end - start) + raw[start:]
    if kind == "deep":
        return raw[:start] + DEEP.encode() + raw[start:]
    if kind == "other":
        return random.choice([b"\xef\xbb\xbf" + raw, raw.decode().encode("utf-16"), b"[" + raw + b"]", b"null", b"{}"])
    return {"cut": raw[:start], "removed": raw[:start] + raw[end:], "twice": raw[:end] + raw[start:], "empty": b""}[
        kind
    ]


def changed(raw: bytes, random) -> bytes:
    return changed_json(raw, random) if random.random() < 0.75 else changed_bytes(raw, random)


# --- What a change says, as a reader of the file would see it ---


def leaves(value, place=()):
    """{place: value} of everything in a JSON value that holds nothing else."""
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in leaves(inner, (*place, key)).items()}
    if isinstance(value, list) and value:
        return {k: v for index, inner in enumerate(value) for k, v in leaves(inner, (*place, index)).items()}
    return {place: value}


def kind_of(value) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def said_otherwise(before: bytes, after: bytes) -> tuple[bool, str]:
    """Whether keys that were there have other values of their kind, or null, or are gone; and the changes as text."""
    was, now = leaves(json.loads(before)), leaves(json.loads(after.decode().removeprefix("\ufeff")))
    changes = {
        place: (was.get(place, "-"), now.get(place, "-")) for place in {**was, **now} if not same(was, now, place)
    }
    known = [place for place in changes if place in was and place[0] not in NEUTRAL]
    told = ", ".join(
        f"{'.'.join(map(str, place))}: {old!r:.40} -> {new!r:.40}" for place, (old, new) in changes.items()
    )
    sound = known and all(
        place not in now or now[place] is None or kind_of(now[place]) == kind_of(was[place]) for place in known
    )
    return bool(sound), told[:300]


def same(was, now, place) -> bool:
    return place in was and place in now and repr(was[place]) == repr(now[place])


# --- What is done with the files ---


def digest(*parts) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()


def logits_of(directory: Path) -> str:
    """A digest of the logits of a question about a picture."""
    from PIL import Image

    from paddle_xc2.data.processor import XComposer2Processor
    from paddle_xc2.model import XComposer2ForCausalLM

    processor = XComposer2Processor.from_pretrained(directory)
    model = XComposer2ForCausalLM.from_pretrained(directory)
    model.eval()
    picture = Image.linear_gradient("L").resize((30, 40)).convert("RGB")
    batch = processor.collate([processor.encode_chat("Which digit?", images=[picture])])
    batch.pop("labels", None)
    return digest(batch["input_ids"].tolist(), model(**batch).logits.numpy().tobytes())


def tokens_of(directory: Path) -> str:
    from paddle_xc2.text.tokenizer import XComposer2Tokenizer

    tokenizer = XComposer2Tokenizer.from_pretrained(directory)
    text = "<s> Which digit is 3?\n图 </s>"
    ids = tokenizer.encode(text)
    return digest(ids, tokenizer.decode(list(range(0, 60, 3))), logits_of(directory))


def plan_of(path: Path) -> str:
    from dataclasses import asdict

    from paddle_xc2.training.arguments import load_arguments
    from paddle_xc2.training.finetune import finetune

    finetune(path, plan_only=True)
    return digest(sorted(asdict(load_arguments(path)).items(), key=str))


def samples_of(directory: Path) -> str:
    from paddle_xc2.data.mixture import DatasetSpec, load_datasets
    from paddle_xc2.data.processor import XComposer2Processor
    from paddle_xc2.data.samples import fit_samples

    processor = XComposer2Processor.from_pretrained(directory)
    samples = fit_samples(load_datasets([DatasetSpec("a", (directory / "train.json",))]), processor, silent=True)
    return digest(*(processor.lay_out(one)[1].input_ids.tolist() for one in samples.conversations))


def trained_on(path: Path) -> str:
    from paddle_xc2.training.finetune import finetune

    status = finetune(path)
    if status:
        raise SystemExit(status)
    out = Path(json.loads(path.read_text())["output_dir"])
    return digest(*(shard.read_bytes() for shard in sorted(out.glob("model*.safetensors"))))


# --- The files ---

ARGUMENTS = {
    **{"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "seed": 3, "disable_tqdm": True},
    **{"save_strategy": "steps", "save_steps": 1, "logging_steps": 1, "lora": False, "warmup_ratio": 0.0},
    **{"lr_scheduler_type": "constant", "bf16": False, "freeze_include": ["vit.*"], "max_length": 256},
}


def make_model(directory: Path) -> None:
    from tests.tiny import tiny_checkpoint

    tiny_checkpoint(directory)
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {
                **{"auto_map": {"AutoTokenizer": ["tokenization_internlm_xcomposer2.X", None]}, "bos_token": "<s>"},
                **{
                    "clean_up_tokenization_spaces": False,
                    "eos_token": "</s>",
                    "pad_token": "</s>",
                    "unk_token": "<unk>",
                },
                **{"tokenizer_class": "InternLMXComposer2Tokenizer", "add_bos_token": True, "add_eos_token": False},
            }
        )
    )


def make_adapter(directory: Path, base: Path) -> None:
    import paddle

    from paddle_xc2.checkpoint.manifest import MANIFEST_FILE
    from paddle_xc2.model import XComposer2ForCausalLM
    from paddle_xc2.training.arguments import FinetuneArguments
    from paddle_xc2.training.learning.add_lora import add_lora

    model = XComposer2ForCausalLM.from_pretrained(base)
    add_lora(model, FinetuneArguments(lora=True, lora_rank=4, lora_alpha=8))
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            parameter.set_value(paddle.randn(parameter.shape) * 0.1)
    model.save_pretrained(directory)
    (directory / MANIFEST_FILE).unlink()  # with its hashes, every change would be refused before it is looked at


def make_data(directory: Path) -> None:
    from PIL import Image

    records = []
    for index in range(4):
        Image.new("RGB", (30, 20), (index * 60, 9, 9)).save(directory / f"{index}.png")
        turns = [
            {"from": "user", "value": f"<ImageHere>Which digit is {index}?"},
            {"from": "assistant", "value": f"It is {index}."},
            {"from": "user", "value": "Sure?"},
            {"from": "assistant", "value": "Yes."},
        ]
        records.append({"id": str(index), "image": [f"{index}.png"], "conversations": turns})
    (directory / "train.json").write_text(json.dumps(records))


def make_run(work: Path) -> None:
    """A run of two steps that was stopped after the first."""
    from paddle_xc2.training.finetune import finetune
    from paddle_xc2.training.trainer import StepTrainer

    write_arguments(work / "sft.json", work)
    step = StepTrainer.training_step

    def stopped(trainer, model, inputs):
        if trainer.state.global_step == 0:
            trainer.stop.by = "the fuzzer"
        return step(trainer, model, inputs)

    StepTrainer.training_step = stopped
    finetune(work / "sft.json")


def write_arguments(path: Path, work: Path) -> None:
    values = {"model_name_or_path": str(work / "model"), "output_dir": str(path.parent / "out")}
    dataset = {"train": [{"name": "a", "data_files": str(work / "model" / "train.json"), "num_samples": 4}]}
    path.write_text(json.dumps({**values, "dataset": dataset, **ARGUMENTS}, indent=2))


# Kind -> (folder of the whole, file that is changed, what is done with the folder).
KINDS = {
    "config": ("model", "config.json", logits_of),
    "index": ("model", "model.safetensors.index.json", logits_of),
    "tokenizer": ("model", "tokenizer_config.json", tokens_of),
    "adapter": ("adapter", "adapter_config.json", logits_of),
    "facts": ("adapter", "paddle_xc2_adapter.json", logits_of),
    "records": ("model", "train.json", samples_of),
    "arguments": ("arguments", "sft.json", lambda folder: plan_of(folder / "sft.json")),
    "state": ("run", "trainer_state.json", lambda folder: trained_on(folder / "sft.json")),
}
STATE_FILES = (
    "out/checkpoint-1/trainer_state.json",
    "out/run.json",
    "out/metrics.jsonl",
    "out/checkpoint-1/optimizer.json",
)


def prepare(work: Path) -> None:
    make_model(work / "model")
    make_data(work / "model")
    make_adapter(work / "adapter", work / "model")
    (work / "arguments").mkdir()
    write_arguments(work / "arguments" / "sft.json", work)
    make_run(work)


def lay_out(kind: str, work: Path, folder: Path) -> Path:
    """A copy of what the kind needs, of links to the files that stay. Returns: the file to change."""
    whole, name, _ = KINDS[kind]
    if kind == "state":
        folder.mkdir()
        write_arguments(folder / "sft.json", work)
        shutil.copytree(work / "out", folder / "out", copy_function=os.link)
        return folder
    shutil.copytree(work / whole, folder, copy_function=os.link)
    return folder / name


# --- One change ---


def as_a_command(action, folder: Path) -> dict:
    """Does it as a command would. Returns: exit status, message, result, traceback."""
    from paddle_xc2 import cli

    found = {"result": None, "traceback": None}
    module = ModuleType("paddle_xc2.commands.try")
    module.HELP, module.EXAMPLE, module.add_arguments = "try", "paddle-xc2 try", lambda parser: None

    def run(args):
        found["result"] = action(folder)
        return 0

    module.run = run
    sys.modules[module.__name__], cli.COMMANDS = module, ("try",)
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    errors = sys.stderr
    try:
        found["status"] = cli.main(["try"])
    except SystemExit as end:
        found["status"] = end.code
    except BaseException:
        found["status"], found["traceback"] = 1, traceback.format_exc()
    return {**found, "message": errors.getvalue()}


def in_a_child(action, folder: Path) -> dict:
    """Forks, does it within the limits, and waits. Returns: as `as_a_command`, and seconds and memory."""
    reader, writer = os.pipe()
    began, had = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            signal.alarm(SECONDS)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            found = as_a_command(action, folder)
            with open(writer, "wb") as out:
                pickle.dump(found, out)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        raw = pipe.read()
    _, status, usage = os.wait4(child, 0)
    found = (
        pickle.loads(raw) if raw else {"status": f"killed ({status})", "message": "", "result": None, "traceback": None}
    )
    return {**found, "seconds": time.perf_counter() - began, "memory": usage.ru_maxrss * 1024 - had}


def judged(found: dict, expected: str, before: bytes, after: bytes, kind: str) -> tuple[str, str]:
    """(what became of it, what is wrong with that or "")."""
    steering = any(mark in found["message"] for mark in ("\x1b", "\u202e", "\x07"))
    if found["seconds"] > SECONDS:
        return "hangs", f"{found['seconds']:.0f} s"
    if found["memory"] > MEMORY:
        return "memory", f"{found['memory'] / 2**30:.1f} GB"
    if found["traceback"]:
        return "traceback", found["traceback"].strip().splitlines()[-1][:200] + where(found["traceback"])
    if found["status"] != 0:
        if (
            found["status"] != 2
            or len(found["message"]) > MESSAGE
            or steering
            or "codec can't encode" in found["message"]
        ):
            return "bad end", f"exit {found['status']}: {found['message'][-300:]}"
        return "refused", ""
    if found["result"] == expected:
        return "same", ""
    try:
        sound, told = said_otherwise(before, after)
    except (ValueError, RecursionError):
        sound, told = False, "what is no JSON is read"
    return ("other", "") if sound or kind == "records" else ("silence", told)


def where(trace: str) -> str:
    lines = [line.strip() for line in trace.splitlines() if "paddle_xc2/" in line and "File" in line]
    return f"  <- {lines[-1].split('paddle_xc2/', 1)[1]}" if lines else ""


def fuzz(kind: str, numbers: range, seed: int, work: Path, only: int | None) -> dict:
    _, _, action = KINDS[kind]
    folder = work / f"try-{kind}"
    lay_out(kind, work, folder)
    expected = in_a_child(action, folder)
    assert expected["status"] == 0, expected
    counts, told = {}, set()
    for index in numbers if only is None else [only]:
        random_ = random.Random(f"{kind} {seed} {index}")
        shutil.rmtree(folder)
        path = lay_out(kind, work, folder)
        if kind == "state":
            path = folder / random_.choice([name for name in STATE_FILES if (folder / name).is_file()])
        before = path.read_bytes()
        after = changed(before, random_) if path.suffix == ".json" else changed_bytes(before, random_)
        path.unlink()  # a link: the whole stays
        path.write_bytes(after)
        found = in_a_child(action, folder)
        if after == before:
            continue
        became, wrong = judged(found, expected["result"], before, after, kind)
        counts[became] = counts.get(became, 0) + 1
        if only is not None or os.environ.get("FUZZ_SHOW") == became:
            print(kind, index, said_otherwise(before, after)[1] if became in ("same", "other") else "")
        if only is not None:
            print(found["traceback"] or found["message"], f"{found['seconds']:.1f} s", became, wrong)
        if wrong and (became, wrong) not in told:
            told.add((became, wrong))
            print(f"{kind}:{index} {became}: {wrong}", flush=True)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--number", type=int, default=2000, help="of changes of each kind (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="of them, the one to begin with (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("--one", metavar="KIND:NUMBER", help="only this one, with its message or traceback")
    args = parser.parse_args()
    only = None
    if args.one:
        args.kinds, only = [args.one.split(":")[0]], int(args.one.split(":")[1])
    # Everything that a child would import; nothing is computed here, since a fork does not copy threads.
    import paddle_xc2.training.finetune  # noqa: F401
    import paddle_xc2.weights.load_adapter  # noqa: F401

    wrong = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        work = Path(directory)
        child = os.fork()
        if not child:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                prepare(work)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for kind in args.kinds:
            began = time.perf_counter()
            counts = fuzz(kind, range(args.first, args.number), args.seed, work, only)
            wrong += sum(count for name, count in counts.items() if name not in ("refused", "same", "other"))
            print(json.dumps({"kind": kind, **counts, "seconds": round(time.perf_counter() - began)}), flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
