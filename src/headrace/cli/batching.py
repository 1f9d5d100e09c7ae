"""`headrace batching`: a batching service for workers that connect and ask for jobs."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import socket

HOST_DOC = "The address that clients connect to."
FOREVER_S = 1e9
"""Workers come when they come: a service without any is no failed start."""


def batching(
    address: Annotated[
        str,
        typer.Option(
            "--address", "-address", help="Where workers connect: a socket's path, or host:port."
        ),
    ] = "batch.socket",
    protocol: Annotated[
        str, typer.Option("--protocol", "-protocol", help="Of the workers: unix or tcp.")
    ] = "unix",
    host: Annotated[str, typer.Option("--host", "-host", help=HOST_DOC)] = "0.0.0.0",
    port: Annotated[int, typer.Option("--port", "-port", help="0 takes a free one.")] = 8080,
    batch: Annotated[int, typer.Option("--batch", "-batch", help="The most jobs in a batch.")] = 32,
    latency: Annotated[
        int,
        typer.Option(
            "--latency",
            "-latency",
            help="Milliseconds that a batch's first job waits for company, with --fixed-wait.",
        ),
    ] = 10,
    fixed_wait: Annotated[
        bool,
        typer.Option("--fixed-wait", help="Let an underfull batch wait though a worker is free."),
    ] = False,
    capacity: Annotated[
        int, typer.Option("--capacity", "-capacity", help="The most jobs that wait.")
    ] = 1024,
    timeout: Annotated[
        int, typer.Option("--timeout", "-timeout", help="Milliseconds that a job may take.")
    ] = 5000,
    batch_bytes: Annotated[
        int,
        typer.Option(
            "--batch-bytes",
            help="The most bytes of jobs in a batch: a larger job goes alone, and fails where"
            " workers read a message with one call, as those of the original do.",
        ),
    ] = 32768,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, json or text.")] = None,
) -> None:
    """Batch jobs for workers that connect and ask for them, until SIGTERM or ^C.

    Any POST with a body is a job, at any path; GET /metrics, /livez, /readyz and / tell of the
    service. Options may be written with one dash. Exit codes: 0 after a drain, 2 for a wrong
    option, 3 if an address cannot be had.
    """
    from .. import logs
    from ..config import Batching, Limits, ServerSettings
    from ..errors import ConfigError
    from ..executors.trust import parse_address
    from ..hosts import PulledJobs
    from ..listener import BindError, address_of, bind_tcp, bind_unix, listening
    from ..server import EXIT_BIND, Server
    from .settings import resolve_settings

    if protocol not in ("unix", "tcp"):
        raise ConfigError(f"--protocol: expected unix or tcp, got {protocol!r}")
    for name, value, least in (
        ("latency", latency, 0),
        ("timeout", timeout, 1),
        ("capacity", capacity, 1),
        ("batch-bytes", batch_bytes, 1),
    ):
        if value < least:
            raise ConfigError(f"--{name}: expected at least {least}, got {value}")
    listen: functools.partial[socket.socket]
    if protocol == "unix":
        listen = functools.partial(bind_unix, address)
    else:
        listen = functools.partial(bind_tcp, *parse_address(address, where="--address"))
    flags = {"host": host, "port": port, "log_level": log_level, "log_format": log_format}
    found = resolve_settings(flags).settings
    timeout_s = timeout / 1000
    settings = ServerSettings(
        host=host,
        port=port,
        start_timeout_s=FOREVER_S,
        log_level=found.log_level,
        log_format=found.log_format,
        drain_delay_s=found.drain_delay_s,
        drain_timeout_s=found.drain_timeout_s,
        limits=Limits(
            max_queue_items=capacity,
            request_timeout_s=timeout_s,
            max_request_timeout_s=timeout_s,
        ),
    )
    how = Batching(
        max_batch_size=batch,
        max_batch_delay_s=latency / 1000 if fixed_wait else 0.0,
        cost="bytes",
        max_batch_cost=batch_bytes,
    )
    logs.configure(settings.log_level, settings.log_format)
    try:
        with listening(settings) as listener:
            server = Server([], settings, host=PulledJobs(listen, how, settings))
            typer.echo(f"headrace batching: jobs on {address_of(listener)}, workers on {address}")
            raise typer.Exit(server.run(listener))
    except BindError as error:
        logging.getLogger(__name__).error(error.message)
        raise typer.Exit(EXIT_BIND) from None
