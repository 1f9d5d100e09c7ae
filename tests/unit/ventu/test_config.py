"""Settings: keyword arguments before the environment before the defaults."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.unit.ventu.models import Length, Single, Text
from ventu.config import Config

DEFAULTS = {
    "name": "Deep Learning Service",
    "version": "latest",
    "host": "localhost",
    "port": 8000,
    "socket": "batching.socket",
    "keys_file": None,
}
OTHERS = {
    "name": "Lengths",
    "version": "2",
    "host": "0.0.0.0",
    "port": 9000,
    "socket": "/run/batch",
    "keys_file": "/run/keys",
}


def test_defaults() -> None:
    assert Config().model_dump() == DEFAULTS


@pytest.mark.parametrize("spelled", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("field", DEFAULTS)
def test_the_environment_overrides_a_default_in_any_case(
    spelled: object, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(spelled)
    monkeypatch.setenv(spelled(f"ventu_{field}"), str(OTHERS[field]))
    assert Config().model_dump() == DEFAULTS | {field: OTHERS[field]}


def test_keyword_arguments_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENTU_PORT", "9000")
    monkeypatch.setenv("VENTU_NAME", "Other")
    config = Single(Text, Length, port=9001).config
    assert (config.port, config.name) == (9001, "Other")


@pytest.mark.parametrize("port", [80, 65535, "8080"])
def test_ports_within_the_range(port: int) -> None:
    assert Config(port=port).port == int(port)


@pytest.mark.parametrize("port", [79, 0, -1, 65536, "http", 1.5, None])
def test_a_port_out_of_the_range_is_named(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="port"):
        Single(Text, Length, port=port)
    monkeypatch.setenv("ventu_port", str(port))
    with pytest.raises(ValidationError, match="port"):
        Single(Text, Length)


@pytest.mark.parametrize("field", ["name", "version", "host", "socket"])
def test_a_text_that_is_none_is_named(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Single(Text, Length, False, **{field: 1})


def test_an_unknown_keyword_is_named() -> None:
    with pytest.raises(ValueError, match="prot\n"):
        Single(Text, Length, prot=8000)


def test_other_variables_of_the_environment_are_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENTU_OTHER", "x")
    monkeypatch.setenv("PORT", "1")
    assert Config().model_dump() == DEFAULTS
