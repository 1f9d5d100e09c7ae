"""`headrace serve`: serve models over HTTP."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import env_name
from .hangups import Hangups
from .settings import resolve_settings

if TYPE_CHECKING:
    from ..server import Server


def serve(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="TARGET...", help="module:Name or path.py:Name")
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="The port; 0 takes a free one.")] = None,
    uds: Annotated[str | None, typer.Option(help="A Unix socket's path instead.")] = None,
    executor: Annotated[
        str | None, typer.Option(help="process, thread, inline or remote: where batches run.")
    ] = None,
    replicas: Annotated[int | None, typer.Option(help="Copies of each model.")] = None,
    devices: Annotated[
        str | None, typer.Option(help="CUDA devices, such as 0,1: one a replica.")
    ] = None,
    max_batch_size: Annotated[
        int | None, typer.Option(help="In place of each model's own.")
    ] = None,
    max_batch_delay_s: Annotated[
        float | None, typer.Option(help="In place of each model's own.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, json or text.")] = None,
    config: Annotated[Path | None, typer.Option(help="A settings file.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting, see `headrace config`."),
    ] = None,
) -> None:
    """Serve models over HTTP until SIGTERM or ^C.

    Exit codes: 0 after a drain, 2 for a wrong setting or target, 3 if the address cannot be had,
    4 if a model did not become ready, 5 if a replica hung.
    """
    flags = {
        "host": host,
        "port": port,
        "uds": uds,
        "executor": executor,
        "replicas": replicas,
        "workers.devices": devices,
        "batching.max_batch_size": max_batch_size,
        "batching.max_batch_delay_s": max_batch_delay_s,
        "log_level": log_level,
        "log_format": log_format,
    }
    settings = resolve_settings(flags, assignments or (), config).settings
    hangups = Hangups(settings)
    # Models may run in this process, too.
    os.environ.pop(env_name("auth.keys"), None)
    from .. import logs
    from ..listener import BindError, listening
    from ..server import EXIT_BIND, Server

    logs.configure(settings.log_level, settings.log_format)
    try:
        # First of all: a second server on the address fails before it imports a large model.
        with listening(settings) as listener:
            server = Server(list(targets or ()), settings, on_ready=_tell)
            hangups.hand_to(server)
            exit_code = server.run(listener)
    except BindError as error:
        logging.getLogger(__name__).error(error.message)
        raise typer.Exit(EXIT_BIND) from None
    # The drain is over; another signal shall not end what is left of the process by itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if server.is_stuck:
        # Threads of the model's own would keep the interpreter from ending.
        logging.shutdown()
        os._exit(exit_code)
    raise typer.Exit(exit_code)


def _tell(server: Server) -> None:
    """Say what is served where."""
    from ..outlet import say
    from ..version import __version__

    settings, address = server.settings, server.address
    one, several = {
        "process": ("in a worker process", f"in {settings.replicas} worker processes"),
        "thread": ("on a thread", f"on {settings.replicas} threads"),
        "inline": ("on the event loop", ""),
        "remote": ("in workers of other hosts", "in workers of other hosts"),
    }[settings.executor]
    where = one if settings.replicas == 1 else several
    lines = [f"headrace {__version__} is ready on {address}"]
    for card in server.cards:
        batch = card.batching.max_batch_size
        lines.append(
            f"  {card.name}: POST /models/{card.name}/predict, {where}, batches of {batch}"
        )
    metrics = f"{server.admin_address or address}/metrics"
    lines.append(f"  API pages: {address}/docs   metrics: {metrics}   stop: ^C")
    # Whether or not somebody reads it, serving goes on.
    say("\n".join(lines) + "\n")
