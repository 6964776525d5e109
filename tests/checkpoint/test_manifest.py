import hashlib
import json

import pytest

from paddle_xc2.checkpoint.manifest import MANIFEST_FILE, manifest_files, verify_manifest, write_manifest


@pytest.fixture
def checkpoint(tmp_path):
    for name, content in (
        ("config.json", b"{}"),
        ("model-1.safetensors", b"1" * 100),
        ("model-2.safetensors", b"2" * 50),
    ):
        (tmp_path / name).write_bytes(content)
    write_manifest(tmp_path, "hf", "internlm-xcomposer2-7b", {})
    return tmp_path


def test_content(checkpoint):
    content = json.loads((checkpoint / MANIFEST_FILE).read_text())
    assert {key: content[key] for key in ("format_version", "layout", "source")} == {
        "format_version": 1,
        "layout": "hf",
        "source": "internlm-xcomposer2-7b",
    }
    assert content["files"]["model-1.safetensors"] == {"bytes": 100, "sha256": hashlib.sha256(b"1" * 100).hexdigest()}
    assert content["files"].keys() == {"config.json", "model-1.safetensors", "model-2.safetensors"}


def test_whole(checkpoint):
    counted = []
    assert verify_manifest(checkpoint, counted.append) == 152 == sum(counted)


def test_known_digests_are_taken(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    write_manifest(tmp_path, "hf", "", {"a": "of the writer"})
    assert manifest_files(tmp_path)["a"]["sha256"] == "of the writer"


def test_damage_is_listed(checkpoint):
    (checkpoint / "config.json").unlink()
    (checkpoint / "model-1.safetensors").write_bytes(b"1" * 99)
    (checkpoint / "model-2.safetensors").write_bytes(b"2" * 49 + b"3")
    with pytest.raises(ValueError) as caught:
        verify_manifest(checkpoint)
    assert str(caught.value) == (
        f"{checkpoint}: not as it was written: config.json is missing; "
        "model-1.safetensors has 99 bytes instead of 100; "
        "model-2.safetensors has changed (its SHA-256 is another); copy or convert it again"
    )


def test_without_a_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"can't be verified: it has no {MANIFEST_FILE}, .*sha256sum"):
        verify_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1, column 2"),
        ('{"format_version": 2}', "format_version is 2, expected 1; install a newer paddle_xc2"),
        ('{"format_version": 1}', "its list of files is damaged"),
        ('{"format_version": 1, "files": {"../x": {"bytes": 1, "sha256": "0"}}}', "its list of files is damaged"),
        ('{"format_version": 1, "files": {"x": {"bytes": "1"}}}', "its list of files is damaged"),
    ],
)
def test_damaged_manifest(tmp_path, content, message):
    (tmp_path / MANIFEST_FILE).write_text(content)
    with pytest.raises(ValueError, match=message):
        verify_manifest(tmp_path)
