"""Where a server's models run: in its own process, in workers that it starts, or that connect.

A host makes the engines. In the server's own process they are known at once; with workers, once
the first worker of each target has imported it: the server itself never does.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .card import ModelCard
from .clock import system_clock
from .codecs import RAW
from .config import Batching, ServerSettings
from .dialects import JOBS, Dialect
from .engine import Engine
from .errors import ConfigError
from .executors import (
    Executor,
    InlineExecutor,
    Launch,
    ProcessExecutor,
    PullExecutor,
    RemoteExecutor,
    ThreadExecutor,
)
from .executors.pull import JobSizes
from .executors.remote import Gate
from .executors.socket import SocketExecutor
from .metrics.workers import WorkerMetrics
from .model import Model
from .replica import Replica
from .targets import MakeModel, load_target, models_of, target_of

EXIT_CONFIG = 2
EXIT_NOT_READY = 4

NO_MODELS = "models: expected at least one, got none"

JOBS_NAME = "jobs"
"""What a batching service calls what it serves, in metrics and logs."""

REFRESH_S = 0.25
"""How long a scrape waits for the workers' own metrics; who is late is told of as before."""


class Told(Protocol):
    """What a host tells the run of its server, on the event loop unless it says otherwise."""

    def engines_changed(self) -> None:
        """There are further engines; they are open already."""

    def all_known(self) -> None:
        """There will be no further engines, or they will join a server that is complete."""

    def replica_ready(self) -> None:
        """A replica of some model became ready."""

    def replica_hung(self, name: str) -> None:
        """A replica in this process hangs; on any thread."""

    def start_failed(self, name: str, reason: str, exit_code: int) -> None:
        """A model or a target will never be ready."""


class Host(Protocol):
    """Makes engines and looks after what is behind them."""

    engines: list[Engine]
    metrics: WorkerMetrics
    dialect: Dialect | None

    def start(self) -> None:
        """Begin with what takes long and needs no event loop. May block, briefly."""

    def open(self, told: Told) -> None:
        """Go on, on the running event loop."""

    def check_scalable(self) -> None:
        """Raise a ConfigError unless the number of replicas can change while they serve."""

    def scale(self, replicas: int | None, by: int = 0) -> None:
        """Change each model's number of replicas, to a number or by one."""

    async def refresh(self) -> None:
        """Bring the metrics of workers up to date, soon."""

    def close(self) -> None:
        """End what has not ended, and stop the replicas."""

    def join(self, timeout_s: float) -> bool:
        """Wait until they have stopped; False if one has not. Blocks."""


class _EnginesOnly:
    """What hosts have in common that start no process and ask none for anything."""

    dialect: Dialect | None = None

    def __init__(self, settings: ServerSettings) -> None:
        self.engines: list[Engine] = []
        self.metrics = WorkerMetrics()
        self._settings = settings

    def start(self) -> None:
        """Nothing takes long that needs no event loop."""

    def check_scalable(self) -> None:
        raise NotImplementedError

    def scale(self, replicas: int | None, by: int = 0) -> None:
        self.check_scalable()

    async def refresh(self) -> None:
        """Nothing: what is counted here is counted at once."""

    def close(self) -> None:
        for engine in self.engines:
            engine.close()

    def join(self, timeout_s: float) -> bool:
        return _join(self.engines, timeout_s)


class OwnProcess(_EnginesOnly):
    """Models on the event loop's thread, or on threads beside it.

    Args:
        models: What `models_of` takes, or texts that name such.
        settings: Of the server.

    Raises:
        ConfigError: A model cannot be served, or two have one name.
    """

    def __init__(self, models: Any, settings: ServerSettings) -> None:
        super().__init__(settings)
        self._models = [_Local(make, settings) for make in _makers(models)]
        self.cards = [model.card for model in self._models]
        check_names(self.cards)
        if settings.executor == "inline" and settings.replicas > 1:
            raise ConfigError(
                f"replicas: expected 1 with executor 'inline', got {settings.replicas}"
            )

    def open(self, told: Told) -> None:
        self.engines[:] = [model.engine(told) for model in self._models]
        told.engines_changed()
        told.all_known()
        for engine in self.engines:
            engine.open()

    def check_scalable(self) -> None:
        raise ConfigError("replicas: only worker processes can be more or fewer while they serve")


