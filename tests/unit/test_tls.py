"""What HTTPS is served with, checked before anything starts."""

from __future__ import annotations

import dataclasses
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from headrace import ServerSettings
from headrace.errors import ConfigError
from headrace.tls import renew, tls_context

UMLAUT = "geheim-\u00e4\u20ac"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two certificates and their keys, and a key with a password."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("one", "other"):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl("req", "-x509", *curve, *files, "-days", "2")
    for name, password in (("locked", "secret"), ("umlaut", UMLAUT)):
        locked = ["-out", f"{name}.key", "-aes128", "-passout", f"pass:{password}"]
        openssl("ec", "-in", "one.key", *locked)
    (folder / "empty").touch()
    (folder / "binary").write_bytes(bytes(range(256)))
    both = (folder / "one.pem").read_text() + (folder / "one.key").read_text()
    (folder / "both.pem").write_text(both)
    for path in folder.iterdir():
        path.chmod(0o600)
    return folder


def tls(folder: Path, cert: str | None, key: str | None) -> ServerSettings:
    named = [None if name is None else str(folder / name) for name in (cert, key)]
    return ServerSettings(tls_cert=named[0], tls_key=named[1])


def test_a_certificate_and_its_key_are_enough_for_https(certificates: Path) -> None:
    assert tls_context(tls(certificates, "one.pem", "one.key"))
    assert tls_context(tls(certificates, "both.pem", "both.pem"))
    assert not tls_context(ServerSettings())


@pytest.mark.parametrize(
    ("cert", "key", "told"),
    [
        ("one.pem", None, "tls_cert, tls_key: expected both or neither, got tls_cert alone"),
        (None, "one.key", "tls_cert, tls_key: expected both or neither, got tls_key alone"),
        ("none", "one.key", "tls_cert: {}/none: No such file or directory"),
        ("one.pem", "none", "tls_key: {}/none: No such file or directory"),
        ("", "one.key", "tls_cert: {}: Is a directory"),
        ("empty", "one.key", "tls_cert: expected a certificate in PEM, got {}/empty"),
        ("binary", "one.key", "tls_cert: expected a certificate in PEM, got {}/binary"),
        ("one.key", "one.key", "tls_cert: expected a certificate in PEM, got {}/one.key"),
        ("one.pem", "one.pem", "tls_key: expected the certificate's own key"),
        ("one.pem", "empty", "tls_key: expected the certificate's own key"),
        ("one.pem", "other.key", "got {}/other.key: KEY_VALUES_MISMATCH"),
        ("one.pem", "locked.key", "in PEM and without a password, got {}/locked.key"),
    ],
)
def test_what_is_no_certificate_with_its_key_is_told(
    certificates: Path, cert: str | None, key: str | None, told: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        tls_context(tls(certificates, cert, key))
    assert told.format(certificates) in raised.value.message


def test_a_key_with_a_password_needs_that_in_a_file(certificates: Path) -> None:
    for name, password in (("password", "secret\n"), ("wrong", "guess\n"), ("umlauts", UMLAUT)):
        (certificates / name).write_text(password)
        (certificates / name).chmod(0o600)
    plain = tls(certificates, "one.pem", "locked.key")

    def given(name: str) -> ServerSettings:
        file = str(certificates / name)
        return dataclasses.replace(plain, tls_key_password_file=file)

    assert tls_context(given("password"))
    with pytest.raises(ConfigError, match="under that password") as raised:
        tls_context(given("wrong"))
    assert "guess" not in raised.value.message
    with pytest.raises(ConfigError, match=r"tls_key_password_file: .*No such file"):
        tls_context(given("nowhere"))
    other = tls(certificates, "one.pem", "umlaut.key")
    file = str(certificates / "umlauts")
    assert tls_context(dataclasses.replace(other, tls_key_password_file=file))


@pytest.mark.parametrize("name", ["tls_key", "tls_key_password_file"])
def test_a_key_or_its_password_that_others_may_read_is_refused(
    certificates: Path, tmp_path: Path, name: str
) -> None:
    for file, text in (("key", (certificates / "locked.key").read_text()), ("password", "secret")):
        (tmp_path / file).write_text(text)
        (tmp_path / file).chmod(0o600)
    settings = dataclasses.replace(
        tls(certificates, "one.pem", str(tmp_path / "key")),
        tls_key_password_file=str(tmp_path / "password"),
    )
    assert tls_context(settings)
    Path(getattr(settings, name)).chmod(0o644)
    with pytest.raises(ConfigError, match=rf"^{name}: .*got mode 0644; run chmod 600 "):
        tls_context(settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tls_ciphers": "nonsense"}, "tls_ciphers: expected names that OpenSSL knows"),
        ({"tls_client_ca": "one.key"}, "tls_client_ca: expected a certificate in PEM"),
        ({"tls_client_ca": "nowhere"}, "tls_client_ca: .*No such file"),
    ],
)
def test_a_wrong_option_is_named(
    certificates: Path, settings: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(certificates)
    plain = tls(certificates, "one.pem", "one.key")
    with pytest.raises(ConfigError, match=told):
        tls_context(dataclasses.replace(plain, **settings))


@pytest.mark.parametrize("name", ["tls_client_ca", "tls_ciphers", "tls_key_password_file"])
def test_an_option_without_a_certificate_is_a_mistake(name: str) -> None:
    options: dict[str, Any] = {name: "x"}
    with pytest.raises(ConfigError, match=f"{name}: expected tls_cert and tls_key as well"):
        tls_context(ServerSettings(**options))


def test_the_options_are_those_of_the_context(certificates: Path) -> None:
    settings = dataclasses.replace(
        tls(certificates, "one.pem", "one.key"),
        tls_min_version="1.3",
        tls_ciphers="ECDHE+AESGCM",
        tls_client_ca=str(certificates / "other.pem"),
    )
    context = tls_context(settings)
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_REQUIRED
    subjects = [found["subject"] for found in context.get_ca_certs()]
    assert subjects == [((("commonName", "other"),),)], "its own certificate opens no door"
    plain = tls_context(tls(certificates, "one.pem", "one.key"))
    assert plain is not None
    assert plain.minimum_version == ssl.TLSVersion.TLSv1_2
    assert plain.verify_mode == ssl.CERT_NONE


def test_a_renewal_that_fails_changes_nothing(certificates: Path, tmp_path: Path) -> None:
    for kind in ("pem", "key"):
        (tmp_path / f"now.{kind}").write_text((certificates / f"one.{kind}").read_text())
        (tmp_path / f"now.{kind}").chmod(0o600)
    settings = tls(tmp_path, "now.pem", "now.key")
    context = tls_context(settings)
    assert context is not None
    (tmp_path / "now.pem").write_text((certificates / "other.pem").read_text())
    with pytest.raises(ConfigError, match="KEY_VALUES_MISMATCH"):
        renew(context, settings)
    assert shown_by(context) == "one"
    (tmp_path / "now.key").write_text((certificates / "other.key").read_text())
    renew(context, settings)
    assert shown_by(context) == "other"


def shown_by(context: ssl.SSLContext) -> str:
    """The name on the certificate that a new client is shown."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    answering = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (asking, answering, asking):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
    shown = asking.getpeercert(binary_form=True)
    assert shown is not None
    return "one" if b"one" in shown else "other" if b"other" in shown else ""
