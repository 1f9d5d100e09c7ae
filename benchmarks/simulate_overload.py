"""Overload with deadlines: the real batcher against other rules, at a virtual clock.

The model, its hand-over and its events are those of `simulate.py`, but slower by `SLOWER`, so that
a full queue is worth more than a deadline. Arrivals are Poisson at so many times the capacity, and
do not care what becomes of those before. Goodput is what was answered in time, as a share of what
full batches back to back would answer.

    python benchmarks/simulate_overload.py              # the tables, as Markdown
    python benchmarks/simulate_overload.py --seconds 5
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import simulate

from headrace.batching import Batch, Batcher, Item, Rules, State
from headrace.batching.fleet import Replica
from headrace.batching.queue import Bucket
from headrace.call import Failure
from headrace.config import Batching
from headrace.errors import HeadraceError

SLOWER = 8.0
"""How much slower than simulate's model: 488 items a second, batches of 66 ms."""
QUEUE_ITEMS = 1024
LIFO_S = 0.1
"""Adaptive LIFO turns the order when the oldest has waited so long."""
CODEL_TARGET_S, CODEL_INTERVAL_S = 0.1, 0.2
"""While the queue was not empty for the interval, what has waited for the target is dropped."""

DROPPED = Failure(code="deadline_exceeded", message="dropped")


class LifoBatcher(Batcher):
    """Newest first, while the oldest has waited for long."""

    def _cut(self, now: float, replica: Replica, bucket: Bucket) -> None:
        # By rank: those that came last go first from now on, and keep their order for removal.
        if now - bucket.items[0].arrived > LIFO_S and bucket.items[0].rank >= 0:
            for item in bucket.items:
                item.rank = -item.arrived
            bucket.items.sort()
        super()._cut(now, replica, bucket)

    def submit(self, now: float, items: Sequence[Item]) -> None:
        super().submit(now, items)
        bucket = self.queue.buckets[None]
        if bucket.items[0].rank < 0:
            for item in items:
                bucket.remove(item)
                item.rank = -now
                bucket.insert(item)


class CodelBatcher(Batcher):
    """Drops what has waited for long, while the queue does not become empty."""

    _empty_at = 0.0

    def submit(self, now: float, items: Sequence[Item]) -> None:
        if not self.queue:
            self._empty_at = now
        super().submit(now, items)

    def _cut(self, now: float, replica: Replica, bucket: Bucket) -> None:
        if now - self._empty_at > CODEL_INTERVAL_S:
            late = [i for i in bucket.items if now - i.arrived > CODEL_TARGET_S]
            for item in late:
                self.queue.remove(item)
                self._answer(item, State.EXPIRED, DROPPED)
            if late:
                return  # what is to run is chosen without them
        super()._cut(now, replica, bucket)


WITHOUT, WITH = Rules(admission=False), Rules()
KINDS: dict[str, tuple[type[Batcher], Rules]] = {
    "first in, first out": (Batcher, WITHOUT),
    "the same, estimated wait": (Batcher, WITH),
    "adaptive LIFO": (LifoBatcher, WITHOUT),
    "CoDel-like drop": (CodelBatcher, WITHOUT),
    "CoDel-like drop, estimated wait": (CodelBatcher, WITH),
}


@dataclass
class Outcome:
    """What became of the requests of one run."""

    seconds: float
    good_s: list[float] = field(default_factory=list)
    late: int = 0
    refused: int = 0
    given_up_s: list[float] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        """Of the capacity."""
        return len(self.good_s) / self.seconds / (simulate.IDEAL_PER_S / SLOWER)

    def good_ms(self, percent: float) -> float:
        ordered = sorted(self.good_s) or [0.0]
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    @property
    def told_late(self) -> float:
        """The share of requests without an answer that learned it only after waiting."""
        return len(self.given_up_s) / max(1, len(self.given_up_s) + self.refused)


class Overload(simulate.Simulation):
    """Arrivals with deadlines; batch times vary by a factor of `noise` (of a log-normal)."""

    def __init__(
        self, kind: str, *, seconds: float, timeouts_s: Sequence[float], noise: float
    ) -> None:
        batcher, rules = KINDS[kind]
        batching = Batching(max_batch_size=simulate.MAX_BATCH_SIZE)
        bounded = batcher(batching, max_items=QUEUE_ITEMS, max_bytes=1, rules=rules)
        super().__init__(bounded, replicas=1, seconds=seconds, seed=1)
        self.outcome = Outcome(seconds)
        self._timeouts_s = timeouts_s
        self._noise = noise

    def arrive(self) -> None:
        item = Item(deadline=self.now + self.random.choice(self._timeouts_s))
        try:
            self._batcher.submit(self.now, [item])
        except HeadraceError:
            self.outcome.refused += self.counts

    def predict_s(self, count: int) -> float:
        factor = self.random.lognormvariate(-(self._noise**2) / 2, self._noise)
        return SLOWER * factor * super().predict_s(count)

    def expired(self, item: Item) -> None:
        if self.counts:
            self.outcome.given_up_s.append(self.now - item.arrived)

    def _answered(self, batch: Batch) -> None:
        for index, item in enumerate(batch.items):
            if self._batcher.part(self.now, batch, index) and self.counts:
                assert self.now <= item.deadline
                self.outcome.good_s.append(self.now - item.arrived)
        self._batcher.ended(self.now, batch)


def arrivals(load: float) -> Iterator[float]:
    return simulate.poisson(load / SLOWER, replicas=1)


def played(
    kind: str, load: float, *, seconds: float, timeouts_s: Sequence[float], noise: float
) -> Outcome:
    """One run."""
    run = Overload(kind, seconds=seconds, timeouts_s=timeouts_s, noise=noise)
    instants = arrivals(load)

    def arrive_and_plan() -> None:
        run.arrive()
        run.at(next(instants), arrive_and_plan)

    run.at(next(instants), arrive_and_plan)
    run.run()
    return run.outcome


MIXES: dict[str, tuple[Sequence[float], float]] = {
    "deadline 1 s": ([1.0], 0.0),
    "deadline 1 s, batch times vary (sigma 0.3)": ([1.0], 0.3),
    "deadline 1 s, batch times vary (sigma 0.8)": ([1.0], 0.8),
    "deadline 0.3 s": ([0.3], 0.0),
    "deadline 0.3 s, batch times vary (sigma 0.3)": ([0.3], 0.3),
    "deadlines 0.3, 1 and 5 s, batch times vary (sigma 0.3)": ([0.3, 1.0, 5.0], 0.3),
    "no deadline to speak of (30 s)": ([30.0], 0.3),
}
LOADS = (0.8, 1.0, 2.0, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="simulated, a cell")
    seconds = parser.parse_args().seconds
    for mix, (timeouts_s, noise) in MIXES.items():
        print(f"\n{mix}\n\n| rule |", " | ".join(f"{load:g} times" for load in LOADS), "|")
        print("|---" * (len(LOADS) + 1) + "|")
        for kind in KINDS:
            cells = [
                cell(played(kind, load, seconds=seconds, timeouts_s=timeouts_s, noise=noise))
                for load in LOADS
            ]
            print(f"| {kind} |", " | ".join(cells), "|", flush=True)


def cell(done: Outcome) -> str:
    """Goodput; p50 and p99 of the good; how many of the others were told only after waiting."""
    told = f"{done.told_late:.0%}" if done.refused or done.given_up_s else "none"
    return f"{done.goodput:.2f}; {done.good_ms(50):.0f}, {done.good_ms(99):.0f} ms; {told}"


if __name__ == "__main__":
    main()
