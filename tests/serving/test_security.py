"""What strangers may send: each is a clear refusal, and the server goes on."""

import base64
import http.server
import json
import re
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from paddle_xc2.cli import main
from paddle_xc2.serving import app, chat_forms, fetching, impatient
from paddle_xc2.serving.errors import ApiError
from paddle_xc2.serving.fetching import fetch_public, is_public
from paddle_xc2.serving.sent_images import decoded_image
from paddle_xc2.serving.serve import check_host, check_port
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.serving.conftest import asking, data_url, picture, running


@pytest.fixture(scope="module")
def fetching_server(served):
    with running([served], fetch=True) as server:
        yield server


@pytest.fixture(autouse=True)
def goes_on(request):
    """After every test, the server that it used answers."""
    yield
    for name in ("server", "fetching_server"):
        if name in request.fixturenames:
            assert post(request.getfixturevalue(name), asking("What?", data_url(picture()))).status_code == 200


def post(server, messages, **values):
    return requests.post(
        f"{server.url}/v1/chat/completions", json={"model": "tiny", "messages": messages} | values, timeout=60
    )


def refused(response, status=400):
    """The message of an error in OpenAI's form."""
    assert response.status_code == status, response.text
    return response.json()["error"]["message"]


# --- Addresses ---

NOT_PUBLIC = [
    "http://127.0.0.1:{port}/health",
    "http://localhost:{port}/health",
    "http://[::1]:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://0.0.0.0/",
    "http://10.0.0.1/a.png",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fe80::1]/",
    "http://[fc00::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://public.example@127.0.0.1/",
    "http://224.0.0.1/",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(fetching_server, address):
    response = post(fetching_server, asking("What?", address.format(port=fetching_server.port)))
    assert "its host is not a public one" in refused(response)


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "ftp://example.org/a.png",
        "gopher://x",
        "http://",
        "http://a b/",
        "http:///x",
    ],
)
def test_what_is_no_address(fetching_server, address):
    message = refused(post(fetching_server, asking("What?", address)))
    assert "is no address" in message or "it is no http or https address" in message


def test_a_name_that_leads_to_loopback(fetching_server, monkeypatch):
    whole = socket.getaddrinfo

    def resolved(host, *args, **kwargs):
        return whole("127.0.0.1" if host == "innocent.example" else host, *args, **kwargs)

    monkeypatch.setattr(fetching.socket, "getaddrinfo", resolved)
    message = refused(post(fetching_server, asking("What?", "http://innocent.example/a.png")))
    assert "its host is not a public one" in message


def test_one_private_address_among_public_ones_is_enough(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *args, **kwargs: found)
    with pytest.raises(ApiError, match="its host is not a public one"):
        fetch_public("http://both.example/", 1000, 5)


@pytest.mark.parametrize("ip", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"])
def test_public_addresses(ip):
    assert is_public(ip)


class Site(http.server.BaseHTTPRequestHandler):
    """A public host, in these tests."""

    def do_GET(self):
        content, status, location = b"", 200, None
        match self.path:
            case "/a.png":
                content = base64.b64decode(data_url(picture()).partition(",")[2])
            case "/to_loopback":
                status, location = 302, "http://127.0.0.2/secret"
            case "/to_image":
                status, location = 301, "/a.png"
            case "/around":
                status, location = 302, "/around"
            case "/large":
                content = b"x" * 2 * 2**20
            case "/page":
                content = b"<html>no image</html>"
            case _:
                status = 404
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        try:
            self.wfile.write(content)
        except OSError:
            pass

    def log_message(self, *args):
        pass


@pytest.fixture
def site(monkeypatch):
    """The address of a site on loopback that is taken for public; 127.0.0.2 is not."""
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_public_image_is_fetched(fetching_server, site):
    want = post(fetching_server, asking("What?", data_url(picture()))).json()["choices"]
    for path in ("/a.png", "/to_image"):
        assert post(fetching_server, asking("What?", site + path)).json()["choices"] == want


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/to_loopback", "its host is not a public one"),
        ("/around", "it leads on more than 3 times"),
        ("/large", "it has more than the 1,048,576 bytes allowed"),
        ("/none", "its server answered 404"),
        ("/page", "this is a web page, not an image"),
    ],
)
def test_addresses_that_mislead(fetching_server, site, path, message):
    assert message in refused(post(fetching_server, asking("What?", site + path)))


