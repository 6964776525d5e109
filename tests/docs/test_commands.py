"""Commands, argument files and records in the documentation are ones that the program takes."""

import json

import pytest

from paddle_xc2 import cli
from paddle_xc2.data.records.dialects import read_record
from paddle_xc2.training.arguments import KEYS, SYNONYMS, load_arguments
from tests.conftest import ROOT
from tests.docs.pages import PAGES, blocks, commands, name_of, text_of

DOCUMENTED = [(path, words) for path in PAGES for words in commands(text_of(path))]
OURS = [(path, words[1:]) for path, words in DOCUMENTED if words[0] == "paddle-xc2"]
EXAMPLES = [(path, block) for path in PAGES for block in blocks(text_of(path), "json")]


def ids(value):
    return name_of(value) if hasattr(value, "name") else " ".join(value)[:60]


@pytest.mark.parametrize("path, words", OURS, ids=ids)
def test_the_program_takes_the_command(path, words):
    args = cli.parsed(cli.with_underscores(list(words)))
    if words[0] == "finetune":
        keys = [word.lstrip("-").replace("-", "_") for word in args.overrides if word.startswith("--")]
        assert set(keys) <= {*KEYS, *SYNONYMS, "plan"}
        if args.config.startswith("config/"):
            assert (ROOT / args.config).is_file()


@pytest.mark.parametrize("path, words", DOCUMENTED, ids=ids)
def test_scripts_that_are_named_are_there(path, words):
    for word in words:
        if word.startswith(("tools/", "examples/", "tests/")) and word.endswith((".py", ".sh")):
            assert (ROOT / word).is_file()


@pytest.mark.parametrize("path, block", EXAMPLES, ids=lambda value: name_of(value) if hasattr(value, "name") else "")
def test_json_is_an_argument_file_or_records(path, block, tmp_path):
    values = json.loads(block)
    if isinstance(values, list):
        for index, record in enumerate(values):
            read_record(record, f"{path.name}[{index}]")
        return
    values.setdefault("output_dir", "out")
    if "dataset" not in values:
        values.setdefault("data_path", "train.json")
        if values.get("evaluation_strategy"):
            values = {**values, "dataset": {"eval": [{"data_files": "eval.json"}]}}
    file = tmp_path / "arguments.json"
    file.write_text(json.dumps(values))
    load_arguments(file, [])
