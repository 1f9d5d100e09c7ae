"""Whose a request is, and how urgent, as far as its head and its connection say."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from ..config import Fairness
from ..errors import InvalidHeader, clip

MAX_CLIENT_CHARS = 256
"""The longest name of a client."""

PRIORITY = "x-request-priority"

_NETWORK_BITS = 64
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")


def client_of(headers: Mapping[str, str], fairness: Fairness, key: str | None = None) -> str | None:
    """The client that a request's head names, if the settings say where.

    Who brings a key may say for whom: clients of two keys are two, whatever they are called.

    Args:
        headers: By name in lower case.
        fairness: What tells clients apart.
        key: The name of the request's API key.

    Raises:
        InvalidHeader: The name is too long.
    """
    header = fairness.client_header
    if header is None:
        return key
    name = headers.get(header, "").strip()
    if len(name) > MAX_CLIENT_CHARS:
        raise InvalidHeader(
            f"{header}: expected at most {MAX_CLIENT_CHARS} characters, got {len(name)}"
        )
    if not name:
        return key
    return name if key is None else f"{key} {name}"


def priority_of(headers: Mapping[str, str], fairness: Fairness) -> int:
    """The priority that a request asks for, within the bounds of the settings.

    Raises:
        InvalidHeader: X-Request-Priority is no integer, and is looked at.
    """
    lowest, highest = fairness.lowest_priority, fairness.highest_priority
    text = headers.get(PRIORITY)
    if text is None or lowest == highest:
        return 0
    if not _INTEGER.fullmatch(text.strip()):
        raise InvalidHeader(f"X-Request-Priority: expected an integer, got '{clip(text)}'")
    return max(lowest, min(int(text), highest))


def client_at(host: str) -> str:
    """The client at an address: the address, or the network of an IPv6 one.

    >>> client_at("192.0.2.7"), client_at("::ffff:192.0.2.7"), client_at("2001:db8::7")
    ('192.0.2.7', '192.0.2.7', '2001:db8::/64')
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _NETWORK_BITS), strict=False))