def test_nothing_is_fetched_unless_it_is_allowed(server, site):
    message = refused(post(server, asking("What?", site + "/a.png")))
    assert "this server fetches no addresses; send the image in base64" in message


# --- Images ---


def png(width, height, rows):
    """A PNG file of so many black pixels, whose data is a few bytes; `rows` of them are really there."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    content = zlib.compress(bytes((1 + width // 8) * rows), 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def in_base64(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (in_base64(png(10_000, 10_000, 10_000)), "10000 x 10000 pixels are more than the 1,000,000 allowed"),
        (in_base64(png(60_000, 60_000, 64)), "pixels"),
        (in_base64(b"<svg onload=alert(1)>"), "this is SVG"),
        (in_base64(b""), "the file is empty"),
        (in_base64(b"\x00" * (2**20 + 1)), "more than the 1,048,576 bytes allowed"),
        ("data:image/png;base64,@@@", "not valid base64"),
        ("data:image/png,abc", "not in base64"),
        (in_base64(b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 30), "this is a video; send pictures"),
        ("data:" + "a" * 1000, "not in base64"),
    ],
)
def test_images_that_are_refused(server, url, message):
    start = time.monotonic()
    assert message in refused(post(server, asking("What?", url)))
    assert time.monotonic() - start < 10


def test_too_many_images(server):
    assert "there are 5 images; at most 4 are taken" in refused(
        post(server, asking("What?", *[data_url(picture())] * 5))
    )


# --- Bodies and connections ---


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"model": "tiny", "messages": ' + b"[" * 100_000,
        b'{"model": "tiny", "messages": [{"role": "user", "content": {"a": 1}}]}',
        b'{"model": 1e999, "messages": []}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 5000 + b"}",
        json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "[UNUSED_TOKEN_146]"}]}).encode(),
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "<ImageHere>"}]}',
    ],
)
def test_bodies_that_are_no_requests(server, body):
    response = requests.post(
        f"{server.url}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}, timeout=30
    )
    assert refused(response)


def test_a_text_that_can_never_fit_meets_no_tokenizer(server, monkeypatch):
    """It would take hundreds of times its memory."""
    monkeypatch.setattr(XComposer2Tokenizer, "encode", lambda *args: 1 / 0)
    response = post(server, asking("a" * 1_500_000))
    monkeypatch.undo()
    assert re.match(r"the messages have at least [\d,]+ tokens, but the model takes 2,048 in all", refused(response))


def test_images_of_few_requests_are_decoded_at_once(server, monkeypatch):
    """Forty megapixels take 120 MB of memory, and some kB of a request."""
    lock, decoding, most = threading.Lock(), 0, 0

    def slowly(content, limits):
        nonlocal decoding, most
        with lock:
            decoding += 1
            most = max(most, decoding)
        time.sleep(0.1)
        with lock:
            decoding -= 1
        return decoded_image(content, limits)

    monkeypatch.setattr(chat_forms, "decoded_image", slowly)
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(post, server, asking("What?", data_url(picture())), max_tokens=1) for _ in range(8)]
        assert {response.result().status_code for response in asked} == {200}
    assert most == app._DECODED_AT_ONCE


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_has_failed_is_no_healthy_server(served, monkeypatch):
    with running([served]) as server:
        assert requests.get(f"{server.url}/health").json()["status"] == "ok"
        monkeypatch.setattr(server.engine, "_admit", lambda: 1 / 0)
        assert refused(post(server, asking("What?")), 500) == "the model failed"
        assert "its log says why" in refused(post(server, asking("What?")), 503)
        assert "its log says why" in refused(requests.get(f"{server.url}/health"), 503)


def test_other_forms_than_json_are_refused(server):
    """A page of another site can send these without being asked for permission."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = requests.post(f"{server.url}/v1/chat/completions", data=b"{}", headers={"Content-Type": kind})
        assert "application/json" in refused(response, 415)


