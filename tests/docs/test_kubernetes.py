"""The example for Kubernetes says what headrace knows."""

from __future__ import annotations

import re
from typing import Any

import yaml  # type: ignore[import-untyped]  # it has no types of its own

from headrace.config import from_environment, known_settings, resolve
from headrace.server import LAST_ANSWERS_S, UNLOAD_TIMEOUT_S

from .pages import ROOT, blocks_of

PAGE = ROOT / "docs" / "guide" / "kubernetes.md"
TIMES = ("drain_delay_s", "drain_timeout_s")
SPARE_S = 1.0
"""For what takes no time that anybody has bounded."""


def documents() -> list[Any]:
    [block] = [block for block in blocks_of(PAGE) if block.language == "yaml"]
    return list(yaml.safe_load_all(block.body))


def pod() -> Any:
    return documents()[0]["spec"]["template"]["spec"]


def settings() -> dict[str, Any]:
    """What the example's variables set, read as headrace reads them."""
    [container] = pod()["containers"]
    given = from_environment({each["name"]: each["value"] for each in container["env"]})
    own = resolve([given]).settings
    return {name: getattr(own, name) for name in ("host", "port", *TIMES)}


def test_its_variables_are_settings_and_the_port_is_the_same_everywhere() -> None:
    [container] = pod()["containers"]
    [port] = container["ports"]
    assert settings()["port"] == port["containerPort"]
    assert settings()["host"] == "0.0.0.0"
    [service] = documents()[1]["spec"]["ports"]
    assert service["targetPort"] == port["name"]


def test_the_pod_has_time_for_the_whole_drain() -> None:
    own = settings()
    takes_s = own["drain_delay_s"] + own["drain_timeout_s"] + LAST_ANSWERS_S + UNLOAD_TIMEOUT_S
    assert own["drain_delay_s"] > 0
    assert pod()["terminationGracePeriodSeconds"] >= takes_s + SPARE_S


def test_its_probes_ask_what_they_are_for() -> None:
    [container] = pod()["containers"]
    asked = {name: container[name]["httpGet"]["path"] for name in container if "Probe" in name}
    assert asked == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    assert {container[name]["httpGet"]["port"] for name in asked} == {"http"}


def test_its_labels_belong_together() -> None:
    deployment, service = documents()
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]


def test_the_settings_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"`((?:limits\.)?[a-z]+(?:_[a-z]+)*_s)`", PAGE.read_text("utf-8")))
    assert named and named <= set(known_settings())
