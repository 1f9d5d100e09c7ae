"""`headrace openapi`: the OpenAPI document, without serving."""

from __future__ import annotations

from typing import Annotated

import typer


def openapi(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET...", help="module:Name or path.py:Name")
    ],
) -> None:
    """Print the OpenAPI document of a server of these models."""
    import msgspec

    from ..config import ServerSettings
    from ..hosts import OwnProcess
    from ..http.openapi import openapi_document
    from ..version import __version__

    host = OwnProcess(targets, ServerSettings(executor="thread"))
    document = openapi_document(host.cards, version=__version__)
    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
