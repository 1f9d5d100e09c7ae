"""A batch of eight items, seven of them innocent: what fails one must not touch the others."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Answer, Served, starter
from tests.faults.conftest import HTTP_MODELS, served_anyhow
from tests.faults.contract import Client, message
from tests.faults.defences import without
from tests.faults.item_models import PREDICTS
from tests.faults.watch import tree

MODELS = Path(__file__).with_name("item_models.py")
CANARY = f"{HTTP_MODELS}:Canary"
EIGHT = 8
TOLD = "/models/told/predict"

numbers = itertools.count(1)


@contextmanager
def served(*names: str, executor: str = "process", **more: Any) -> Iterator[Served]:
    """A server of models of `item_models.py`, which has to end well."""
    servers: list[Served] = []
    more = {"limits__keep_alive_s": 600} | more  # a canary may wait for its next row
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        try:
            server = starter(Path(folder), servers, MODELS)(*names, executor=executor, **more)
            yield server
            server.terminate()
            assert server.exit_code() == 0
            assert not tree(server), "nothing of it is left"
        finally:
            for each in servers:
                each.stop()


def eight(
    client: Client, orders: Sequence[str], path: str = TOLD
) -> tuple[list[int], list[Answer]]:
    """A batch of eight orders, those that are not given being innocent: numbers and answers."""
    asked = [next(numbers) for _ in range(EIGHT)]
    told = itertools.chain(orders, itertools.repeat(""))
    bodies = [json.dumps({"n": n, "do": do}) for n, do in zip(asked, told, strict=False)]
    return asked, at_once(client, bodies, path)


def at_once(
    client: Client, bodies: Sequence[str | bytes], path: str, headers: str = ""
) -> list[Answer]:
    """Ask on as many connections; the answers in order."""
    wires = [client.wire() for _ in bodies]
    for wire, body in zip(wires, bodies, strict=True):
        wire.send(message(path, body, headers))
    answers = [wire.answer() for wire in wires]
    for wire in wires:
        wire.socket.close()
    return answers


def fail_alone(
    client: Client, orders: Sequence[str], expected: Sequence[tuple[int, str]], path: str = TOLD
) -> list[Answer]:
    """Those of a batch that have an order fail as expected, and the others are answered."""
    asked, answers = eight(client, orders, path)
    guilty = [place for place, do in enumerate(orders) if do]
    innocent = [place for place in range(EIGHT) if place not in guilty]
    assert told([answers[place] for place in innocent]) == [(200, "")] * len(innocent)
    assert [answers[place].json() for place in innocent] == [2 * asked[at] for at in innocent]
    assert told([answers[place] for place in guilty]) == [*expected]
    return [answers[place] for place in guilty]


def told(answers: Sequence[Answer]) -> list[tuple[int, str]]:
    """Statuses, and the codes of errors."""
    return [(each.status, each.code if each.status >= 400 else "") for each in answers]


def predicts(server: Served) -> list[list[int]]:
    """The numbers of each batch that a model has been given, but for its examples."""
    path = server.folder / PREDICTS
    lines = path.read_text().splitlines() if path.exists() else []
    return [[int(n) for n in line.split()] for line in lines]


def since(server: Served, before: int) -> list[list[int]]:
    return predicts(server)[before:]


@contextmanager
def undefended(name: str, *models: str, **settings: Any) -> Iterator[Client]:
    """A server that lacks a defence, or none, however it ends."""
    settings = {"limits__request_timeout_s": 5, "env": without(name) if name else None} | settings
    with served_anyhow(MODELS, *models, **settings) as server, Client(server) as client:
        yield client
