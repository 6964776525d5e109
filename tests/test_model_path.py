import sys

import huggingface_hub
import pytest

from paddle_xc2.model_path import resolve_model_path

NAME = "internlm/internlm-xcomposer2-7b"


def test_a_directory(tmp_path):
    assert resolve_model_path(str(tmp_path)) == tmp_path


def test_a_directory_comes_before_a_hub_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    assert resolve_model_path(NAME).resolve() == tmp_path / NAME


@pytest.mark.parametrize("name", ["./nope", "/a/b", "a/b/c", "nope", "../nope"])
def test_no_directory_and_no_hub_name(name):
    with pytest.raises(FileNotFoundError, match=f"^{name}: there is no such directory, nor a released model"):
        resolve_model_path(name)


def test_from_the_hub(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, allow_patterns: asked.append(name) or str(tmp_path)
    )
    assert resolve_model_path(NAME) == tmp_path
    assert asked == [NAME]


def test_offline(tmp_path, monkeypatch):
    """HF_HUB_OFFLINE, which the test suite sets, keeps to the cache."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        resolve_model_path(NAME)
    message = str(caught.value)
    assert message.startswith(
        f"{NAME}: not found: there is no such directory under {tmp_path}, and the Hugging Face hub"
    )
    assert (
        "HF_HUB_OFFLINE" in message and f"huggingface-cli download {NAME} --local-dir internlm-xcomposer2-7b" in message
    )
    assert "\n" not in message


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=r"\(huggingface_hub is not installed\); to get it by hand"):
        resolve_model_path(NAME)
