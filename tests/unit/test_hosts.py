"""Which host serves what, and what each refuses; none of these tests starts a process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace import ConfigError, Model, ServerSettings, model
from headrace.errors import TargetError
from headrace.hosts import OwnProcess, WorkerProcesses, check_names, host_of


class One(Model):
    """The first."""

    def predict(self, batch: list[Any]) -> list[Any]:
        return batch


@model(name="two")
def two(batch: list[int]) -> list[int]:
    return batch


class Told:
    """Writes down what a host tells."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.ready = asyncio.Event()

    def engines_changed(self) -> None:
        self.said.append("engines")

    def all_known(self) -> None:
        self.said.append("all")

    def replica_ready(self) -> None:
        self.said.append("ready")
        self.ready.set()

    def replica_hung(self, name: str) -> None:
        self.said.append(f"{name} hung")

    def start_failed(self, name: str, reason: str, exit_code: int) -> None:
        self.said.append(f"{name} failed with {exit_code}")
        self.ready.set()


def own(models: Any, **settings: Any) -> OwnProcess:
    host = host_of(models, ServerSettings(**{"executor": "inline", **settings}))
    assert isinstance(host, OwnProcess)
    return host


@pytest.mark.parametrize(
    ("executor", "kind"),
    [("thread", OwnProcess), ("inline", OwnProcess), ("process", WorkerProcesses)],
)
def test_the_setting_says_where_models_run(executor: Any, kind: type) -> None:
    host = host_of([One], ServerSettings(executor=executor))
    assert type(host) is kind
    assert host.engines == []


@pytest.mark.parametrize("executor", ["process", "thread", "inline"])
def test_a_server_of_nothing_is_refused(executor: Any) -> None:
    with pytest.raises(ConfigError, match="models: expected at least one, got none"):
        host_of([], ServerSettings(executor=executor))


def test_models_are_objects_or_texts_in_lists_or_not() -> None:
    names = [card.name for card in own([One, [two, f"{__name__}:Other"]]).cards]
    assert names == ["one", "two", "other"]
    assert [card.name for card in own({"a": One}).cards] == ["a"]
    assert [card.name for card in own(f"{__name__}:Other").cards] == ["other"]


class Other(One):
    """Another."""


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected different names, got 'one' twice"):
        own([One, One])
    with pytest.raises(ConfigError, match="expected different names"):
        check_names([*own(One).cards, *own(One).cards])


def test_the_event_loop_has_room_for_one_replica() -> None:
    with pytest.raises(ConfigError, match="expected 1 with executor 'inline', got 2"):
        own(One, replicas=2)


def test_what_workers_cannot_import_is_refused() -> None:
    with pytest.raises(TargetError, match="got <"):
        host_of([One()], ServerSettings())


def test_models_of_this_process_cannot_be_more_or_fewer() -> None:
    host = own(One)
    with pytest.raises(ConfigError, match="only worker processes"):
        host.check_scalable()
    with pytest.raises(ConfigError, match="only worker processes"):
        host.scale(2)


@pytest.mark.parametrize("executor", ["thread", "inline"])
def test_the_engines_of_this_process_are_known_at_once_and_ready_soon(executor: str) -> None:
    async def main() -> None:
        host, told = own(One, executor=executor), Told()
        host.start()
        host.open(told)
        assert told.said[:2] == ["engines", "all"]
        await told.ready.wait()
        assert told.said[2:] == ["ready"]
        assert [engine.is_ready for engine in host.engines] == [True]
        await host.refresh()
        host.close()
        assert host.join(10.0)

    asyncio.run(main())


class Unloadable(One):
    """Has no weights."""

    def load(self) -> None:
        raise OSError("no weights")


def test_a_model_that_does_not_load_is_told_with_its_exit_code() -> None:
    async def main() -> None:
        host, told = own(Unloadable), Told()
        host.open(told)
        await told.ready.wait()
        assert told.said[2:] == ["unloadable failed with 4"]
        host.close()

    asyncio.run(main())


def test_worker_processes_can_be_more_or_fewer() -> None:
    host_of([One], ServerSettings()).check_scalable()
