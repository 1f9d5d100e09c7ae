"""`run_http`: where it listens, and how it ends."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from headrace import HeadraceError
from tests.unit.ventu.models import Batched, Length, Single, Text
from ventu import Ventu
from ventu.serving import stopped_by_signals

WAIT_S = 20.0


class Address(logging.Handler):
    """Waits for the record that says where it listens."""

    def __init__(self) -> None:
        super().__init__()
        self._url = ""
        self._came = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("listens on "):
            self._url = text.removeprefix("listens on ")
            self._came.set()

    def wait(self) -> str:
        assert self._came.wait(WAIT_S)
        return self._url


@pytest.fixture
def address() -> Iterator[Address]:
    handler = Address()
    logger = logging.getLogger("ventu.ventu")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@contextlib.contextmanager
def serving(model: Ventu, host: str = "127.0.0.1") -> Iterator[None]:
    """Serves on another thread, and is stopped at the end."""
    thread = threading.Thread(target=model.run_http, args=(host, 0), daemon=True)
    thread.start()
    try:
        yield
    finally:
        model.stop()
        thread.join(WAIT_S)
        assert not thread.is_alive()


def ask(url: str, text: str = "one") -> Any:
    answer = httpx.post(url + "/inference", json={"text": text}, timeout=WAIT_S, trust_env=False)
    assert answer.status_code == 200
    return answer.json()


def test_on_another_thread_until_it_is_stopped(address: Address) -> None:
    model = Single(Text, Length)
    with serving(model):
        url = address.wait()
        assert ask(url) == {"length": 3}
        metrics = httpx.get(url + "/metrics", timeout=WAIT_S, trust_env=False).text
        assert 'process_worker{protocol="http"} 1.0' in metrics
    gauge = model.metric_registry.get_sample_value("process_worker", {"protocol": "http"})
    assert gauge == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_in_the_main_thread_until_a_signal(how: signal.Signals, address: Address) -> None:
    model = Batched(Text, Length)
    model.health_check()
    _ = model.asgi_app
    answers: list[Any] = []

    def ask_and_signal() -> None:
        url = address.wait()
        answers.append(ask(url))
        # A request that is at work then is answered before the end.
        model.gate.clear()
        model.entered = threading.Semaphore(0)
        asking = threading.Thread(target=lambda: answers.append(ask(url, "three")), daemon=True)
        asking.start()
        assert model.entered.acquire(timeout=WAIT_S)
        signal.pthread_kill(threading.main_thread().ident or 0, how)
        model.gate.set()
        asking.join(WAIT_S)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    other = threading.Thread(target=ask_and_signal, daemon=True)
    other.start()
    model.run_http("127.0.0.1", 0)
    other.join(WAIT_S)
    assert answers == [{"length": 3}, {"length": 5}]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_configured_address(address: Address) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        model = Single(Text, Length, host="127.0.0.1", port=port)
        with pytest.raises(OSError, match="Address already in use"):
            model.run_http()


def test_ipv6(address: Address) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    with serving(Single(Text, Length), "::1"):
        assert ask(address.wait()) == {"length": 3}


def test_stop_as_soon_as_it_listens_is_not_lost(address: Address) -> None:
    with serving(Single(Text, Length)):
        address.wait()


def test_a_service_that_does_not_start_is_an_error() -> None:
    model = Single(Text, Length)
    _ = model.asgi_app

    async def startup() -> None:
        raise HeadraceError("no")

    model.asgi_app.startup = startup  # type: ignore[method-assign]  # as a broken one would be
    with pytest.raises(HeadraceError, match="did not start"):
        model.run_http("127.0.0.1", 0)


def test_a_second_signal_does_what_it_did_before() -> None:
    seen: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("before"))
    try:
        with stopped_by_signals(lambda: seen.append("stop")):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert seen == ["stop", "before", "before"]
    finally:
        signal.signal(signal.SIGTERM, before)
