"""Where requests go, and the bytes that they begin with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from ..errors import ConfigError, clip

_PORTS = {"http": 80, "https": 443}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS = {"content-length", "transfer-encoding", "connection"}


class Destination(NamedTuple):
    """What a URL says.

    Attributes:
        is_tls: Whether it is https.
        host: The name or address to connect to.
        port: The port.
        authority: What the Host header says.
        path: Path and query, as the request line has them.
    """

    is_tls: bool
    host: str
    port: int
    authority: str
    path: str


def destination(url: str) -> Destination:
    """Read a URL.

    Raises:
        ConfigError: It is no http or https URL with a host, or has a user name in it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        # A name of other letters, as DNS has it; an address comes out as it is.
        host = host.encode("idna").decode() if host and not host.isascii() else host
    except (ValueError, UnicodeError) as error:
        raise ConfigError(f"url: expected a URL, got {clip(url)}: {error}") from None
    if parts.scheme not in _PORTS or not host:
        raise ConfigError(f"url: expected http://HOST or https://HOST, got {clip(url)}")
    if "@" in parts.netloc:
        raise ConfigError("url: expected no user name or password in it; send a header instead")
    if not host.isprintable() or " " in host:
        raise ConfigError(f"url: expected a host name, got {clip(host)}")
    authority = f"[{host}]" if ":" in host else host
    if port is not None:
        authority += f":{port}"
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    if parts.query:
        target += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~")
    is_tls = parts.scheme == "https"
    return Destination(is_tls, host, port or _PORTS[parts.scheme], authority, target)


def post_head(to: Destination, headers: Mapping[str, str]) -> bytes:
    """The head of a POST request up to where the body's length is to be written.

    Raises:
        ConfigError: A header has a name or value that HTTP does not allow, or is one that
            follows from the body.
    """
    fields = {"Host": to.authority, "Content-Type": "application/json", "Accept": "*/*"}
    ours = {name.lower(): name for name in fields}
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
            raise ConfigError(f"headers: expected a header to send, got the name {clip(name)}")
        if not _FIELD_VALUE.fullmatch(value):
            raise ConfigError(f"headers: {name}: expected one line of Latin-1, got {clip(value)}")
        fields.pop(ours.get(name.lower(), ""), None)
        fields[name] = value
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {to.path} HTTP/1.1\r\n{lines}Content-Length: ".encode("latin-1")
