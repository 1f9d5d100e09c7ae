"""What HTTPS is served with: a certificate, and what is asked of clients."""

from __future__ import annotations

import ssl
from pathlib import Path

from .config import ServerSettings
from .credentials import read_secret_file
from .errors import ConfigError

_LEAST = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def tls_context(settings: ServerSettings) -> ssl.SSLContext | None:
    """What HTTPS is served with; None for HTTP.

    Raises:
        ConfigError: A file is missing, cannot be read, or is not what it should be; the key, or its
            password, may be read by everybody; or there is something for HTTPS, and no certificate.
    """
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None and key is None:
        for name in ("tls_client_ca", "tls_ciphers", "tls_key_password_file"):
            if getattr(settings, name) is not None:
                raise ConfigError(f"{name}: expected tls_cert and tls_key as well, got neither")
        return None
    if cert is None or key is None:
        given = "tls_key" if cert is None else "tls_cert"
        raise ConfigError(f"tls_cert, tls_key: expected both or neither, got {given} alone")
    _check_certificates(cert, where="tls_cert")
    read_secret_file(key, where="tls_key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _LEAST[settings.tls_min_version]
    context.set_alpn_protocols(["http/1.1"])
    if settings.tls_ciphers is not None:
        try:
            context.set_ciphers(settings.tls_ciphers)
        except ssl.SSLError:
            raise ConfigError("tls_ciphers: expected names that OpenSSL knows") from None
    _load(context, settings, cert, key)
    if settings.tls_client_ca is not None:
        _check_certificates(settings.tls_client_ca, where="tls_client_ca")
        context.load_verify_locations(settings.tls_client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def renew(context: ssl.SSLContext, settings: ServerSettings) -> None:
    """Read a certificate and its key again: new connections are shown what is there now.

    Raises:
        ConfigError: As `tls_context`; then nothing has changed.
    """
    tls_context(settings)  # by itself: a key that does not fit would leave half of the change
    assert settings.tls_cert is not None and settings.tls_key is not None
    _load(context, settings, settings.tls_cert, settings.tls_key)


def _load(context: ssl.SSLContext, settings: ServerSettings, cert: str, key: str) -> None:
    """Have a context show a certificate."""
    # Without a password the library would ask for one on the terminal.
    password, expected = b"", "and without a password"
    if settings.tls_key_password_file is not None:
        where = "tls_key_password_file"
        password = read_secret_file(settings.tls_key_password_file, where=where)
        expected = "under that password"
    try:
        context.load_cert_chain(cert, key, password=password.strip())
    except ssl.SSLError as error:
        reason = error.reason or "no such key"
        raise ConfigError(
            f"tls_key: expected the certificate's own key, in PEM {expected}, got {key}: {reason}"
        ) from None


def _check_certificates(file: str, *, where: str) -> None:
    """Raise a ConfigError unless a file can be read, and holds certificates."""
    try:
        with Path(file).open("rb"):
            pass
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
    except ssl.SSLError:
        raise ConfigError(f"{where}: expected a certificate in PEM, got {file}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such file"
        raise ConfigError(f"{where}: {file}: {reason}") from None
