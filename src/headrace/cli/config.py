"""`headrace config`: every setting, its value, and where that came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .settings import resolve_settings


def config(
    file: Annotated[Path | None, typer.Option("--config", help="A settings file.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting.")
    ] = None,
) -> None:
    """Show every setting, its value, and where that came from."""
    from rich.console import Console
    from rich.table import Table

    from ..config import known_settings

    resolved = resolve_settings({}, assignments or (), file)
    table = Table("setting", "value", "from", "meaning", box=None, pad_edge=False)
    for key, declared in known_settings().items():
        is_set = key in resolved.values
        value = resolved.values[key] if is_set else declared.default
        origin = resolved.origins.get(key, "default")
        if key.startswith("batching.") and not is_set:
            origin = "each model's own, or default"
        shown = "not set" if value is None else str(value)
        if declared.is_secret:
            shown = f"{len(value)} keys"
        table.add_row(key, shown, origin, declared.doc)
    Console(soft_wrap=False).print(table)