class _Local:
    """One model of this process: how to make its replicas and its engine."""

    def __init__(self, make: MakeModel, settings: ServerSettings) -> None:
        self._make = make
        self._settings = settings
        self._prototype = make()
        self.card = self._replica_of(self._prototype).card

    def engine(self, told: Told) -> Engine:
        """The model's engine, on the running event loop."""
        cls = type(self._prototype)
        is_sized = cls.key is not Model.key or cls.cost is not Model.cost
        name = self.card.name
        return Engine(
            self.card,
            self._executor(told),
            loop=asyncio.get_running_loop(),
            limits=self._settings.limits,
            sizing=self._prototype if is_sized else None,
            on_ready=told.replica_ready,
            on_hung=functools.partial(told.replica_hung, name),
            on_start_failed=lambda reason: told.start_failed(name, reason, EXIT_NOT_READY),
        )

    def _executor(self, told: Told) -> Executor:
        settings = self._settings
        loop = asyncio.get_running_loop()
        on_hung = functools.partial(told.replica_hung, self.card.name)
        timeout_s = settings.limits.predict_timeout_s
        if settings.executor == "thread":
            return ThreadExecutor(
                self._make_replica,
                replicas=settings.replicas,
                loop=loop,
                predict_timeout_s=timeout_s,
                on_hung=on_hung,
            )
        return InlineExecutor(
            self._make_replica, loop=loop, predict_timeout_s=timeout_s, on_hung=on_hung
        )

    def _make_replica(self) -> Replica:
        return self._replica_of(self._make())

    def _replica_of(self, model: Model) -> Replica:
        return Replica(model, self._settings.limits, batching=self._settings.batching)


class _Workers:
    """What hosts with workers have in common."""

    dialect: Dialect | None = None

    def __init__(self, settings: ServerSettings) -> None:
        self.engines: list[Engine] = []
        self.metrics = WorkerMetrics()
        self._settings = settings
        self._told: Told | None = None

    def _executors(self) -> Sequence[SocketExecutor]:
        """Those of the engines, in the same order, and then others."""
        raise NotImplementedError

    async def refresh(self) -> None:
        executors = self._executors()
        await asyncio.gather(*(executor.refresh(REFRESH_S) for executor in executors))
        for engine, executor in zip(self.engines, executors, strict=False):
            counts, usage = engine.counts, executor.usage
            counts.busy_s = usage.busy_s
            counts.wire_sent_bytes, counts.wire_received_bytes = usage[1:]

    def make_engine(self, card: ModelCard, executor: Executor) -> Engine:
        """The engine of one model."""
        told = self._told
        assert told is not None
        return Engine(
            card,
            executor,
            loop=asyncio.get_running_loop(),
            limits=self._settings.limits,
            on_ready=told.replica_ready,
            on_start_failed=functools.partial(self._start_failed, card.name),
        )

    def _start_failed(self, model: str, reason: str) -> None:
        """A replica will never be ready."""
        assert self._told is not None
        self._told.start_failed(model, reason, EXIT_NOT_READY)


