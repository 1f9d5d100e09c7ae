"""`headrace worker`: serve a model for a server on another host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .settings import resolve_settings


def worker(
    target: Annotated[str, typer.Argument(help="module:Name or path.py:Name")],
    connect: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the server has its workers.listen.")
    ],
    model: Annotated[
        str, typer.Option(help="Which of the target's models; default its first.")
    ] = "",
    secret_file: Annotated[
        str | None, typer.Option(help="The secret that is shared with the server.")
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="TLS, trusting the certificates in this file.")
    ] = None,
    tls_system: Annotated[
        bool, typer.Option("--tls-system", help="TLS, trusting those of the system.")
    ] = False,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="No TLS: the network is trusted.")
    ] = None,
    devices: Annotated[str | None, typer.Option(help="CUDA devices, such as 0 or 0+1.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of numeric libraries; 0 takes all cores.")
    ] = None,
    niceness: Annotated[int | None, typer.Option(help="How much it gives way to others.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, json or text.")] = None,
    config: Annotated[Path | None, typer.Option(help="A settings file.")] = None,
) -> None:
    """Serve a model for `headrace serve --executor remote` on another host, until SIGTERM or ^C.

    Exit codes: 0 when told to stop, 2 for a wrong setting or target, 4 if the model did not
    become ready.
    """
    flags = {
        "workers.secret_file": secret_file,
        "workers.insecure": insecure,
        "workers.devices": devices,
        "workers.threads": threads,
        "workers.niceness": niceness,
        "log_level": log_level,
        "log_format": log_format,
    }
    settings = resolve_settings(flags, (), config).settings
    from .. import logs
    from ..executors.keeper import Keeper, Remote
    from ..executors.trust import check_trust, parse_address, read_secret

    address = parse_address(connect, where="--connect")
    secret = read_secret(settings.workers.secret_file, where="--secret-file")
    tls = check_trust(address[0], tls_ca, tls_system, settings.workers.insecure)
    logs.configure(settings.log_level, settings.log_format)
    remote = Remote(address, secret, tls, model)
    raise typer.Exit(Keeper(target, remote, settings).run())
