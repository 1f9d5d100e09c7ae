"""Which exporter the settings ask for, and which settings are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from virtex.core.exporters import Exporter, Off, check, exporter_of
from virtex.core.metrics import Counts, ServerCollector
from virtex.core.push import Push
from virtex.core.scrape import Scrape
from virtex.core.shared import Shared

SETTINGS = {"host": "http://127.0.0.1", "port": 9090, "interval_s": 0.01}


def exporter(mode: str, **settings: Any) -> Any:
    collector = ServerCollector(Counts, "w1")
    return exporter_of(
        mode, name="cats", collector=collector, instance="w1", **{**SETTINGS, **settings}
    )


@pytest.mark.parametrize(
    ("mode", "shared", "kind"),
    [
        ("scrape", False, Scrape),
        ("scrape", True, Shared),
        ("push", False, Push),
        ("off", False, Off),
    ],
)
def test_a_mode_has_its_exporter_which_may_be_stopped_unstarted(
    mode: str, shared: bool, kind: type[Exporter]
) -> None:
    made = exporter(mode, shared=shared)
    assert isinstance(made, kind)
    made.stop()
    made.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "pull"}, "metrics_mode: expected scrape, push, off, got 'pull'"),
        ({"mode": "push", "shared": True}, "metrics_shared: expected metrics_mode 'scrape'"),
        ({"mode": "off", "shared": True}, "metrics_shared: expected metrics_mode 'scrape'"),
        ({"port": 65536}, "metrics_port: expected 0 to 65535, got 65536"),
        ({"port": 0, "shared": True}, "metrics_port: expected 1 to 65535, got 0"),
        ({"mode": "push", "port": 0}, "metrics_port: expected 1 to 65535, got 0"),
        ({"mode": "push", "interval_s": 0.0}, "metrics_interval: expected seconds above 0, got 0"),
        ({"mode": "push", "interval_s": float("nan")}, "metrics_interval: .* got nan"),
        ({"host": ""}, "metrics_host: expected a host, with or without http://, got ''"),
        ({"host": "ftp://gateway"}, "metrics_host: expected a host"),
        ({"host": "ann:secret@gateway"}, "metrics_host: expected a host"),
        ({"host": "http://gateway:9091"}, "metrics_host: expected no port, which is metrics_port"),
        ({"host": "gateway:9091"}, "metrics_host: expected no port, which is metrics_port"),
        ({"host": "[::1]:9091"}, "metrics_host: expected no port, which is metrics_port"),
        ({"host": "https://127.0.0.1"}, "metrics_host: expected an address to listen on"),
        ({"host": "127.0.0.1/metrics"}, "metrics_host: expected an address to listen on"),
    ],
)
def test_wrong_settings_are_an_error_that_names_the_one(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(**{"mode": "scrape", **SETTINGS, **settings})


def test_nothing_of_what_off_does_not_use_is_checked() -> None:
    check("off", host="", port=-1, interval_s=0)


@pytest.mark.parametrize(
    ("host", "gateway"),
    [
        ("gateway", "http://gateway:9090"),
        ("http://gateway/", "http://gateway:9090"),
        ("https://gateway", "https://gateway:9090"),
        ("https://gateway/behind/this/", "https://gateway:9090/behind/this"),
        ("::1", "http://[::1]:9090"),
        ("http://[::1]", "http://[::1]:9090"),
    ],
)
def test_a_gateways_host_is_written_with_or_without_its_scheme(host: str, gateway: str) -> None:
    assert exporter("push", host=host).gateway == gateway
