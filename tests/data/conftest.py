import json

import pytest


def write_records(path, number=1, image=None):
    turns = [{"from": "user", "value": f"question {path.stem}"}, {"from": "assistant", "value": "answer"}]
    path.write_text(json.dumps([{"conversations": turns, **({"image": image} if image else {})}] * number))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """a.json, b.json and c.json of 1, 2 and 3 records; the working directory is another."""
    for number, name in enumerate("abc", start=1):
        write_records(tmp_path / f"{name}.json", number)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path
