"""API keys: secrets with names, of which only digests are kept."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

from .errors import ConfigError

MIN_SECRET_CHARS = 16
"""A shorter secret could be guessed."""

EXPECTED = "name:secret or name:sha256:hex digits"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECRET = re.compile(r"[!-~]+")
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")


class Keys:
    """The keys that a server takes. A name may have several, as while one replaces another.

    Attributes:
        names: Whose keys these are.

    Args:
        entries: As `digested` gives them.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        pairs = (entry.split(":sha256:") for entry in entries)
        self._digests = tuple((name, bytes.fromhex(digest)) for name, digest in pairs)
        self.names = frozenset(name for name, _ in self._digests)

    def find(self, secret: str) -> str | None:
        """Whose key this is; None if it is nobody's.

        It takes as long for each secret of one length: a client learns nothing from the time.
        """
        found = None
        digest = hashlib.sha256(secret.encode()).digest()
        for name, other in self._digests:
            if hmac.compare_digest(digest, other):
                found = name
        return found


def digested(entry: str, *, where: str) -> str:
    """A key as it is kept: `name:sha256:` and the digest of the secret.

    Args:
        entry: Such, or `name:secret`.
        where: What an error calls it; the entry itself is never repeated.

    Raises:
        ConfigError: It is neither, or the secret is too short.
    """
    name, colon, secret = entry.partition(":")
    if not colon or not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: expected {EXPECTED}")
    given = _DIGEST.fullmatch(secret)
    if given is not None:
        return f"{name}:sha256:{given[1].lower()}"
    if secret.startswith("sha256:"):
        raise ConfigError(f"{where}: expected 64 hex digits behind sha256:")
    if not _SECRET.fullmatch(secret) or len(secret) < MIN_SECRET_CHARS:
        raise ConfigError(
            f"{where}: expected a secret of at least {MIN_SECRET_CHARS} visible ASCII characters"
        )
    return f"{name}:sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


def digested_lines(text: str, *, where: str) -> list[str]:
    """The keys in a file's text: one a line; blank lines and those that begin with # are none.

    Raises:
        ConfigError: A line is no key, or there is none at all.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            found.append(digested(entry, where=f"{where}, line {number}"))
    if not found:
        raise ConfigError(f"{where}: expected at least one key, got none")
    return found
