"""Drives the real batcher with a virtual clock and a model of fixed cost.

A predict takes `FIXED_S + ITEM_S * n`, a replica's hand-over `HANDOVER_S` (half on the way there,
half on the way back), and a client of the closed loop sends its next request a short time after
its answer. The share of the ideal is what was served over what one replica that runs full
batches back to back would serve.

    python benchmarks/simulate.py            # the whole table, as Markdown
    python benchmarks/simulate.py --seconds 5
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from headrace.batching import Answer, Batch, Batcher, Item, Rules, Run
from headrace.config import Batching

FIXED_S = 0.005
ITEM_S = 0.0001
HANDOVER_S = 0.0006
RETURN_S = 0.0006
"""A client's next request comes up to this long after its answer, uniformly."""
MAX_BATCH_SIZE = 32
FULL_BATCH_S = FIXED_S + ITEM_S * MAX_BATCH_SIZE
IDEAL_PER_S = MAX_BATCH_SIZE / FULL_BATCH_S

RULES = {
    "one slot": Rules(second_slot=False, settling=False),
    "greedy second slot": Rules(second_slot_needs_full=False, settling=False),
    "full second slot": Rules(settling=False),
    "full second slot, settling": Rules(),
}


@dataclass
class Result:
    """What one run served."""

    seconds: float
    replicas: int
    batches: list[int] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of the ideal throughput."""
        return len(self.latencies_s) / self.seconds / (IDEAL_PER_S * self.replicas)

    def percentile_ms(self, percent: float) -> float:
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class Simulation:
    """Events on a virtual clock: arrivals, and what the replicas do."""

    def __init__(self, batcher: Batcher, *, replicas: int, seconds: float, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.result = Result(seconds, replicas)
        self.on_answer: Callable[[], object] = lambda: None
        self._warm_up_s = 0.1 * seconds
        self._end = seconds + self._warm_up_s
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._wake = float("inf")
        self._batcher = batcher
        self._at_hand: dict[int, deque[Batch]] = {r: deque() for r in range(replicas)}
        self._busy: set[int] = set()
        for replica in range(replicas):
            self._batcher.ready(0.0, replica)

    def at(self, instant: float, event: Callable[[], object]) -> None:
        heapq.heappush(self._events, (instant, next(self._order), event))

    def arrive(self) -> None:
        self._batcher.submit(self.now, [Item()])

    def predict_s(self, count: int) -> float:
        """How long a batch of so many items takes."""
        return FIXED_S + ITEM_S * count

    def expired(self, item: Item) -> None:
        """An item was answered without having run."""
        raise AssertionError("nothing expires here")

    def run(self) -> None:
        """Play all events up to the end; everything at one instant is one pass."""
        while self._events and self.now < self._end:
            self.now = min(self._events[0][0], self._wake)
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            actions, self._wake = self._batcher.tick(self.now)
            for action in actions:
                if isinstance(action, Run):
                    self._hand_over(action.batch)
                elif isinstance(action, Answer):
                    self.expired(action.item)

    def _hand_over(self, batch: Batch) -> None:
        def there() -> None:
            self._at_hand[batch.replica].append(batch)
            self._work(batch.replica)

        self.at(self.now + HANDOVER_S / 2, there)

    def _work(self, replica: int) -> None:
        if replica in self._busy or not self._at_hand[replica]:
            return
        batch = self._at_hand[replica].popleft()
        self._busy.add(replica)

        def done() -> None:
            self._busy.remove(replica)
            self.at(self.now + HANDOVER_S / 2, lambda: self._answered(batch))
            self._work(replica)

        begun = self.now + HANDOVER_S / 2
        self.at(begun, lambda: self._batcher.started(self.now, batch))
        self.at(self.now + self.predict_s(batch.count), done)

    @property
    def counts(self) -> bool:
        """Whether what happens now is part of the result."""
        return self._warm_up_s <= self.now < self._end

    def _answered(self, batch: Batch) -> None:
        counts = self.counts
        if counts:
            self.result.batches.append(batch.count)
        for index, item in enumerate(batch.items):
            assert self._batcher.part(self.now, batch, index)
            if counts:
                self.result.latencies_s.append(self.now - item.arrived)
            self.on_answer()
        self._batcher.ended(self.now, batch)


def closed_loop(rules: Rules, clients: int, *, replicas: int, seconds: float) -> Result:
    """So many clients, each with one request at a time."""
    simulation = Simulation(batcher(rules), replicas=replicas, seconds=seconds, seed=clients)

    def come_back() -> None:
        pause_s = simulation.random.uniform(0, RETURN_S)
        simulation.at(simulation.now + pause_s, simulation.arrive)

    simulation.on_answer = come_back
    for _ in range(clients):
        come_back()
    simulation.run()
    return simulation.result


def open_loop(rules: Rules, arrivals: Iterator[float], *, replicas: int, seconds: float) -> Result:
    """Requests at given instants, whatever becomes of those before."""
    simulation = Simulation(batcher(rules), replicas=replicas, seconds=seconds, seed=0)

    def arrive_and_plan() -> None:
        simulation.arrive()
        simulation.at(next(arrivals), arrive_and_plan)

    simulation.at(next(arrivals), arrive_and_plan)
    simulation.run()
    return simulation.result


def batcher(rules: Rules) -> Batcher:
    """One whose queue has no end."""
    batching = Batching(max_batch_size=MAX_BATCH_SIZE)
    return Batcher(batching, max_items=10**6, max_bytes=1, rules=rules)


def poisson(load: float, *, replicas: int) -> Iterator[float]:
    """Arrival instants at a share of the ideal throughput."""
    source, instant = random.Random(7), 0.0
    while True:
        instant += source.expovariate(load * IDEAL_PER_S * replicas)
        yield instant


def bursts(size: int, every_s: float) -> Iterator[float]:
    """So many at one instant, again and again."""
    for number in itertools.count():
        yield from itertools.repeat(number * every_s, size)


CLIENTS = (1, 8, 32, 40, 64, 256)
LOADS = (0.50, 0.80, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="simulated, a cell")
    seconds = parser.parse_args().seconds
    for replicas in (1, 2):
        heads = [f"{n * replicas} clients" for n in CLIENTS]
        heads += [f"Poisson {load:.0%}: p50, p99 ms" for load in LOADS]
        heads += ["bursts of 64: p50, p99 ms"]
        print(f"\n{replicas} replica(s)\n\n| rules |", " | ".join(heads), "|")
        print("|---" * (len(heads) + 1) + "|")
        for name, rules in RULES.items():
            cells = []
            for clients in CLIENTS:
                done = closed_loop(rules, clients * replicas, replicas=replicas, seconds=seconds)
                cells.append(f"{done.share:.3f}")
            streams = [poisson(load, replicas=replicas) for load in LOADS]
            for stream in [*streams, bursts(64 * replicas, 0.025)]:
                done = open_loop(rules, stream, replicas=replicas, seconds=seconds)
                cells.append(f"{done.percentile_ms(50):.1f}, {done.percentile_ms(99):.1f}")
            print(f"| {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