class WorkerProcesses(_Workers):
    """Models in worker processes that this server starts.

    Args:
        models: Texts that name targets, or what can be named so: classes, and functions under
            `@model`, of importable modules.
        settings: Of the server.

    Raises:
        ConfigError: A model has no name by which another process could import it.
    """

    def __init__(self, models: Any, settings: ServerSettings) -> None:
        super().__init__(settings)
        self._targets = [_Target(target, self) for target in _targets(models)]
        if not self._targets:
            raise ConfigError(NO_MODELS)

    def start(self) -> None:
        for target in self._targets:
            target.executors[0].launch()

    def open(self, told: Told) -> None:
        self._told = told
        for target in self._targets:
            target.executors[0].attach()

    def known(self, target: _Target, cards: Sequence[ModelCard]) -> None:
        """A target's first worker has imported it."""
        told = self._told
        assert told is not None
        new = target.make_engines(cards)
        self.engines[:] = [engine for each in self._targets for engine in each.engines]
        try:
            check_names([engine.card for engine in self.engines])
        except ConfigError as error:
            told.start_failed(target.name, error.message, EXIT_CONFIG)
            return
        for engine in new:
            engine.open()
        told.engines_changed()
        if all(each.engines for each in self._targets):
            told.all_known()

    def failed(self, target: _Target, reason: str, is_config: bool) -> None:
        """No worker of a target gets as far as to tell its models."""
        assert self._told is not None
        code = EXIT_CONFIG if is_config else EXIT_NOT_READY
        self._told.start_failed(target.name, reason, code)

    def make_executor(self, target: _Target, model: str) -> ProcessExecutor:
        """What runs one model of a target."""
        settings = self._settings
        return ProcessExecutor(
            target.name,
            model=model,
            replicas=settings.replicas,
            launch=Launch(
                settings.workers,
                settings.start_timeout_s,
                settings.log_level,
                settings.log_format,
            ),
            limits=settings.limits,
            batching=settings.batching,
            metrics=self.metrics,
            on_cards=_ignore if model else functools.partial(self.known, target),
            on_start_failed=functools.partial(self.failed, target),
        )

    def check_scalable(self) -> None:
        """It is what worker processes are for."""

    def scale(self, replicas: int | None, by: int = 0) -> None:
        for executor in self._executors():
            executor.scale(executor.replicas + by if replicas is None else replicas)

    def close(self) -> None:
        for engine in self.engines:
            engine.close()
        for executor in self._executors():
            executor.close()

    def join(self, timeout_s: float) -> bool:
        return _join(self._executors(), timeout_s)

    def _executors(self) -> list[ProcessExecutor]:
        known_first = sorted(self._targets, key=lambda target: not target.engines)
        return [executor for target in known_first for executor in target.executors]


class _Target:
    """One target: an executor and, once it is known, an engine for each of its models."""

    def __init__(self, name: str, host: WorkerProcesses) -> None:
        self.name = name
        self.engines: list[Engine] = []
        self._host = host
        self.executors = [host.make_executor(self, "")]

    def make_engines(self, cards: Sequence[ModelCard]) -> list[Engine]:
        """Make the engines; the first model's executor runs already, the others' begin now."""
        for card in cards[1:]:
            self.executors.append(self._host.make_executor(self, card.name))
        self.engines = [
            self._host.make_engine(card, executor)
            for card, executor in zip(cards, self.executors, strict=True)
        ]
        return self.engines


class RemoteWorkers(_Workers):
    """Models in workers of other hosts, which connect and say what they run.

    Args:
        models: Nothing: what is served is what the workers bring.
        settings: Of the server.

    Raises:
        ConfigError: The settings do not say where they connect, or how they prove themselves.
    """

    def __init__(self, models: Any, settings: ServerSettings) -> None:
        super().__init__(settings)
        if list(models):
            raise ConfigError("TARGET: expected none with executor 'remote': the workers bring it")
        self._by_name: dict[str, RemoteExecutor] = {}
        self._gate = Gate(settings, on_cards=self._joined)

    def start(self) -> None:
        self._gate.bind()

    def open(self, told: Told) -> None:
        self._told = told
        self._gate.open()

    def _joined(self, card: ModelCard) -> RemoteExecutor:
        """A worker has come with this model."""
        executor = self._by_name.get(card.name)
        if executor is None:
            executor = self._by_name[card.name] = RemoteExecutor(card.name, self.metrics)
            engine = self.make_engine(card, executor)
            self.engines.append(engine)
            engine.open()
            assert self._told is not None
            self._told.engines_changed()
            self._told.all_known()
        return executor

    def _start_failed(self, model: str, reason: str) -> None:
        """One worker's fault, which its own host has to mend: others serve, or will come."""

    def check_scalable(self) -> None:
        raise ConfigError("replicas: with executor 'remote' there are as many as connect")

    def scale(self, replicas: int | None, by: int = 0) -> None:
        self.check_scalable()

    def close(self) -> None:
        self._gate.close()
        for engine in self.engines:
            engine.close()

    def join(self, timeout_s: float) -> bool:
        return _join(self.engines, timeout_s)

    def _executors(self) -> list[RemoteExecutor]:
        return list(self._by_name.values())


