"""The files of secrets, read when a command starts and when it is told that they changed."""

from __future__ import annotations

import os
import stat

from .auth import Keys, digested_lines
from .config import Auth, ServerSettings
from .errors import ConfigError

MAX_FILE_BYTES = 1024 * 1024

_KEYS_FILE = "auth.keys_file"


def read_keys(auth: Auth) -> Keys | None:
    """The keys that requests must bring; None where none are asked for.

    Raises:
        ConfigError: The file cannot be read, may be read by everybody, or holds something else.
    """
    entries = list(auth.keys)
    if auth.keys_file is not None:
        try:
            text = read_secret_file(auth.keys_file, where=_KEYS_FILE).decode()
        except UnicodeDecodeError:
            raise ConfigError(f"{_KEYS_FILE}: {auth.keys_file}: no file of text") from None
        entries += digested_lines(text, where=_KEYS_FILE)
    return Keys(entries) if entries else None


def can_reload(settings: ServerSettings) -> bool:
    """Whether a server has files of secrets, which may change while it serves."""
    return settings.auth.keys_file is not None or settings.tls_cert is not None


def read_secret_file(file: str, *, where: str) -> bytes:
    """What a file holds that other users of the machine must not read, or put in its place.

    Args:
        file: Its path; a link is followed.
        where: What an error calls it.

    Raises:
        ConfigError: It cannot be read, is no file, is too large, or others may read or change it.
    """
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as opened:
            _check(os.fstat(opened.fileno()), file, where)
            return opened.read()
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or "no such file"
        raise ConfigError(f"{where}: {file}: {reason}") from None


def _check(status: os.stat_result, file: str, where: str) -> None:
    """Raise a ConfigError unless a file is one for secrets."""
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{where}: {file}: expected a file")
    if status.st_mode & stat.S_IRWXO:
        raise ConfigError(
            f"{where}: {file}: expected a file that others may not read or change, got mode"
            f" {stat.S_IMODE(status.st_mode):04o}; run chmod 600 {file}"
        )
    if status.st_size > MAX_FILE_BYTES:
        raise ConfigError(f"{where}: {file}: expected at most {MAX_FILE_BYTES} bytes")
