import base64
import io
import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.images.downloads import DownloadError, ImageCache, default_image_folder, is_url
from paddle_xc2.data.records.conversations import load_conversations
from paddle_xc2.files.durable import scratch
from paddle_xc2.messages import shown


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """What the server does is in the path that is asked for; `asked` lists the paths."""

    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        name = self.path.rsplit("/", 1)[-1]
        if name == "gone.png":
            self.send_error(404)
        elif name == "moved.png":
            self.send_response(302)
            self.send_header("Location", "/red.png")
            self.end_headers()
        elif name == "page.png":
            self.answer(b"<html>please log in</html>")
        elif name == "huge.png":
            self.answer(bytes(100_000))
        elif name == "cut.png":
            self.answer(picture()[:-20], promised=len(picture()))
        elif name == "silent.png":
            time.sleep(0.5)
        elif name in ("drops.png", "slow-header.png"):  # a byte at a time, so that no read waits for long
            if name == "drops.png":
                self.answer(b"", promised=10_000_000)
            for _ in range(60):
                time.sleep(0.01)
                self.wfile.write(b"H")
        elif name == "dripping.png":
            self.answer(b"", promised=10_000_000)
            for _ in range(10):
                time.sleep(0.05)
                self.wfile.write(bytes(70_000))
        else:
            self.answer(picture())

    def answer(self, body: bytes, promised: int | None = None):
        self.send_response(200)
        self.send_header("Content-Length", str(promised or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """The client hangs up where a test says so."""


@pytest.fixture
def address(monkeypatch):
    """Address of a server on loopback, asked directly whatever proxy the machine has."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(Handler, "asked", [])
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path):
    return ImageCache(tmp_path / "cache", timeout=5)


def refused(cache, url, match):
    with pytest.raises(DownloadError, match=match) as caught:
        cache.fetch(url, "train.json[17]")
    assert isinstance(caught.value, DataError)
    assert str(caught.value).startswith(f"train.json[17]: {shown(url)}: ")
    assert "\n" not in str(caught.value)
    assert not cache.folder.exists()  # nothing is kept


def test_image_is_fetched_once(address, cache):
    path = cache.fetch(f"{address}/some/red%20house.png?size=20")
    assert path.read_bytes() == picture()
    assert path.parent == cache.folder
    assert path.name.endswith("-red_20house.png")
    assert cache.fetch(f"{address}/some/red%20house.png?size=20") == path
    assert ImageCache(cache.folder).fetch(f"{address}/some/red%20house.png?size=20") == path
    assert Handler.asked == ["/some/red%20house.png?size=20"]
    assert list(cache.folder.iterdir()) == [path]


def test_what_a_killed_process_left_goes_in_time(address, cache):
    cache.folder.mkdir()
    left, in_work = (scratch(cache.folder / name, "writing-0a1b2c3d") for name in ("left", "in work"))
    for path in (left, in_work):
        path.write_bytes(picture()[:50])
    os.utime(left, (1, 1))
    path = cache.fetch(f"{address}/red.png")
    assert sorted(cache.folder.iterdir()) == sorted([in_work, path])


def test_each_address_has_a_file_of_its_own(address, cache):
    paths = [cache.fetch(address + path) for path in ("/a/1.png", "/b/1.png", "/b/1.png?x", "/", "/moved.png")]
    assert len(set(paths)) == 5
    assert all(path.read_bytes() == picture() for path in paths)


def test_readers_of_records_fetch_images(address, cache, tmp_path):
    record = {"conversations": [[f"<img>{address}/red.png</img><img>{address}/red.png</img>\nQ", "A"]]}
    (tmp_path / "train.json").write_text(json.dumps([record, record]))
    conversations = load_conversations(tmp_path / "train.json", cache=cache)
    assert [conversation.images for conversation in conversations] == [(cache.path_of(f"{address}/red.png"),) * 2] * 2
    assert Handler.asked == ["/red.png"]


def test_not_there(address, cache):
    refused(cache, f"{address}/gone.png", "the server answered 404 Not Found; correct the address$")


def test_not_an_image(address, cache):
    refused(cache, f"{address}/page.png", "the server sent no image that can be used; correct the address$")


def test_too_large(address, cache):
    cache.max_bytes = 99_999
    refused(cache, f"{address}/huge.png", "more than the 99,999 bytes allowed; use a smaller image$")


def test_cut_on_the_way(address, cache):
    refused(cache, f"{address}/cut.png", r"the transfer broke off \(.*\); try again$")


@pytest.mark.parametrize("name", ["silent.png", "dripping.png", "drops.png", "slow-header.png"])
def test_too_slow(address, cache, name):
    cache.timeout = 0.2
    start = time.monotonic()
    refused(
        cache, f"{address}/{name}", r"not there after 0\.2 seconds; try again, or save the image and write its path$"
    )
    assert time.monotonic() - start < 2


def test_offline(cache, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.socket() as free:  # a port at which nobody listens
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    refused(
        cache, f"http://{host}/a.png", r"the server can't be reached \(.*refused.*\); check the network, or save the im"
    )
    # The next image of that server isn't waited for.
    monkeypatch.setattr("requests.get", lambda *arguments, **options: pytest.fail("asked again"))
    refused(cache, f"http://{host}/b.png", r"the server can't be reached \(.*refused.*\)")


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "http://[", "https://exa mple.org/a.png", "http://a..b/c.png", "http://a:99999/b", "http://a\0b/"),
        *("http://\ud800/a", f"http://{'a' * 70}.com/a", "http://*/", "http://x@/"),
    ],
)
def test_malformed_address(cache, url):
    refused(cache, url, r"this can't be fetched \(.*\); correct the address$")


def test_folder_that_can_not_be_written(address, tmp_path):
    (tmp_path / "file").write_text("")
    cache = ImageCache(tmp_path / "file" / "cache")
    refused(
        cache, f"{address}/red.png", r"file/cache can't be written \(.*\); let PADDLE_XC2_CACHE name another folder$"
    )


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PADDLE_XC2_CACHE", str(tmp_path))
    assert default_image_folder() == ImageCache().folder == tmp_path / "images"
    monkeypatch.delenv("PADDLE_XC2_CACHE")
    assert default_image_folder() == Path.home() / ".cache" / "paddle_xc2" / "images"


def test_is_url():
    assert all(map(is_url, ["http://a/b.png", "HTTPS://a/b.png"]))
    assert not any(map(is_url, ["http/a.png", "/a.png", "ftp://a/b.png", ""]))


# Images written into the data


def test_image_in_a_data_address(tmp_path):
    cache = ImageCache(tmp_path)
    address = "data:image/png;base64," + base64.b64encode(picture()).decode()
    path = cache.unpack(address)
    assert path.read_bytes() == picture() and path == cache.unpack(address.replace("image/png", "IMAGE/x"))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    (tmp_path / "train.json").write_text(json.dumps([{"image": address, "conversations": [["Q", "A"]]}]))
    (conversation,) = load_conversations(tmp_path / "train.json", cache=cache)
    assert conversation.images == (path,)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("data:image/png,abc", 'this is not in base64; write "data:image/png;base64," and the image'),
        ("data:image/png;base64", "this is not in base64"),
        ("data:image/png;base64,a$b", "this is not valid base64 .*; write the image as a file"),
        ("data:image/png;base64,QUJD", "the address holds no image that can be used; correct the address"),
        ("data:image/png;base64," + "A" * 400, "more than the 200 bytes allowed; use a smaller image"),
    ],
)
def test_bad_data_address(tmp_path, address, message):
    with pytest.raises(DownloadError, match=r"^t\[1\]: data:image/png.*\.\.\.: " + message):
        ImageCache(tmp_path / "cache", max_bytes=200).unpack(address, "t[1]")
    assert not (tmp_path / "cache").exists()
