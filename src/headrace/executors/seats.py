"""The places of replicas in worker processes, and the lives of the workers that hold them."""

from __future__ import annotations

from ..clock import NEVER, Cancellable, Instant, system_clock
from ..config import Workers
from ..workers.mark import examine
from .base import Loss
from .launcher import Worker
from .restarts import Restarts
from .socket import Peer
from .verdict import Death, verdict

RSS_EVERY_S = 1.0
"""How often a worker's memory is measured at most."""


class Life:
    """One worker, from its start to its end.

    Attributes:
        number: What the engine calls it.
        seat: Whose place it holds, or held before it was retired.
        worker: Its process.
        peer: Its connection.
        state: "starting", "ready" or "draining".
        was_ready: Whether it ever was.
        began: When it was started.
        expected_at: When it should be ready.
        items: How many it has answered.
        killed_for: Why this side ended it; empty if it did not. The first reason holds.
        retired_for: Why it is to stop: "recycled" or "scaled"; empty if it is not.
        rss_looked_at: When its memory was last measured.
        has_exited: Whether the process has ended.
        is_disconnected: Whether the connection has.
        timer: Ends it where it does not get ready, or does not stop, by itself.
        overdue: Runs out when it is not ready although it should be.
    """

    def __init__(self, number: int, seat: Seat, worker: Worker, peer: Peer) -> None:
        self.number = number
        self.seat = seat
        self.worker = worker
        self.peer = peer
        self.state = "starting"
        self.was_ready = False
        self.began = system_clock()
        self.expected_at = seat.back_at
        self.items = 0
        self.killed_for = ""
        self.retired_for = ""
        self.rss_looked_at = self.began
        self.has_exited = False
        self.is_disconnected = False
        self.timer: Cancellable | None = None
        self.overdue: Cancellable | None = None

    def cancel_timers(self) -> None:
        """Nothing is waited for any more."""
        for timer in (self.timer, self.overdue):
            if timer is not None:
                timer.cancel()
        self.timer = self.overdue = None

    def is_worn(self, settings: Workers) -> bool:
        """Whether it is time to recycle it."""
        now = system_clock()
        if now < self.seat.recycles_from:
            return False
        if 0 < settings.recycle_after_items <= self.items:
            return True
        if not settings.recycle_memory_bytes or now < self.rss_looked_at + RSS_EVERY_S:
            return False
        self.rss_looked_at = now
        return self.worker.rss_bytes() >= settings.recycle_memory_bytes

    def examine(self, *, is_out_of_memory: bool) -> tuple[Loss, str]:
        """The loss that its end is, and the interpreter's report of a crash, if there is one."""
        evidence = examine(self.worker.mark, self.worker.crash_fd)
        death = Death(
            exit_code=self.worker.exit_code(),
            bye=self.peer.bye,
            killed_for=self.killed_for,
            is_out_of_memory=is_out_of_memory,
            evidence=evidence,
        )
        return verdict(death, self.peer.batches), evidence.crash

    def kill(self, cause: str) -> None:
        """End it at once.

        Args:
            cause: As `Loss.cause`.
        """
        self.killed_for = self.killed_for or cause
        self.worker.kill()


class Seat:
    """The place of one replica.

    Attributes:
        place: Which of the replicas it is.
        number: What the engine calls the one that holds it, or will.
        restarts: Its back-off.
        recycling: That of successors.
        life: Who holds it.
        successor: Who will, in place of a worn one that goes on until then.
        recycles_from: Before this instant a worn one keeps its place: its last successor failed.
        timer: Until the next start.
    """

    def __init__(self, place: int, number: int) -> None:
        self.place = place
        self.number = number
        self.restarts = Restarts()
        self.recycling = Restarts()
        self.life: Life | None = None
        self.successor: Life | None = None
        self.recycles_from: Instant = 0.0
        self.timer: Cancellable | None = None

    @property
    def is_ready(self) -> bool:
        """Whether who holds it takes batches."""
        return self.life is not None and self.life.state == "ready"

    @property
    def back_at(self) -> Instant:
        """When a worker that is started now should be ready."""
        recovery_s = self.restarts.recovery_s
        return NEVER if recovery_s is None else system_clock() + recovery_s
