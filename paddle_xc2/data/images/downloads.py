"""Images behind http(s) addresses, or written into a record: put into a folder once, from then on read from there."""

from __future__ import annotations

import base64
import hashlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.images.pictures import MAX_FILE_BYTES, ImageError, image_size_of
from paddle_xc2.data.images.video import is_video
from paddle_xc2.files.durable import delete_abandoned, written_aside
from paddle_xc2.messages import shown

CACHE_VARIABLE = "PADDLE_XC2_CACHE"
TIMEOUT_SECONDS = 30.0

_CHUNK_BYTES = 64 * 1024


class DownloadError(DataError):
    """An image that could not be fetched."""

    rule = "image missing"


def is_url(reference: str) -> bool:
    """Whether an image is named by an http(s) address rather than a path."""
    return reference.lower().startswith(("http://", "https://"))


def is_data_url(reference: str) -> bool:
    """Whether an image is written out in its name: "data:image/png;base64,iVBORw0..."."""
    return reference[:5].lower() == "data:"


def default_image_folder() -> Path:
    """Where fetched images are kept: $PADDLE_XC2_CACHE/images, else ~/.cache/paddle_xc2/images."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "paddle_xc2") / "images"


class ImageCache:
    """A folder of images fetched from the network, one file per address.

    Args:
        folder: None is `default_image_folder()`.
        timeout: seconds that one image may take in all.
        max_bytes: size up to which an image is fetched.
    """

    def __init__(self, folder=None, timeout: float = TIMEOUT_SECONDS, max_bytes: int = MAX_FILE_BYTES):
        self.folder = Path(folder) if folder else default_image_folder()
        self.timeout = timeout
        self.max_bytes = max_bytes
        self._tidied = False
        self._unreachable: dict[str, str] = {}  # host -> why, so that offline each host is waited for once

    def path_of(self, url: str) -> Path:
        """Where the image of `url` is kept once it is fetched: its hash, then its last part to know it by."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", re.split("[?#]", url)[0].rsplit("/", 1)[-1])[-60:]
        digest = hashlib.sha256(url.encode("utf-8", "backslashreplace")).hexdigest()
        return self.folder / f"{digest[:32]}-{name or 'image'}"

    def fetch(self, url: str, source: str = "") -> Path:
        """Path of the image of `url`; fetches it if it is not there yet.

        Args:
            source: where the image was asked for, for messages: "train.json[17]".
        Raises: DownloadError if it can't be had, is too large, takes too long or is no image. Nothing is kept then.
        """
        path = self.path_of(url)
        if path.is_file():
            return path
        name = f"{source}: {shown(url, 500)}" if source else shown(url, 500)
        content = self._get(url, name)
        _check_is_image(content, name)
        self._keep(content, path, name)
        return path

    def unpack(self, data_url: str, source: str = "") -> Path:
        """Path of the image that is written out in a "data:" address, named by its content.

        Raises: DownloadError if it is not base64, too large or no image.
        """
        head, comma, body = data_url.partition(",")
        name = f"{source}: {data_url[:30]}..." if source else f"{data_url[:30]}..."
        if not comma or not head.lower().endswith(";base64"):
            raise DownloadError(f'{name}: this is not in base64; write "data:image/png;base64," and the image')
        if len(body) * 3 // 4 > self.max_bytes:
            raise DownloadError(f"{name}: more than the {self.max_bytes:,} bytes allowed; use a smaller image")
        try:
            content = base64.b64decode(body, validate=True)
        except ValueError as error:
            raise DownloadError(f"{name}: this is not valid base64 ({error}); write the image as a file") from error
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:32]}-data"
        if not path.is_file():
            _check_is_image(content, name, "the address holds")
            self._keep(content, path, name)
        return path

    def _keep(self, content: bytes, path: Path, name: str) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._tidied:
                delete_abandoned(self.folder)
                self._tidied = True
            with written_aside(path, by_several=True) as aside:
                aside.write_bytes(content)
        except OSError as error:
            raise DownloadError(
                f"{name}: {self.folder} can't be written ({error.strerror}); let {CACHE_VARIABLE} name another folder"
            ) from error

    def _get(self, url: str, name: str) -> bytes:
        import requests  # here, because most data sets need no network

        host = url.split("/")[2]
        if host in self._unreachable:
            raise DownloadError(_unreachable(name, self._unreachable[host]))
        try:
            return _within(self.timeout, lambda: self._fetched(url, name))
        except requests.ConnectionError as error:
            self._unreachable[host] = _innermost(error)
            raise DownloadError(_unreachable(name, self._unreachable[host])) from error
        except (requests.Timeout, TimeoutError) as error:
            raise DownloadError(self._too_slow(name)) from error
        except DownloadError:
            raise
        except (requests.RequestException, ValueError) as error:  # ValueError: of what can't be a host's name
            raise DownloadError(f"{name}: this can't be fetched ({_innermost(error)}); correct the address") from error

    def _fetched(self, url: str, name: str) -> bytes:
        import requests

        deadline = time.monotonic() + self.timeout
        with requests.get(url, stream=True, timeout=self.timeout) as response:
            return self._read(response, name, deadline)

    def _read(self, response, name: str, deadline: float) -> bytes:
        import requests

        if response.status_code != requests.codes.ok:
            raise DownloadError(
                f"{name}: the server answered {response.status_code} {response.reason}; correct the address"
            )
        content = bytearray()
        try:
            for chunk in response.iter_content(_CHUNK_BYTES):
                content += chunk
                if len(content) > self.max_bytes:
                    raise DownloadError(f"{name}: more than the {self.max_bytes:,} bytes allowed; use a smaller image")
                if time.monotonic() > deadline:  # nobody waits any more
                    raise DownloadError(self._too_slow(name))
        except requests.RequestException as error:
            raise DownloadError(f"{name}: the transfer broke off ({_innermost(error)}); try again") from error
        return bytes(content)

    def _too_slow(self, name: str) -> str:
        return f"{name}: not there after {self.timeout:g} seconds; try again, or save the image and write its path"


def _within(seconds: float, work: Callable[[], bytes]) -> bytes:
    """What `work` returns. Raises: what it raises; TimeoutError if it takes longer, and it is left to itself then.

    A time limit of `requests` begins anew with every byte: a server that drips would be waited for without end.
    """
    done: queue.SimpleQueue = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except Exception as error:
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        content, error = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return content


def _unreachable(name: str, reason: str) -> str:
    return f"{name}: the server can't be reached ({reason}); check the network, or save the image and write its path"


def _check_is_image(content: bytes, name: str, who: str = "the server sent") -> None:
    if is_video(content):
        return
    try:
        image_size_of(content)
    except ImageError as error:
        raise DownloadError(f"{name}: {who} no image that can be used; correct the address") from error


def _innermost(error: BaseException) -> str:
    """The reason at the bottom: the libraries wrap it four deep and repeat the address each time."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return str(error) or type(error).__name__
