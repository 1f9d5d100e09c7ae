"""Batches in worker processes of this machine: started, watched, and replaced.

Each seat holds one worker. When that dies, hangs or is to be recycled, another takes the seat; for
a while after a recycling two share it: the new one, and the old one that finishes what it has.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from ..batching import Batch
from ..card import ModelCard
from ..clock import NEVER, Instant, system_clock
from ..config import Limits
from ..wire import NONCE_BYTES, Cards, Connection, Setup
from .base import Events, Loss, ReplicaStatus
from .launcher import Launch, Worker
from .memory import oom_kills
from .restarts import FIRST_DELAY_S
from .seats import Life, Seat
from .socket import Metrics, Peer, SocketExecutor

OVERDUE_FACTOR = 2.0
"""How many times as long as expected a start may take before nobody waits for it."""
LAST_WORDS_S = 0.05
"""How long a dead worker's connection may stay open before it counts as over: a child that the
user's code has forked may hold it. As long may a worker live on without its connection."""
KILL_TIMEOUT_S = 5.0
"""How long the system may take to end a process that was killed."""
FATAL = ("config", "load")
"""Causes that a second try does not change, as long as none has succeeded."""

_log = logging.getLogger(__name__)


class ProcessExecutor(SocketExecutor):
    """Runs each replica in a process of its own.

    Args:
        target: What the workers import.
        model: Which of the target's models; empty for its first.
        replicas: How many.
        launch: The workers' share of the machine.
        limits: Of requests.
        batching: The operator's, in place of the model's own.
        metrics: Takes what the model counts in its workers.
        on_cards: Called once, with all models of the target.
        on_start_failed: Called with the reason, and whether it is a wrong target or setting,
            while there is no engine to tell.
    """

    def __init__(
        self,
        target: str,
        *,
        model: str = "",
        replicas: int = 1,
        launch: Launch,
        limits: Limits | None = None,
        batching: Mapping[str, Any] | None = None,
        metrics: Metrics | None = None,
        on_cards: Callable[[tuple[ModelCard, ...]], None] = lambda cards: None,
        on_start_failed: Callable[[str, bool], None] = lambda reason, is_config: None,
    ) -> None:
        super().__init__(metrics)
        self._target = target
        self._model = model
        self._launch = launch
        self._limits = limits or Limits()
        self._batching = dict(batching or {})
        self._on_cards: Callable[[tuple[ModelCard, ...]], None] | None = on_cards
        self._on_start_failed = on_start_failed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seats = [Seat(place, place) for place in range(replicas)]
        self._lives: dict[int, Life] = {}
        self._next_number = replicas
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_closed = False
        self._oom_kills = oom_kills()

    # Start

    def launch(self) -> None:
        """Start the workers, before there is an event loop: they import meanwhile.

        Raises:
            OSError: One cannot be started.
        """
        for seat in self._seats:
            if seat.life is None:
                seat.life = self._spawn(seat, seat.number)

    def attach(self) -> None:
        """Begin to listen to the workers, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        for life in [*self._lives.values()]:
            self._watch(life)

    def open(self, events: Events) -> None:
        self._events = events
        if self._loop is None:
            self.launch()
            self.attach()
        for life in self._lives.values():
            life.peer.events = events
            if life.state == "ready" and life.peer.card is not None:
                events.ready(life.number, life.peer.card)
            else:
                events.status(life.number, ReplicaStatus("starting", "loading"))

    def _spawn(self, seat: Seat, number: int) -> Life:
        worker = Worker(self._target, seat.place, len(self._seats), self._launch)
        setup = Setup(
            limits=self._limits, batching=self._batching, model=self._model, replica=seat.place
        )
        nonce = os.urandom(NONCE_BYTES)
        connection = Connection(
            "front", secret=worker.secret, nonce=nonce, setup=setup, memory=worker.memory
        )
        life = Life(number, seat, worker, Peer(number, connection, self))
        life.peer.events = self._events
        self._lives[number] = life
        self.peers[number] = life.peer
        if self._loop is not None:
            self._watch(life)
        if self._events is not None:
            self._events.status(number, ReplicaStatus("starting", "loading"))
        return life

    def _watch(self, life: Life) -> None:
        loop = self._loop
        assert loop is not None
        loop.add_reader(life.worker.pid_fd, self._exited, life)
        connecting = loop.create_unix_connection(lambda: life.peer, sock=life.worker.share_socket())
        task = loop.create_task(connecting)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        life.timer = loop.call_later(self._launch.start_timeout_s, life.kill, "load")
        if life.expected_at < NEVER:
            patience_s = OVERDUE_FACTOR * (life.expected_at - system_clock())
            life.overdue = loop.call_later(patience_s, self._is_overdue, life)

    # What the peers tell

    def carded(self, peer: Peer, cards: Cards) -> None:
        if self._on_cards is not None:
            on_cards, self._on_cards = self._on_cards, None
            on_cards(cards.cards)

    def is_ready(self, peer: Peer) -> None:
        life = self._lives[peer.replica]
        if life.state != "starting":
            return
        life.cancel_timers()
        life.state, life.was_ready = "ready", True
        life.seat.restarts.was_ready(system_clock() - life.began)
        if self._events is not None and peer.card is not None:
            self._events.ready(life.number, peer.card)
        if life is life.seat.successor:
            self._succeed(life.seat)

    def broken(self, peer: Peer, reason: str) -> None:
        if self._events is not None:
            seat = self._lives[peer.replica].seat
            self._events.unready(peer.replica, reason, min(self._back_at, seat.back_at))

    def batch_ended(self, peer: Peer, batch: Batch) -> None:
        life = self._lives[peer.replica]
        life.items += batch.count
        if life.state == "draining":
            self._stop_if_idle(life)
        elif life.is_worn(self._launch.settings) and not self._is_recycling:
            self._recycle(life)

    def disconnected(self, peer: Peer, error: Exception | None) -> None:
        life = self._lives.get(peer.replica)
        if life is None:
            return
        life.is_disconnected = True
        if life.has_exited:
            self._ended(life)
            return
        if peer.error is not None:
            life.kill("protocol")
        elif life.state != "draining" and self._loop is not None and not self._is_closed:
            life.cancel_timers()
            # It cannot be told anything any more: how it ends by itself tells more than a kill.
            life.timer = self._loop.call_later(LAST_WORDS_S, self._cut_off, life)

    # Ends

    def _cut_off(self, life: Life) -> None:
        if not life.worker.is_exiting():
            life.kill("disconnected")
            return
        # On a busy machine the last steps take a while: its exit code will tell why it ended.
        assert self._loop is not None
        life.timer = self._loop.call_later(KILL_TIMEOUT_S, life.kill, "disconnected")

    def _is_overdue(self, life: Life) -> None:
        """It takes much longer than the last one did: nobody is to wait for it any more."""
        life.overdue, life.expected_at = None, NEVER
        if self._events is not None:
            reason = "it takes longer to get ready than the one before"
            self._events.unready(life.number, reason, self._back_at)

    def _exited(self, life: Life) -> None:
        """The process has ended; what it has said may still be on the way."""
        assert self._loop is not None
        self._loop.remove_reader(life.worker.pid_fd)
        life.worker.kill()  # its children
        life.has_exited = True
        if life.is_disconnected:
            self._ended(life)
        else:
            self._loop.call_later(LAST_WORDS_S, self._hang_up, life)

    def _hang_up(self, life: Life) -> None:
        if not life.is_disconnected and not self._is_closed:
            life.peer.abort()

    def _ended(self, life: Life) -> None:
        """Tell of a worker's end, and see to its seat."""
        if self._is_closed or self._lives.pop(life.number, None) is None:
            return
        life.cancel_timers()
        loss, crash = life.examine(is_out_of_memory=self._has_oom_killed())
        life.worker.close()
        self._forget(life.peer)
        if life.retired_for and not life.peer.batches:
            if self._events is not None:
                self._events.retired(life.number, life.retired_for)
            return
        seat = life.seat
        restarts = seat.recycling if life is seat.successor else seat.restarts
        delay_s = restarts.ended(
            was_ready=life.was_ready, items=life.items, is_outside=loss.is_outside
        )
        if not self._was_ever_ready and loss.cause in FATAL:
            self._fail(life, loss)
            return
        extra = {"target": self._target, "replica": life.number, "reason": loss.reason}
        _log.error("a worker ended", extra=extra | ({"traceback": crash} if crash else {}))
        if not self._was_ever_ready and seat.restarts.is_hopeless:
            self._fail(life, loss)
            return
        if life is seat.successor:
            seat.successor = None
            seat.recycles_from = system_clock() + delay_s
            if self._events is not None:
                self._events.retired(life.number, loss.cause)
            return
        is_vacant = self._vacate(seat, life)
        self._tell_lost(life, loss, seat.back_at if is_vacant and not delay_s else NEVER)
        if is_vacant:
            self._start_later(seat, delay_s, loss.reason)

    def _has_oom_killed(self) -> bool:
        """Whether the system has killed for memory since a worker last ended."""
        before, self._oom_kills = self._oom_kills, oom_kills()
        return self._oom_kills > before

    def _vacate(self, seat: Seat, life: Life) -> bool:
        """Take a worker that has ended out of its seat; whether that is empty now."""
        if seat.life is not life:
            return False
        seat.life, seat.successor = seat.successor, None
        if seat.life is not None:
            seat.number = seat.life.number
        return seat.life is None

    def _tell_lost(self, life: Life, loss: Loss, expected_at: Instant) -> None:
        if self._events is None:
            return
        self._events.lost(life.number, loss, min(expected_at, self._back_at))
        if life.seat.number != life.number or life.retired_for:
            # Its number does not come back: another holds the seat, or there is none.
            self._events.retired(life.number, life.retired_for or "recycled")

    def _start_later(self, seat: Seat, delay_s: float, reason: str) -> None:
        assert self._loop is not None
        if not delay_s:
            self._start(seat)
            return
        if self._events is not None:
            waits = f"{reason}; the next start is in {delay_s:g} s"
            self._events.status(seat.number, ReplicaStatus("restarting", waits))
        seat.timer = self._loop.call_later(delay_s, self._start, seat)

    def _start(self, seat: Seat) -> None:
        """Put a new worker into an empty seat."""
        seat.timer = None
        try:
            seat.life = self._spawn(seat, seat.number)
        except OSError as error:
            _log.error("a worker cannot be started", extra={"reason": str(error)})
            delay_s = seat.restarts.ended(was_ready=False, items=0)
            self._start_later(seat, delay_s, f"it cannot be started: {error.strerror}")

    def _fail(self, life: Life, loss: Loss) -> None:
        """No worker will be ready: say so once, and try no more."""
        life.seat.life = None
        if self._events is not None:
            self._events.start_failed(life.number, loss.reason)
        else:
            self._on_start_failed(loss.reason, loss.cause == "config")

    @property
    def _was_ever_ready(self) -> bool:
        return any(seat.restarts.was_ever_ready for seat in self._seats)

    @property
    def _back_at(self) -> Instant:
        """When the first of the workers that are being started should be ready."""
        starting = (life for life in self._lives.values() if life.state == "starting")
        return min((life.expected_at for life in starting), default=NEVER)

    # Replacing, recycling, scaling

    def replace(self, replica: int) -> bool:
        life = self._lives.get(replica)
        if life is not None:
            life.kill("hung")
        return True

    def scale(self, replicas: int) -> None:
        """Change the number of replicas, at least 1, while they serve."""
        if self._is_closed:
            return
        taken = {seat.place for seat in self._seats}
        places = [place for place in range(max(1, replicas)) if place not in taken]
        missing = max(0, replicas - len(self._seats))
        new = [Seat(place, self._new_number()) for place in places[:missing]]
        # All are there before the first starts: the machine is divided among as many.
        self._seats += new
        for seat in new:
            self._start(seat)
        # Those that serve stay; of others the newest go first.
        self._seats.sort(key=lambda seat: not seat.is_ready)
        while len(self._seats) > max(1, replicas):
            self._give_up(self._seats.pop())

    def _give_up(self, seat: Seat) -> None:
        """Retire who holds a seat that is no more."""
        if seat.timer is not None:
            seat.timer.cancel()
            seat.timer = None
            if self._events is not None:
                self._events.retired(seat.number, "scaled")
        for life in (seat.life, seat.successor):
            if life is not None:
                self._retire(life, "scaled")
        seat.life = seat.successor = None

    @property
    def replicas(self) -> int:
        """How many there are to be."""
        return len(self._seats)

    def _new_number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

    @property
    def _is_recycling(self) -> bool:
        """Whether a worker is being replaced; the old one counts until it is gone."""
        return any(seat.successor is not None for seat in self._seats) or any(
            life.retired_for for life in self._lives.values()
        )

    def _recycle(self, life: Life) -> None:
        """Start another worker for the seat; the old one goes on until that is ready."""
        seat = life.seat
        try:
            seat.successor = self._spawn(seat, self._new_number())
        except OSError as error:
            seat.recycles_from = system_clock() + FIRST_DELAY_S
            _log.error("a worker cannot be started", extra={"reason": str(error)})

    def _succeed(self, seat: Seat) -> None:
        """The new worker is ready: the old one is done once it has finished what it has."""
        old, seat.life, seat.successor = seat.life, seat.successor, None
        assert seat.life is not None
        seat.number = seat.life.number
        if old is not None:
            self._retire(old, "recycled")

    def _retire(self, life: Life, cause: str) -> None:
        life.retired_for = cause
        if life.state == "starting":
            life.worker.kill()
            return
        life.state = "draining"
        if self._events is not None:
            self._events.withdrawn(life.number, cause)
        self._stop_if_idle(life)

    def _stop_if_idle(self, life: Life) -> None:
        if life.peer.batches or life.timer is not None:
            return
        assert self._loop is not None
        life.peer.drain()
        timeout_s = self._launch.settings.stop_timeout_s
        life.timer = self._loop.call_later(timeout_s, life.worker.kill)

    # Stop

    def close(self) -> None:
        self._is_closed, self._events = True, None
        for seat in self._seats:
            if seat.timer is not None:
                seat.timer.cancel()
        for life in self._lives.values():
            life.cancel_timers()
            if self._loop is not None and not life.has_exited:
                self._loop.remove_reader(life.worker.pid_fd)
            life.peer.events = None
            if life.state == "starting":
                life.worker.kill()
            else:
                life.worker.hang_up()
            life.peer.abort()

    def join(self, timeout_s: float) -> bool:
        ends = system_clock() + timeout_s
        for number, life in [*self._lives.items()]:
            if not life.worker.wait(max(0.0, ends - system_clock())):
                _log.warning("a worker did not stop, and was killed", extra={"replica": number})
            life.worker.kill()  # its children, if not itself
            if life.worker.wait(KILL_TIMEOUT_S):
                life.worker.close()
                del self._lives[number]
        return not self._lives
