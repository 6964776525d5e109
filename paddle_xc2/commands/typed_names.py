"""What people type who come from elsewhere: commands and options that are called otherwise here, or are not there."""

from __future__ import annotations

from collections.abc import Iterable

from paddle_xc2.messages import did_you_mean, listed, nearest, shown

_FINETUNE = "paddle-xc2 finetune CONFIG.json trains; paddle-xc2 configs lists files to start from"
_CHAT = 'paddle-xc2 chat --from_pretrained MODEL --image_path cat.jpg --text "What is this?" asks a model'
# Command -> what does it here.
COMMANDS_INSTEAD = {
    **dict.fromkeys(("train", "sft", "lora", "qlora", "tune", "fine-tune", "fit", "run"), _FINETUNE),
    **dict.fromkeys(("infer", "inference", "ask", "demo", "predict", "cli", "query", "vqa"), _CHAT),
    **dict.fromkeys(("server", "api", "deploy", "openai"), "paddle-xc2 serve --from_pretrained MODEL serves a model"),
    **dict.fromkeys(("webui", "gradio", "ui", "browser"), "paddle-xc2 web --from_pretrained MODEL asks in the browser"),
    **dict.fromkeys(("batch", "answer"), "paddle-xc2 generate IN.jsonl OUT.jsonl answers a data set"),
    **dict.fromkeys(
        ("evaluate", "eval", "test", "benchmark"),
        'there are no benchmarks yet; finetune with "do_train": false, "do_eval": true evaluates a data set',
    ),
    **dict.fromkeys(
        ("estimate-memory", "memory", "plan", "dry-run"),
        "paddle-xc2 finetune CONFIG.json --plan says what a run would do and need, and stops",
    ),
    "profile": 'there is no profiler yet; finetune with "benchmark": true measures a run',
    **dict.fromkeys(("merge-lora", "export", "merge-adapter"), "paddle-xc2 merge merges an adapter into its base"),
    **dict.fromkeys(("check", "validate", "lint", "data"), "paddle-xc2 check-data checks a data set"),
    **dict.fromkeys(("config", "list", "examples", "init"), "paddle-xc2 configs lists files to start from"),
    **dict.fromkeys(("env", "info", "diagnose", "check-env"), "paddle-xc2 doctor shows the installation"),
    **dict.fromkeys(("download", "pull"), "paddle-xc2 convert RELEASED_NAME DST fetches a model and converts it"),
    "version": "paddle-xc2 --version shows it",
}

_MODEL = ("model", "model_path", "model_name", "checkpoint", "ckpt", "path", "pretrained")
_ADAPTER = ("lora", "adapter", "adapter_path", "peft", "adapter_dir")
_OUTPUT = ("output", "out", "output_dir", "save_path", "out_dir", "dst", "save_dir")
_IMAGE_FOLDER = ("image_dir", "image_root", "images", "media_dir", "image_path")
# Command -> option -> the one that is meant.
OPTIONS_INSTEAD = {
    "chat": {
        **dict.fromkeys(("image", "images", "img", "picture", "file", "video"), "image_path"),
        **dict.fromkeys(("prompt", "question", "query", "q", "message", "input"), "text"),
        **dict.fromkeys(_MODEL, "from_pretrained"),
        **dict.fromkeys((*_ADAPTER, "lora_path"), "from_pretrained, which takes an adapter too"),
        **dict.fromkeys(("system", "system_prompt"), "meta_instruction"),
        **dict.fromkeys(("max_length", "max_tokens", "max_new_token"), "max_new_tokens"),
        **dict.fromkeys(("temp", "t"), "temperature"),
        **dict.fromkeys(("beams", "beam"), "num_beams"),
        "do_sample": "greedy, which does not sample",
        **dict.fromkeys(("bf16", "fp16", "precision", "torch_dtype"), "dtype"),
    },
    "merge": {
        **dict.fromkeys(_MODEL, "model_name_or_path"),
        **dict.fromkeys(_ADAPTER, "lora_path"),
        **dict.fromkeys(_OUTPUT, "output_path"),
    },
    "convert": {
        **dict.fromkeys(("format", "target", "layout"), "to"),
        **dict.fromkeys(("shard_size", "max_shard"), "max_shard_size"),
        "torch_dtype": "dtype",
        "force": "overwrite",
    },
    "check-data": {
        **dict.fromkeys(_MODEL, "model_name_or_path"),
        **dict.fromkeys(_IMAGE_FOLDER, "image_folder"),
        **dict.fromkeys(("html", "output", "out"), "report"),
        **dict.fromkeys(("workers", "nproc", "jobs"), "num_workers"),
        **dict.fromkeys(("repair", "mend"), "fix"),
    },
    "convert-data": {
        **dict.fromkeys(("format", "target", "dialect", "output_format"), "to"),
        **dict.fromkeys(_IMAGE_FOLDER, "image_folder"),
        "force": "overwrite",
    },
    "configs": {"cat": "show", "print": "show", "cp": "copy"},
}


def unknown_command(name: str, commands: Iterable[str]) -> str:
    """The message for a command that is not there."""
    plain = name.lower().replace("_", "-")
    instead = f"; {COMMANDS_INSTEAD[plain]}" if plain in COMMANDS_INSTEAD else did_you_mean(plain, commands)
    return f'there is no command "{shown(name)}"' + (instead or f"; there are {', '.join(commands)}")


def unknown_options(command: str, words: list[str], options: Iterable[str]) -> str:
    """The message for words of the command line that the command does not know.

    Args:
        words: in their order; the values of unknown options are among them.
        options: that the command has, as in "--text".
    """
    told = []
    for word in (word for word in words if word.startswith("-") and word.strip("-")):
        option = word.partition("=")[0]
        instead = OPTIONS_INSTEAD.get(command, {}).get(option.lstrip("-").lower())
        instead = f"--{instead}" if instead else nearest(option, options)
        told.append(f"{shown(option)} (use {instead})" if instead else shown(option))
    told = told or [f'"{shown(word)}"' for word in words]
    return f"unknown {listed(told)}; paddle-xc2 {command} --help lists what there is"


def with_underscores(words: list[str]) -> list[str]:
    """A command line whose options are written as they are declared: --max-shard-size is --max_shard_size."""
    end = words.index("--") if "--" in words else len(words)
    return [*(_underscored(word) for word in words[:end]), *words[end:]]


def _underscored(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"
