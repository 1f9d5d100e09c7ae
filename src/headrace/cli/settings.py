"""Where the commands get their settings: flags over environment over file over defaults."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import (
    Resolved,
    from_environment,
    from_flags,
    from_table,
    resolve,
)
from ..errors import ConfigError

FILE_VARIABLE = "HEADRACE_CONFIG"
DEFAULT_FILE = "headrace.toml"


def resolve_settings(
    flags: Mapping[str, Any], assignments: Sequence[str] = (), file: Path | None = None
) -> Resolved:
    """The settings in force for a command.

    Args:
        flags: By dotted key; None where not given.
        assignments: `key=value` texts of `--set`.
        file: Of `--config`; else HEADRACE_CONFIG's, else `headrace.toml` if there is one here.

    Raises:
        ConfigError: A setting is unknown or has a value that it cannot have.
    """
    given = file or os.environ.get(FILE_VARIABLE)
    path = Path(given or DEFAULT_FILE)
    table = _read(path) if given or path.is_file() else {}
    return resolve(
        [
            from_table(table, file=str(path)),
            from_environment(os.environ, ignore=[FILE_VARIABLE]),
            from_flags(flags, assignments),
        ]
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
