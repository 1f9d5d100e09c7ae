"""The files of a server's secrets, read when it starts and when it is told that they changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .auth import Keys, digested_lines
from .config import Auth
from .errors import ConfigError

MAX_FILE_BYTES = 1024 * 1024


def read_keys(auth: Auth) -> Keys | None:
    """The keys that requests must bring; None where none are asked for.

    Raises:
        ConfigError: The file cannot be read, may be read by everybody, or holds something else.
    """
    entries = list(auth.keys)
    if auth.keys_file is not None:
        entries += digested_lines(_read(auth.keys_file), where="auth.keys_file")
    return Keys(entries) if entries else None


def _read(file: str) -> str:
    where = "auth.keys_file"
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{where}: {file}: expected a file")
            if status.st_mode & stat.S_IRWXO:
                mode = f"{stat.S_IMODE(status.st_mode):04o}"
                raise ConfigError(
                    f"{where}: {file}: expected a file that others may not read or change (as"
                    f" after chmod 600), got mode {mode}"
                )
            if status.st_size > MAX_FILE_BYTES:
                raise ConfigError(f"{where}: {file}: expected at most {MAX_FILE_BYTES} bytes")
            return opened.read()
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file of text"
        raise ConfigError(f"{where}: {Path(file)}: {reason}") from None
