"""Files of secrets: API keys first of all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace import Auth, ServerSettings
from headrace.credentials import MAX_FILE_BYTES, can_reload, read_keys, read_secret_file
from headrace.errors import ConfigError

LINE = "alice:correct-horse-battery\n"


def written(path: Path, text: str, mode: int = 0o600) -> Auth:
    path.write_text(text)
    path.chmod(mode)
    return Auth(keys_file=str(path))


def test_without_a_setting_no_key_is_asked_for() -> None:
    assert read_keys(Auth()) is None


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_file_of_its_owner_and_group_is_read(tmp_path: Path, mode: int) -> None:
    keys = read_keys(written(tmp_path / "keys", LINE, mode))
    assert keys is not None and keys.find("correct-horse-battery") == "alice"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o666])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    told = rf"others may not read .* got mode {mode:04o}; run chmod 600 {tmp_path}/keys"
    with pytest.raises(ConfigError, match=told):
        read_keys(written(tmp_path / "keys", LINE, mode))
    with pytest.raises(ConfigError, match=f"tls_key: .*{told}"):
        read_secret_file(str(tmp_path / "keys"), where="tls_key")


def test_a_secret_need_not_be_text(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff\0\n")
    (tmp_path / "secret").chmod(0o600)
    assert read_secret_file(str(tmp_path / "secret"), where="x") == b"\xff\0\n"


def test_a_server_with_a_file_that_may_change_can_reload() -> None:
    assert not can_reload(ServerSettings())
    assert can_reload(ServerSettings(auth=Auth(keys_file="keys")))
    assert can_reload(ServerSettings(tls_cert="cert", tls_key="key"))


def test_the_keys_of_both_settings_are_taken(tmp_path: Path) -> None:
    file = written(tmp_path / "keys", LINE).keys_file
    keys = read_keys(Auth(keys_file=file, keys=("bob:another-long-secret",)))
    assert keys is not None and keys.names == {"alice", "bob"}


def test_a_link_is_followed_as_where_secrets_are_mounted(tmp_path: Path) -> None:
    written(tmp_path / "keys", LINE)
    (tmp_path / "link").symlink_to("keys")
    assert read_keys(Auth(keys_file=str(tmp_path / "link"))) is not None


def test_what_is_no_file_of_keys_is_named_and_waited_for_by_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "binary").chmod(0o600)
    written(tmp_path / "long", "#" * (MAX_FILE_BYTES + 1))
    for name, message in {
        "missing": "No such file",
        "fifo": "expected a file",
        "binary": "no file of text",
        "long": "at most",
    }.items():
        with pytest.raises(ConfigError, match=rf"auth.keys_file: .*{name}: .*{message}"):
            read_keys(Auth(keys_file=str(tmp_path / name)))
    with pytest.raises(ConfigError, match="no such file"):
        read_keys(Auth(keys_file="a\0b"))


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"auth.keys_file, line 2: expected name:secret"):
        read_keys(written(tmp_path / "keys", LINE + "nonsense\n"))