class PulledJobs(_EnginesOnly):
    """Jobs of any kind, for workers that connect and ask for them: `headrace batching`.

    Args:
        listener: Where the workers connect; closed in the end.
        batching: How jobs are put together; their cost is what they add to a batch's message.
        settings: Of the server.
        on_open: Called when it serves; from here on signals make it drain.
    """

    dialect: Dialect | None = JOBS

    def __init__(
        self,
        listener: socket.socket,
        batching: Batching,
        settings: ServerSettings,
        on_open: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(settings)
        self._on_open = on_open
        self._listener = listener
        any_body = (RAW.media_type,)
        self._card = ModelCard(
            name=JOBS_NAME,
            version="1",
            description="Batches jobs for workers that ask for them.",
            request_schema={},
            response_schema={},
            reads=any_body,
            writes=any_body,
            examples=(),
            batching=batching,
            idempotent=True,
        )

    def open(self, told: Told) -> None:
        limits = self._settings.limits
        engine = Engine(
            self._card,
            PullExecutor(self._card, self._listener, limits.max_response_bytes),
            loop=asyncio.get_running_loop(),
            limits=limits,
            sizing=JobSizes(),
            on_ready=told.replica_ready,
        )
        self.engines.append(engine)
        told.engines_changed()
        told.all_known()
        engine.open()
        self._on_open()

    def check_scalable(self) -> None:
        raise ConfigError("replicas: there are as many workers as connect")


def _ignore(cards: Sequence[ModelCard]) -> None:
    """They are known already."""


def host_of(models: Any, settings: ServerSettings) -> Host:
    """The host that the settings ask for.

    Raises:
        ConfigError: The models cannot be served there.
    """
    if settings.executor == "process":
        return WorkerProcesses(models, settings)
    if settings.executor == "remote":
        return RemoteWorkers(models, settings)
    return OwnProcess(models, settings)


def check_names(cards: Sequence[ModelCard]) -> None:
    """Raise unless there are models, and each has a name of its own."""
    names = [card.name for card in cards]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"models: expected different names, got {name!r} twice")
    if not names:
        raise ConfigError(NO_MODELS)


class _Joinable(Protocol):
    def join(self, timeout_s: float) -> bool: ...


def _join(parts: Sequence[_Joinable], timeout_s: float) -> bool:
    # No event loop runs yet where a start has failed.
    ends = system_clock() + timeout_s
    # Each is asked, whatever the one before says: that is what stops its workers.
    stopped = [part.join(max(0.0, ends - system_clock())) for part in parts]
    return all(stopped)


def _makers(models: Any) -> list[MakeModel]:
    """The models of objects and of texts that name such."""
    if isinstance(models, str):
        return models_of(load_target(models), where=models)
    if isinstance(models, list | tuple):
        return [make for part in models for make in _makers(part)]
    return models_of(models, where="models")


def _targets(models: Any) -> list[str]:
    """Texts by which another process imports the models."""
    if isinstance(models, list | tuple):
        return [target for part in models for target in _targets(part)]
    return [models if isinstance(models, str) else target_of(models)]
