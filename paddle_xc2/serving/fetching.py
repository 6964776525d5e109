"""Images behind addresses that strangers give: fetched from public hosts only.

A name is resolved once, and the address that was looked at is the one that is connected to, so that no second answer
of a name server can lead elsewhere. Redirects are followed by hand, each looked at in the same way.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import SplitResult, urljoin, urlsplit

from paddle_xc2.messages import shown
from paddle_xc2.serving.errors import ApiError

_MAX_REDIRECTS = 3
_CHUNK_BYTES = 64 * 1024
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # the last 32 bits are an IPv4 address
_PORTS = {"http": 80, "https": 443}


def fetch_public(url: str, max_bytes: int, seconds: float) -> bytes:
    """What stands behind an http(s) address. Raises: ApiError if it is not public, too large, or can't be had."""
    deadline = time.monotonic() + seconds
    for _ in range(_MAX_REDIRECTS + 1):
        target = _split(url)
        connection = _connection(target, deadline)
        try:
            path = (target.path or "/") + (f"?{target.query}" if target.query else "")
            connection.request("GET", path, headers={"Accept": "image/*", "Accept-Encoding": "identity"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                url = urljoin(url, response.headers.get("Location", ""))
                continue
            if response.status != 200:
                raise _refused(url, f"its server answered {response.status}")
            return _read(connection, response, url, max_bytes, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _refused(url, "it can't be fetched") from error
        finally:
            connection.close()
    raise _refused(url, f"it leads on more than {_MAX_REDIRECTS} times")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet's: not private, loopback, link-local, reserved, nor a disguise
    of one of these in IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.ip_address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _split(url: str) -> SplitResult:
    try:
        target = urlsplit(url)
        target.port  # noqa: B018  (it is looked at when it is asked for)
    except ValueError as error:
        raise _refused(url, "it is no address") from error
    if target.scheme not in _PORTS or not target.hostname or any(ord(sign) <= 32 for sign in url):
        raise _refused(url, "it is no http or https address")
    return target


def _connection(target: SplitResult, deadline: float) -> http.client.HTTPConnection:
    """A connection to the first of a host's addresses; all of them must be public."""
    port = target.port or _PORTS[target.scheme]
    try:
        found = socket.getaddrinfo(target.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _refused(target.geturl(), "its host is not known") from error
    addresses = [entry[4][0] for entry in found]
    if not all(map(is_public, addresses)):
        raise _refused(target.geturl(), "its host is not a public one")
    left = deadline - time.monotonic()
    if left <= 0:
        raise _refused(target.geturl(), "it took too long")
    kind = _PinnedHTTPS if target.scheme == "https" else _Pinned
    return kind(target.hostname, port, addresses[0], left)


class _Pinned(http.client.HTTPConnection):
    """Connects to the given address, whatever its host's name may mean by now."""

    def __init__(self, host: str, port: int, address: str, timeout: float):
        super().__init__(host, port, timeout=timeout)
        self._address = address

    def connect(self):
        self.sock = socket.create_connection((self._address, self.port), self.timeout)


class _PinnedHTTPS(_Pinned):
    default_port = 443

    def connect(self):
        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _read(connection, response, url: str, max_bytes: int, deadline: float) -> bytes:
    content = bytearray()
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _refused(url, "it took too long")
        if connection.sock is not None:  # http.client lets go of it once the end is known
            connection.sock.settimeout(left)
        chunk = response.read1(_CHUNK_BYTES)
        if not chunk:
            return bytes(content)
        content += chunk
        if len(content) > max_bytes:
            raise _refused(url, f"it has more than the {max_bytes:,} bytes allowed")


def _refused(url: str, why: str) -> ApiError:
    return ApiError(400, f"the image at {shown(url, 200)} is not used: {why}", "invalid_image_url", "messages")
