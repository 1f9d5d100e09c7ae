"""What a front and its workers on other hosts are told of each other, checked before they start."""

from __future__ import annotations

import ssl
from pathlib import Path

from ..config import Workers
from ..credentials import read_secret_file
from ..errors import ConfigError
from ..listener import is_loopback
from ..workers.start import MIN_SECRET_BYTES

DEFAULT_PORT = 7317


def parse_address(text: str, *, where: str) -> tuple[str, int]:
    """A host and a port.

    Raises:
        ConfigError: The text is no such.
    """
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    is_bare = ":" not in host or (host[0] == "[" and host[-1] == "]")
    if not host or not is_bare or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{where}: expected host:port, got {text!r:.64}")
    return host.strip("[]"), int(port)


def read_secret(file: str | None, *, where: str) -> bytes:
    """The secret that a front and its remote workers share.

    Raises:
        ConfigError: There is no such file, everybody may read it, or it holds too little.
    """
    if file is None:
        raise ConfigError(f"{where}: expected a file that holds the shared secret, got none")
    secret = read_secret_file(file, where=where).strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(
            f"{where}: expected at least {MIN_SECRET_BYTES} bytes in {file}, got {len(secret)}"
        )
    return secret


def front_tls(host: str, workers: Workers) -> ssl.SSLContext | None:
    """What a front that listens there shows its workers; None for no TLS.

    Raises:
        ConfigError: The certificate cannot be had, or there is none where one is needed; or
            everybody may read its key.
    """
    if workers.tls_cert is None:
        if not workers.insecure and not is_loopback(host):
            raise ConfigError(
                "workers.listen: beyond loopback expected workers.tls_cert and workers.tls_key, or"
                " workers.insecure=true where the network is trusted"
            )
        return None
    # Without a setting of its own the key is in the certificate's file.
    name = "workers.tls_cert" if workers.tls_key is None else "workers.tls_key"
    read_secret_file(workers.tls_key or workers.tls_cert, where=name)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(workers.tls_cert, workers.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"workers.tls_cert: {workers.tls_cert}: {error}") from None
    return context


def check_trust(host: str, ca: Path | None, is_system: bool, is_insecure: bool) -> str | None:
    """How a worker trusts its front: as `Start.tls`.

    Raises:
        ConfigError: It was not said, or in more than one way, or the file holds no certificates.
    """
    if (ca is not None) + is_system + is_insecure > 1:
        raise ConfigError("expected one of --tls-ca, --tls-system and --insecure, got several")
    if ca is None and not is_system and not is_insecure and not is_loopback(host):
        raise ConfigError(
            "--connect: beyond loopback expected --tls-ca or --tls-system, or --insecure where the"
            " network is trusted"
        )
    if ca is None:
        return "system" if is_system else None
    try:
        ssl.create_default_context(cafile=str(ca))
    except OSError as error:
        raise ConfigError(f"--tls-ca: {ca}: {error}") from None
    return str(ca.absolute())
