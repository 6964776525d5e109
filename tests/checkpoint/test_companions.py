"""What comes along with the weights, and which links don't."""

import shutil

import pytest

from paddle_xc2 import XComposer2ForCausalLM
from paddle_xc2.checkpoint.companions import companions
from paddle_xc2.weights.convert import convert
from tests.tiny import tiny_checkpoint, tiny_tokenizer


@pytest.fixture
def source(tmp_path):
    (tmp_path / "secret").write_text("root:x:0:0")
    return tiny_checkpoint(tmp_path / "source")


def test_all_but_weights_and_what_is_written_anew(source):
    for name in ("README.md", "modeling.py", ".hidden", "predictions-7.jsonl", "old.pth", "loss.png"):
        (source / name).write_text("x")
    names = {path.name for path in companions(source)}
    assert {"README.md", "modeling.py", "tokenizer.model"} <= names
    assert not {".hidden", "predictions-7.jsonl", "old.pth", "loss.png", "config.json"} & names
    assert not any(name.endswith((".safetensors", ".index.json")) for name in names)


@pytest.mark.parametrize("name", ["README.md", "tokenizer_config.json", "modeling_internlm2.py"])
def test_a_link_to_elsewhere_is_refused_by_name(source, tmp_path, name):
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(tmp_path / "secret")
    with pytest.raises(
        ValueError, match=f"{name} -> .*/secret: links out of the checkpoint .* are not copied; put the"
    ):
        convert(source, tmp_path / "out")
    model = XComposer2ForCausalLM.from_pretrained(source)
    with pytest.raises(ValueError, match=f"{name} -> .*/secret: links out of the checkpoint"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_that_is_no_tokenizer(source, tmp_path):
    (source / "tokenizer.model").unlink()
    (source / "tokenizer.model").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="tokenizer.model: this is no SentencePiece model") as caught:
        convert(source, tmp_path / "out")
    assert "root:x" not in str(caught.value) and not (tmp_path / "out").exists()
    (source / "tokenizer.model").unlink()
    (source / "tokenizer.model").symlink_to(tiny_tokenizer(tmp_path / "other") / "tokenizer.model")
    convert(source, tmp_path / "out")  # it can be nothing else
    assert (tmp_path / "out/tokenizer.model").read_bytes() == (tmp_path / "other/tokenizer.model").read_bytes()


def test_a_hubs_cache_is_made_of_links(source, tmp_path):
    """models--owner--name/snapshots/revision/file -> ../../blobs/hash."""
    snapshot, blobs = tmp_path / "models--a--b/snapshots/0123", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (source / "README.md").write_text("hello")
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copyfile(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (tmp_path / "linked").symlink_to(snapshot)
    for number, directory in enumerate((snapshot, tmp_path / "linked")):
        convert(directory, tmp_path / f"out{number}")
        written = tmp_path / f"out{number}/README.md"
        assert written.read_text() == "hello" and not written.is_symlink()


def test_blobs_of_another_place_are_none(source, tmp_path):
    """A cache's shape around a link to somewhere else."""
    snapshot = tmp_path / "x/snapshots/0"
    shutil.copytree(source, snapshot)
    (tmp_path / "x/blobs").symlink_to(tmp_path)
    (snapshot / "README.md").symlink_to("../../blobs/secret")
    with pytest.raises(ValueError, match="README.md -> .*/secret: links out of the checkpoint"):
        convert(snapshot, tmp_path / "out")