def test_another_host_name_is_refused(server):
    """A name that leads here by another's name server would let a web page in."""
    response = requests.get(f"{server.url}/v1/models", headers={"Host": f"evil.example:{server.port}"})
    assert "localhost only" in refused(response, 403)


def connected(server, *parts):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    for part in parts:
        connection.sendall(part)
    return connection


def answer_to(connection):
    content = b""
    try:
        while chunk := connection.recv(65536):
            content += chunk
            if b"\r\n\r\n" in content:
                break
    except ConnectionResetError:
        pass
    connection.close()
    return content


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_body_of_a_gigabyte_is_not_read(server):
    connection = connected(server, HEAD, b"Content-Length: 1073741824\r\n\r\n", b"{" * 1000)
    assert answer_to(connection).startswith(b"HTTP/1.1 413 ")
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"  # in pieces, without saying how long it is
    connection = connected(server, HEAD, b"Transfer-Encoding: chunked\r\n\r\n")
    try:
        for _ in range(16_384):
            connection.sendall(chunk)
    except OSError:
        pass
    assert answer_to(connection)[:13] in (b"HTTP/1.1 413 ", b"")


def test_a_body_that_comes_too_slowly(server):
    connection = connected(server, HEAD, b"Content-Length: 100\r\n\r\n", b"{")
    start = time.monotonic()
    assert answer_to(connection).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - start < 10


def test_clients_that_never_finish_their_headers_keep_nobody_out(served, monkeypatch):
    monkeypatch.setattr(impatient, "HEADER_SECONDS", 0.5)
    with running([served]) as server:
        slow = [connected(server, HEAD) for _ in range(200)]
        silent = [connected(server) for _ in range(20)]
        assert post(server, asking("What?")).status_code == 200
        for connection in (slow[0], silent[0]):
            assert answer_to(connection).startswith(b"HTTP/1.1 408 ")
        # Also on a connection that had a request before.
        again = connected(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not (received := again.recv(65536)).endswith(b"}"):
            assert received
        again.sendall(b"GET /hea")
        time.sleep(0.2)
        again.sendall(b"lth")
        assert answer_to(again).startswith(b"HTTP/1.1 408 ")
        for connection in (*slow[1:], *silent[1:]):
            connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../../etc/passwd",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/%2e%2e",
        "/%00",
        "/docs",
        "/etc",
    ],
)
def test_paths_lead_nowhere(server, path):
    connection = connected(server, b"GET " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    content = b""
    while b"}" not in content and (chunk := connection.recv(65536)):
        content += chunk
    connection.close()
    assert content.startswith(b"HTTP/1.1 404 ") and b'"error"' in content and b"root:" not in content


def test_html_in_texts_comes_back_as_json(server):
    response = requests.get(f"{server.url}/v1/models/<script>alert(1)<script>")
    assert response.headers["content-type"] == "application/json" and "there is no model" in refused(response, 404)
    assert "GET" in refused(requests.get(f"{server.url}/v1/chat/completions"), 405)


def test_others_reach_it_with_a_key_only():
    check_host("127.0.0.1", None)
    check_host("0.0.0.0", "secret")
    with pytest.raises(ValueError, match="with --host 0.0.0.0 others can reach this server; give it a key"):
        check_host("0.0.0.0", None)


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for given in (port, 65536):
            with pytest.raises(ValueError, match=f"port {given} of 127.0.0.1 can't be listened on; .* --port"):
                check_port("127.0.0.1", given)
        assert main(["serve", "--from_pretrained", "no such model", "--port", str(port)]) == 2
    assert f"port {port} of 127.0.0.1" in capsys.readouterr().err
    check_port("127.0.0.1", port)
