#!/usr/bin/env python3
"""Writes docs/configuration.md and docs/configuration_zh-CN.md from the declared keys of the argument file.

Run it after a key, or a help text, has changed: `python tools/configuration_reference.py`. The Chinese texts stand in
docs/configuration_zh-CN.json, by the English text that they translate; one that is not there stays English.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The checkout's root in place of this folder: works without an installation, and nothing here hides a package's name.
sys.path[0] = str(ROOT)

from paddle_xc2.training.arguments.finetune_arguments import DECLARED, GROUPS, TYPES  # noqa: E402
from paddle_xc2.training.arguments.key import MAY_CHANGE, MUST_MATCH, RESULT_MUST_MATCH, Key  # noqa: E402
from paddle_xc2.training.arguments.other_names import (  # noqa: E402
    NEUTRAL,
    SWITCHES,
    USE_INSTEAD,
    WITHOUT_EFFECT,
)
from paddle_xc2.training.arguments.values import SPOKEN  # noqa: E402

DOCS = ROOT / "docs"
TRANSLATIONS = DOCS / "configuration_zh-CN.json"
RESUME_MARKS = {MUST_MATCH: "F", RESULT_MUST_MATCH: "R", MAY_CHANGE: ""}
NAMES = {"en": "configuration.md", "zh": "configuration_zh-CN.md"}

WORDS = {
    "en": {
        "title": "# The argument file, key by key",
        "other": "[中文](configuration_zh-CN.md)",
        "introduction": (
            "`paddle-xc2 finetune CONFIG.json` reads these keys; each can also be given on the command line, as "
            "`--learning_rate 2e-5`, which wins over the file. A key that is left out has its default. Lengths are in "
            "tokens, image slots included; a step is an optimizer step. Which file to start from: "
            "[config/README.md](../config/README.md); how to reach a goal: [finetuning.md](finetuning.md).\n\n"
            "**F**: fixed once a run has begun: with another value, its checkpoints can't be gone on from. "
            "**R**: the result is fixed: another value will do if samples, steps and precision stay as they were. "
            '**L**: only with `"lora": true`.\n\n'
            "This page is written by `python tools/configuration_reference.py` from the program's own texts; "
            "`paddle-xc2 finetune --help` shows the same."
        ),
        "table": ("key", "type", "default", "", "what it is"),
        "or": " or ",
        "between": " ",
        "range": "From {} to {}.",
        "above": "Above {} and up to {}.",
        "below": "From {} to below {}.",
        "least": "At least {}.",
        "most": "At most {}.",
        "also": "Also called {}.",
        "switches": "`{}` means `{}`.",
        "neutral": "## Keys of other programs that may only ask for nothing",
        "neutral_introduction": "They are accepted with these values, so that PaddleMIX's files work as they are; any "
        "other value is an error that says what follows here.",
        "neutral_table": ("key", "accepted", "otherwise"),
        "without": "## Accepted, without effect",
        "without_table": ("key", "why"),
        "instead": "## Names from elsewhere",
        "instead_introduction": "Keys that other programs have are answered with what to use here.",
        "instead_table": ("key", "answer"),
    },
    "zh": {
        "title": "# 参数文件逐项说明",
        "other": "[English](configuration.md)",
        "introduction": (
            "`paddle-xc2 finetune CONFIG.json` 读取以下各键；每个键也可以写在命令行上，如 `--learning_rate 2e-5`，"
            "命令行优先于文件。"
            "没有写的键取默认值。长度以 token 计，含图像占位；一步指优化器的一步。从哪个文件开始："
            "[config/README.md](../config/README.md)；按目标选择设置：[finetuning_zh-CN.md](finetuning_zh-CN.md)。\n\n"
            "**F**：训练开始后不可再改，改了就不能从已有的检查点继续。"
            "**R**：由它决定的结果不可变：样本、步数和精度与原来相同时，值可以改。"
            '**L**：只在 `"lora": true` 时可用。\n\n'
            "本页由 `python tools/configuration_reference.py` 根据程序中的声明生成；"
            "英文说明与 `paddle-xc2 finetune --help` 相同。"
        ),
        "table": ("键", "类型", "默认值", "", "含义"),
        "or": "或",
        "between": "",
        "range": "取值 {} 至 {}。",
        "above": "大于 {}，至多 {}。",
        "below": "不小于 {}，小于 {}。",
        "least": "至少 {}。",
        "most": "至多 {}。",
        "also": "也可写作 {}。",
        "switches": "`{}` 相当于 `{}`。",
        "neutral": "## 其他程序的键：只接受“什么也不要求”的取值",
        "neutral_introduction": (
            "以下取值会被接受，因此 PaddleMIX 的参数文件可以原样使用；写其他值会报错，并给出右栏的说明。"
        ),
        "neutral_table": ("键", "接受的值", "否则"),
        "without": "## 接受但不起作用",
        "without_table": ("键", "原因"),
        "instead": "## 别处的叫法",
        "instead_introduction": "写了其他程序的键时，程序会回答在这里该用什么（右栏是程序的原话）。",
        "instead_table": ("键", "回答"),
    },
}


def main() -> int:
    translations = read_translations()
    for language, name in NAMES.items():
        (DOCS / name).write_text(reference(language, translations), encoding="utf-8")
        print(f"written: {DOCS / name}")
    missing = [text for text in texts() if text not in translations]
    if missing:
        print(f"{TRANSLATIONS} has no Chinese for:", *missing, sep="\n  ")
    return 0


def read_translations() -> dict[str, str]:
    """Chinese texts by the English ones."""
    return json.loads(TRANSLATIONS.read_text(encoding="utf-8"))


def texts() -> list[str]:
    """Every text of the program that the page shows in both languages."""
    shown = [
        *(group.__doc__ for group in GROUPS),
        *SPOKEN.values(),
        *(declared.help for declared in DECLARED.values()),
        *(neutral.otherwise for neutral in NEUTRAL.values()),
        *WITHOUT_EFFECT.values(),
    ]
    return list(dict.fromkeys(shown))


def reference(language: str, translations: dict[str, str]) -> str:
    """The whole page in one language, as Markdown."""
    words = WORDS[language]

    def said(text: str) -> str:
        return translations.get(text, text) if language == "zh" else text

    parts = [words["title"], words["other"], words["introduction"]]
    for group in GROUPS:
        rows = [key_row(item.name, item.default, words, said) for item in fields(group)]
        parts += [f"## {said(group.__doc__)}", table(words["table"], rows)]
    parts += [words["neutral"], words["neutral_introduction"]]
    accepted = {name: ", ".join(code(value) for value in neutral.values) for name, neutral in NEUTRAL.items()}
    rows = [(f"`{name}`", accepted[name], said(neutral.otherwise)) for name, neutral in NEUTRAL.items()]
    parts.append(table(words["neutral_table"], rows))
    rows = [(f"`{name}`", said(why)) for name, why in WITHOUT_EFFECT.items()]
    parts += [words["without"], table(words["without_table"], rows)]
    answers = {answer: [name for name in USE_INSTEAD if USE_INSTEAD[name] == answer] for answer in USE_INSTEAD.values()}
    rows = [(", ".join(f"`{name}`" for name in names), answer) for answer, names in answers.items()]
    parts += [words["instead"], words["instead_introduction"], table(words["instead_table"], rows)]
    return "\n\n".join(parts) + "\n"


def key_row(name: str, default, words: dict, said) -> tuple[str, ...]:
    """(name, type, default, marks, meaning) of a key."""
    declared = DECLARED[name]
    kinds = [said(SPOKEN[kind]) for kind in kinds_of(name) if kind is not type(None)]
    marks = "L" * declared.lora_only + RESUME_MARKS[declared.resume]
    others = [f"`{other}`" for other in declared.also]
    switches = [
        words["switches"].format(f'"{other}": true', f'"{key}": {json.dumps(value)}')
        for other, (key, value) in SWITCHES.items()
        if key == name
    ]
    told = [said(declared.help), bounds(declared, words), words["also"].format(", ".join(others)) if others else ""]
    meaning = words["between"].join(filter(None, [*told, *switches]))
    return f"`{name}`", words["or"].join(kinds), code(default), marks, meaning


def kinds_of(name: str) -> tuple:
    """The types that a key may have: of `int | None`, int and NoneType."""
    return getattr(TYPES[name], "__args__", None) if TYPES[name] not in SPOKEN else (TYPES[name],)


def bounds(declared: Key, words: dict) -> str:
    """The numbers that a key may be; "" for all."""
    least, most, above, below = (
        None if bound is None else f"{bound:,.0f}" if bound == int(bound) else f"{bound:g}"
        for bound in (declared.least, declared.most, declared.above, declared.below)
    )
    if above is not None:
        return words["above"].format(above, most)
    if below is not None:
        return words["below"].format(least, below)
    if least is not None and most is not None:
        return words["range"].format(least, most)
    return words["least"].format(least) if least else words["most"].format(most) if most else ""


def code(value) -> str:
    return f"`{json.dumps(value)}`"


def table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of Markdown, in which texts that look like tags stay texts."""
    escaped = [tuple(cell.replace("|", "\\|").replace("<", "&lt;") for cell in row) for row in rows]
    lines = [titles, ("---",) * len(titles), *escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
