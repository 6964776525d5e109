import json
import os
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest

from paddle_xc2.hub import find as model_path
from paddle_xc2.hub.find import resolve_model_path
from tests.conftest import ROOT

NAME = "internlm/internlm-xcomposer2-7b"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"architectures": []}',
    "modeling_internlm_xcomposer2.py": b"# upstream's",
    "model.safetensors": bytes(range(256)) * 40,
    "logo.png": b"a picture",
}


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Every hub keeps its cache in the test's folder, and nothing is resolved yet."""
    monkeypatch.setattr(model_path, "_resolved", {})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("AISTUDIO_CACHE_HOME", str(tmp_path / "aistudio"))
    monkeypatch.chdir(tmp_path)


def without(monkeypatch, *modules):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def modelscope(monkeypatch, snapshot_download):
    """A stand-in for the library."""
    module = types.ModuleType("modelscope.hub.snapshot_download")
    module.snapshot_download = snapshot_download
    for name in ("modelscope", "modelscope.hub"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def raising(error):
    def fail(*args, **kwargs):
        raise error

    return fail


class HubServer(BaseHTTPRequestHandler):
    """Both hubs' answers for one model of FILES; keeps what it was asked for.

    `server.broken` breaks off in the middle of the weights; `server.withheld` is a file that it does not give.
    """

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        name = self.path.rsplit("/", 1)[-1]
        if self.path == f"/api/models/{NAME}/revision/main":
            siblings = [{"rfilename": file} for file in FILES]
            self.answer(json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode())
        elif self.path.startswith("/modelcenter/"):
            self.answer(b'{"errorCode": 0}')
        elif self.path == f"/api/v1/repos/{NAME}/contents/":
            self.answer(json.dumps([{"name": file, "type": "file"} for file in FILES]).encode())
        elif self.path.startswith(f"/api/v1/repos/{NAME}/contents/") and name in FILES:
            self.answer(json.dumps({"sha": f"sha-of-{name}", "last_commit_sha": COMMIT}).encode())
        elif name in FILES and name != self.server.withheld:
            self.answer(FILES[name], name)
        else:
            self.send_error(503 if name == self.server.withheld else 404)

    do_HEAD = do_GET

    def answer(self, content, name=None):
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if name:
            self.send_header("ETag", f'"etag-of-{name}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            end = len(content) // 2 if self.server.broken and name == "model.safetensors" else len(content)
            self.wfile.write(content[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubServer)
    server.asked, server.broken, server.withheld = [], False, None
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


class TestDirectories:
    def test_as_it_is(self, tmp_path):
        assert resolve_model_path(str(tmp_path)) == tmp_path

    def test_comes_before_a_hub_name(self, tmp_path):
        (tmp_path / NAME).mkdir(parents=True)
        assert resolve_model_path(NAME).resolve() == tmp_path / NAME

    @pytest.mark.parametrize("name", ["./nope", "/a/b", "a/b/c", "nope", "../nope"])
    def test_no_directory_and_no_hub_name(self, name):
        with pytest.raises(FileNotFoundError, match=f"^{name}: there is no such directory, nor a released model"):
            resolve_model_path(name)


class TestOrder:
    def test_hugging_face_first_and_once(self, tmp_path, monkeypatch):
        asked = []

        def snapshot_download(name, allow_patterns, local_files_only):
            asked.append((name, local_files_only))
            assert "*.safetensors" in allow_patterns and "*.md" in allow_patterns
            return str(tmp_path)

        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        modelscope(monkeypatch, raising(AssertionError("asked without need")))
        assert resolve_model_path(NAME) == resolve_model_path(NAME) == tmp_path
        assert asked == [(NAME, False)]

    @pytest.mark.parametrize("hub", ["Hugging Face", "ModelScope"])
    def test_without_weights(self, tmp_path, monkeypatch, hub):
        """What has them serves for what needs none, and not the other way round."""
        left_out = []

        def snapshot_download(name, ignore_patterns=(), **_):
            left_out.append(ignore_patterns)
            return str(tmp_path)

        error = raising(ConnectionError("no route"))
        monkeypatch.setattr(huggingface_hub, "snapshot_download", error if hub == "ModelScope" else snapshot_download)
        modelscope(monkeypatch, snapshot_download)
        for weights in (False, False, True, True, False):
            assert resolve_model_path(NAME, weights) == tmp_path
        without, whole = left_out
        assert {"*.safetensors", "*.bin", "*.pdparams"} <= set(without) and not whole

    @pytest.mark.parametrize("offline", [False, True])
    def test_then_modelscope_under_its_name(self, tmp_path, monkeypatch, offline):
        asked = []

        def snapshot_download(name, local_files_only):
            asked.append((name, local_files_only))
            return str(tmp_path)

        monkeypatch.setenv("HF_HUB_OFFLINE", str(int(offline)))
        monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(ConnectionError("no route")))
        modelscope(monkeypatch, snapshot_download)
        assert resolve_model_path(NAME) == tmp_path
        assert resolve_model_path("somebody/model") == tmp_path
        assert asked == [
            ("Shanghai_AI_Laboratory/internlm-xcomposer2-7b", offline),
            ("somebody/model", offline),
        ]


class TestNotFound:
    def message(self):
        with pytest.raises(FileNotFoundError) as caught:
            resolve_model_path(NAME)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_offline_with_empty_caches(self, tmp_path, monkeypatch):
        """HF_HUB_OFFLINE is set for the whole test suite; huggingface_hub reads it when it is imported."""
        modelscope(monkeypatch, raising(ValueError("Cannot find the requested files in the cached path and so on")))
        message = self.message()
        assert message.startswith(
            f"{NAME}: not found: there is no such directory under {tmp_path}; "
            "HF_HUB_OFFLINE is set, so only caches were looked at; Hugging Face (https://huggingface.co, cache "
        )
        assert "): Cannot find an appropriate cached snapshot folder for the specified revision" in message
        assert f"; ModelScope (cache {tmp_path}/modelscope): Cannot find the requested files" in message
        assert f"; AI Studio (cache {tmp_path}/aistudio/.cache/aistudio/models): it is not in the cache. " in message
        assert message.endswith(
            f"To get it by hand, run on a machine with a network: huggingface-cli download {NAME} --local-dir "
            "internlm-xcomposer2-7b (or: modelscope download --model Shanghai_AI_Laboratory/internlm-xcomposer2-7b "
            "--local_dir internlm-xcomposer2-7b), copy that directory here and give its path"
        )

    def test_no_library(self, monkeypatch):
        without(monkeypatch, "huggingface_hub", "modelscope", "aistudio_sdk")
        assert (
            "Hugging Face: huggingface_hub is not installed; ModelScope: modelscope is not installed; "
            "AI Studio: aistudio-sdk is not installed. To get"
        ) in self.message()

    def test_reasons_are_the_innermost_and_short(self, monkeypatch):
        def fail(*args, **kwargs):
            try:
                raise OSError("[Errno -2] Name or service not known\nsecond line")
            except OSError as error:
                raise RuntimeError("An error happened, please check") from error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        modelscope(monkeypatch, raising(RuntimeError("x" * 1000)))
        without(monkeypatch, "aistudio_sdk")
        message = self.message()
        assert "): [Errno -2] Name or service not known; ModelScope" in message
        assert len(message) < 1500
        modelscope(monkeypatch, raising(TimeoutError()))
        assert "modelscope): TimeoutError; AI" in self.message()


def test_the_hugging_face_library(tmp_path, hub):
    """A server at HF_ENDPOINT: what is there is gone on with, the cache is HF_HOME's, and serves without a network."""
    blobs = tmp_path / "hf" / "hub" / f"models--{NAME.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "etag-of-model.safetensors.incomplete").write_bytes(FILES["model.safetensors"][:1000])

    def resolve(**variables):
        script = f"from paddle_xc2.hub.find import resolve_model_path; print(resolve_model_path({NAME!r}))"
        environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.address, **variables}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip(), done.stderr

    found, shown = resolve(HF_HUB_OFFLINE="0")
    assert found.startswith(str(tmp_path / "hf")) and found.endswith(COMMIT)
    assert "Fetching 3 files: 100%" in shown
    for file, content in FILES.items():
        if file == "logo.png":
            assert not os.path.exists(os.path.join(found, file))
        else:
            with open(os.path.join(found, file), "rb") as stream:
                assert stream.read() == content
    assert (f"/{NAME}/resolve/{COMMIT}/model.safetensors", "bytes=1000-") in hub.asked
    hub.asked.clear()
    assert resolve(HF_HUB_OFFLINE="1")[0] == found
    assert not hub.asked


class TestAIStudio:
    @pytest.fixture(autouse=True)
    def only_aistudio(self, monkeypatch, hub):
        without(monkeypatch, "huggingface_hub", "modelscope")
        monkeypatch.setenv("STUDIO_GIT_HOST", hub.address)
        monkeypatch.setenv("STUDIO_MODEL_API_URL_PREFIX", hub.address)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def test_file_by_file_and_config_last(self, tmp_path, monkeypatch, hub, capsys):
        found = resolve_model_path(NAME)
        assert found.is_relative_to(tmp_path / "aistudio")
        assert {path.name: path.read_bytes() for path in found.iterdir()} == {
            name: content for name, content in FILES.items() if name != "logo.png"
        }
        assert capsys.readouterr().out == ""
        assert hub.asked[-1][0].endswith("/config.json")
        hub.asked.clear()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        model_path._resolved.clear()
        assert resolve_model_path(NAME) == found and not hub.asked

    def test_what_breaks_off_is_fetched_again(self, tmp_path, hub):
        hub.broken = True
        with pytest.raises(FileNotFoundError, match=r"AI Studio \(cache .*IncompleteRead"):
            resolve_model_path(NAME)
        hub.broken = False
        assert (resolve_model_path(NAME) / "model.safetensors").read_bytes() == FILES["model.safetensors"]

    def test_a_model_that_it_does_not_have(self):
        with pytest.raises(
            FileNotFoundError, match=r"not found: .*AI Studio .*: it has no such model, or not for you \(HTTP 404\). To"
        ):
            resolve_model_path("nobody/nothing")

    def test_a_file_that_it_does_not_give(self, hub):
        """The library keeps the server's excuse as if it were the file."""
        hub.withheld = "model.safetensors"
        with pytest.raises(FileNotFoundError, match=r"AI Studio .*: model.safetensors can't be fetched \(HTTP 503\)"):
            resolve_model_path(NAME)
        hub.withheld = None
        assert (resolve_model_path(NAME) / "model.safetensors").read_bytes() == FILES["model.safetensors"]
