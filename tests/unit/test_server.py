"""A server inside of a program: started and stopped from its threads."""

from __future__ import annotations

import threading
from typing import Any

from headrace import Model, Server, ServerSettings

WAIT_S = 30.0


class Echo(Model):
    def predict(self, batch: list[Any]) -> list[Any]:
        return batch


def test_a_server_can_be_stopped_before_during_and_after_its_run() -> None:
    ready = threading.Event()
    server = Server(Echo, ServerSettings(port=0), on_ready=lambda _: ready.set())
    server.stop()
    codes: list[int] = []

    def run() -> None:
        codes.append(server.run())

    for is_stopped_before in (True, False):
        thread = threading.Thread(target=run)
        thread.start()
        if not is_stopped_before:
            assert ready.wait(WAIT_S)
            server.stop()
        thread.join(WAIT_S)
        assert not thread.is_alive()
        ready.clear()
    assert codes == [0, 0]
    server.stop()
