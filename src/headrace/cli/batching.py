"""`headrace batching`: a batching service for workers that connect and ask for jobs."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import socket

    from ..config import Resolved, ServerSettings

FOREVER_S = 1e9
"""Workers come when they come: a service without any is no failed start."""
ANY_ADDRESS = "0.0.0.0"
PORT = 8080
"""Where clients connect unless it is said: as in the original."""
ADDRESS_DOC = (
    "Where workers connect: a socket's path, or host:port with --protocol tcp. The socket is this"
    " user's alone (mode 600; let others in with chmod or chgrp). The protocol knows no secrets and"
    " no encryption: whoever reaches a TCP port gets clients' jobs and answers them, so leave it on"
    " 127.0.0.1 unless the network is trusted."
)
BATCH_BYTES_DOC = (
    "The most bytes of a batch's message. A larger job goes alone. Workers of the original read a"
    " message with one call, for which the default is safe on one machine; between machines 1400"
    " is."
)


def batching(
    address: Annotated[
        str, typer.Option("--address", "-address", help=ADDRESS_DOC)
    ] = "batch.socket",
    protocol: Annotated[
        str, typer.Option("--protocol", "-protocol", help="Of the workers: unix or tcp.")
    ] = "unix",
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            "-host",
            help="The address that clients connect to.",
            show_default=ANY_ADDRESS,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", "-port", help="0 takes a free one.", show_default=str(PORT)),
    ] = None,
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
    batch_bytes: Annotated[int, typer.Option("--batch-bytes", help=BATCH_BYTES_DOC)] = 16384,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, json or text.")] = None,
) -> None:
    """Batch jobs for workers that connect and ask for them, until SIGTERM or ^C.

    Any POST with a body is a job, at any path; GET /metrics, /livez, /readyz and / tell of the
    service. Options may be written with one dash. All else that concerns clients (HTTPS, API keys,
    limits of requests, fairness, the operators' address), the log and the drain are set as for
    `headrace serve`, by HEADRACE_ variables or headrace.toml. Exit codes: 0 after a drain, 2 for a
    wrong option, 3 if an address cannot be had.
    """
    from .. import logs
    from ..config import Batching
    from ..errors import ConfigError
    from ..hosts import PulledJobs
    from ..listener import BindError, address_of, listening
    from ..outlet import say
    from ..server import EXIT_BIND, Server
    from .hangups import Hangups
    from .settings import resolve_settings

    for name, value, least, most in (
        ("batch", batch, 1, 65536),
        ("latency", latency, 0, 60_000),
        ("timeout", timeout, 1, 86_400_000),
        ("capacity", capacity, 1, 1_000_000_000),
        ("batch-bytes", batch_bytes, 1, 200_000_000),
    ):
        if not least <= value <= most:
            raise ConfigError(f"--{name}: expected {least} to {most}, got {value}")
    where = _where(address, protocol)
    flags = {"host": host, "port": port, "log_level": log_level, "log_format": log_format}
    settings = _settings(resolve_settings(flags), capacity, timeout / 1000)
    hangups = Hangups(settings)
    how = Batching(
        max_batch_size=batch,
        max_batch_delay_s=latency / 1000 if fixed_wait else 0.0,
        max_batch_cost=batch_bytes,
    )
    logs.configure(settings.log_level, settings.log_format)
    try:
        with listening(settings) as clients, _listening_for_workers(where) as workers:
            served = address_of(clients, is_tls=settings.tls_cert is not None)
            addresses = f"jobs on {served}, workers on {_shown(workers)}"

            def tell() -> None:
                say(f"headrace batching: {addresses}\n")

            jobs = PulledJobs(workers, how, settings, on_open=tell)
            server = Server([], settings, host=jobs)
            hangups.hand_to(server)
            raise typer.Exit(server.run(clients))
    except BindError as error:
        logging.getLogger(__name__).error(error.message)
        raise typer.Exit(EXIT_BIND) from None


def _settings(resolved: Resolved, capacity: int, timeout_s: float) -> ServerSettings:
    """Those in force, less what they say of models and of workers that are started."""
    found, given = resolved.settings, resolved.values
    return dataclasses.replace(
        found,
        host=found.host if "host" in given else ANY_ADDRESS,
        port=found.port if "port" in given else PORT,
        executor="process",
        replicas=1,
        start_timeout_s=FOREVER_S,
        batching={},
        limits=dataclasses.replace(
            found.limits,
            max_queue_items=capacity,
            request_timeout_s=timeout_s,
            max_request_timeout_s=timeout_s,
        ),
    )


def _where(address: str, protocol: str) -> str | tuple[str, int]:
    """A path, or a host and a port."""
    from ..errors import ConfigError
    from ..executors.trust import parse_address

    if protocol == "unix":
        return address
    if protocol != "tcp":
        raise ConfigError(f"--protocol: expected unix or tcp, got {protocol!r:.64}")
    # Without a host it is every address, as in the original.
    given = f"0.0.0.0{address}" if address.startswith(":") else address
    if not given.rpartition(":")[2].isdecimal() or given.endswith("]"):
        raise ConfigError(f"--address: expected host:port with --protocol tcp, got {address!r:.64}")
    return parse_address(given, where="--address")


@contextlib.contextmanager
def _listening_for_workers(where: str | tuple[str, int]) -> Iterator[socket.socket]:
    """A socket for workers, which is closed at the end, its file removed if it has one.

    Raises:
        BindError: The address cannot be had.
    """
    from ..listener import bind_tcp, bind_unix, is_loopback, remover_of

    if isinstance(where, str):
        mask = os.umask(0o177)
        try:
            listener = bind_unix(where)
        finally:
            os.umask(mask)
    else:
        listener = bind_tcp(*where)
        if not is_loopback(where[0]):
            logging.getLogger(__name__).warning(
                "whoever reaches this address gets clients' jobs and answers them",
                extra={"address": _shown(listener)},
            )
    remove = remover_of(listener)
    try:
        with listener:
            yield listener
    finally:
        remove()


def _shown(listener: socket.socket) -> str:
    """Where workers connect, as they write it."""
    from ..listener import address_of

    return address_of(listener).removeprefix("unix:").removeprefix("http://")
