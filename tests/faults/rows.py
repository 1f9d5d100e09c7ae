"""What must survive what: every row of the fault suite, by its id.

A test says which rows it proves with `@pytest.mark.row("A1")`. One that switches a row's defence
off, and shows that the row's check fails then, is marked `@pytest.mark.counter("A1")`. `scripts/
faults` runs them all, long, and writes the report; a row without a test, or without a counter-test
or a reason, fails `test_rows.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "A": "HTTP that is broken",
        "B": "Bodies that are broken",
        "C": "Too much",
        "D": "Wrong data",
        "E": "Models and workers that fail",
        "F": "Isolation and order",
        "G": "Overload and deadlines",
        "H": "Clients that vanish or crawl",
        "I": "Start, drain, reload",
        "J": "The worker socket",
        "K": "Metrics and logs",
        "L": "The machine",
        "M": "Soak",
    }
)

ROWS: Mapping[str, str] = MappingProxyType(
    {
        "A1": "noise, a TLS hello, an HTTP/2 preface: 400 and closed, never silence",
        "A2": "lengths that contradict or are no numbers: 400, and what follows is not run",
        "A3": "broken chunks: 400",
        "A4": "bare CR, NUL, folded, nameless or spaced headers: 400",
        "A5": "a head cut at every byte: the answer of the whole one",
        "A6": "pipelining: in order, bounded ahead, closed behind a bad one",
        "A7": "Expect with a body over the limit: 413, unread",
        "A8": "a client that half-closes gets its whole answer",
        "A9": "giant heads, headers and URLs: 431 or 414, memory flat",
        "A10": "CR LF in a name or an id is never echoed",
        "B1": "bodies cut short at every byte and with every bit turned: answered, never hung",
        "B2": "nesting beyond the limit: 400, every process alive",
        "B3": "msgpack that declares gigabytes, extensions, odd keys: 400, nothing allocated",
        "B4": "NaN, infinities, huge integers, surrogates, BOM: one documented answer each",
        "B5": "a wrong content type or charset: 415, never guessed",
        "B6": "empty, blank, null and [] are refused unless the schema takes them",
        "B7": "bad then good bodies on one connection: the good ones right, no growth",
        "C1": "a body at the limit is taken, one byte more is a 413",
        "C2": "chunks without end: 413 at the limit, memory near it",
        "C3": "a bomb of compression is never inflated",
        "C4": "shapes that lie: 400 before any array exists",
        "C5": "a hundred thousand inputs, outputs or parameters: 400",
        "C6": "many large bodies at once: a budget of bytes holds",
        "C7": "an answer too large or too deep: 500 for that item alone",
        "D1": "missing, extra, null and mistyped fields: 422 that names the JSON path",
        "D2": "wrong dtype, rank or fixed dimension: refused by name",
        "D3": "integers out of range, floats and bools for integers: refused",
        "D4": "every codec gives the same verdict on the same value",
        "D5": "an unknown model, version or route: 404",
        "D6": "items of different shapes never share a batch",
        "E1": "pre- or postprocess or the encoder raises for one item: that one fails",
        "E2": "predict raises for one item, or for the whole batch: isolated",
        "E3": "predict breaks the batch contract: 500 for the batch, no answer swapped",
        "E4": "NaN in an answer: as documented, always valid JSON",
        "E5": "predict outlives the deadline, predict_timeout_s, or holds the GIL for ever",
        "E6": "load or warm-up raises or hangs: never ready, reason told, exit 4",
        "E7": "exits, signals and crashes in user code: innocents are run again",
        "E8": "memory runs out: as an exception, or as a death",
        "E9": "a poison item sent again and again: two deaths each at most",
        "E10": "every worker dies, or crashes at each start: 503 at once, heals by itself",
        "E11": "one replica ten times slower gets fewer batches",
        "E12": "user code floods stdout, spawns children, changes handlers, cwd, locale, loop",
        "E13": "a cost or key function raises: that item fails alone",
        "F1": "bad, raising and vanishing clients among good ones: every good answer right",
        "F2": "a cancelled item never touches its batch mates",
        "F3": "max_batch_size holds with requests of several items",
        "F4": "a client with 500 in flight does not starve one with 1, if they are told apart",
        "F5": "a flooded model slows another by no more than its share",
        "F6": "answers never swap, under kills too",
        "G1": "ten times the capacity, open loop: goodput holds, refusals are soon",
        "G2": "5,000 requests at once on 500 connections: each answered",
        "G3": "a deadline that passes in the queue: 504 then, never dispatched",
        "G4": "deadlines that are none: 400; too long ones are cut",
        "G5": "a full queue that empties: taken again at once, gauges at 0",
        "G6": "file descriptors run out: no spinning, heals",
        "G7": "connections at the limit: as documented, probes answer",
        "H1": "a client that goes at any stage: nothing is done for it, all is freed",
        "H2": "ten thousand connects and disconnects leave nothing",
        "H3": "slow heads, slow bodies, silence: closed at their deadline",
        "H4": "slow readers of large answers: a write deadline, memory bounded",
        "I1": "SIGTERM under load: every accepted request answered, exit 0",
        "I2": "a request on an open connection during the drain: answered or 503",
        "I3": "a second SIGTERM, ^C to the group: faster, what runs is answered",
        "I4": "SIGTERM while starting, warming or restarting: gone within 5 s",
        "I5": "SIGKILL of the parent: workers gone, port free, the next start works",
        "I6": "started twice on one address: the second says so and leaves the first alone",
        "I7": "stale, wrong, long or unwritable socket paths: replaced or a clear error",
        "I8": "a rolling restart of replicas: no failure, never all at once",
        "J1": "who has no secret is closed before anything is parsed",
        "J2": "absurd lengths, half frames, ends at every byte: refused, no busy loop",
        "J3": "unknown, doubled and foreign ids and miscounted answers: dropped, run again",
        "J4": "a worker that never reads, or floods, never blocks the server",
        "J5": "both ends of the frame parser, fuzzed: no crash, hang or leak",
        "K1": "random paths and names add no series",
        "K2": "counters stay right over deaths of workers",
        "K3": "a push gateway that is down, hangs or fails: serving unaffected",
        "K4": "log injection: one JSON record a line",
        "K5": "secrets are in no log, error, metric or argv",
        "K6": "stdout closed or full: serving goes on",
        "L1": "the wall clock steps by an hour: nothing moves",
        "L2": "the whole tree stopped and continued: expired ones 504, no mass kill",
        "L3": "busy loops on every core: slower, no error, no healthy worker killed",
        "L4": "the temporary or the run folder is full or gone: serving goes on",
        "M1": "a million good requests and a million bad: memory is flat",
        "M2": "ten thousand deaths of workers: no zombie, descriptor or file left",
        "M3": "a hundred thousand random disconnects: all tables back to 0",
        "M4": "the detectors of leaks and swaps notice builds that leak and swap",
    }
)

STATED: Mapping[str, int] = MappingProxyType(
    {
        "B7": 10_000,
        "H2": 10_000,
        "K1": 100_000,
        "M1": 2_000_000,
        "M2": 10_000,
        "M3": 100_000,
    }
)
"""How often, of rows that say so; run less often, they hold no further than that."""

NO_COUNTER: Mapping[str, str] = MappingProxyType({})
"""Rows that no switch can make fail, and why."""

NOT_APPLICABLE: Mapping[str, str] = MappingProxyType(
    {
        "C4": "no route takes a shape: there are neither v2 routes nor tensors in bodies yet",
    }
)
"""Rows of what headrace does not do yet, and why."""

OTHERWISE: Mapping[str, str] = MappingProxyType(
    {
        "C3": "the answer is 415, as for any coding that is not read, and not 413",
        "C5": "the answer is 413, as for all that is too large; no route has outputs or parameters",
        "C7": (
            "only an answer's size has a limit: one 2,000 deep fails where Python cannot write it"
            " (3.11), and is given where it can"
        ),
        "E7": (
            "what raises SystemExit or KeyboardInterrupt ends no worker: its item alone fails, as"
            " model_error, and not as replica_lost, which is for processes that end"
        ),
        "E9": (
            "an end by SIGKILL looks as an act from outside does, and so does every end of a worker"
            " of another host: it is pardoned to each item once, so that who kills workers at"
            " random convicts nobody; such poison costs three deaths at most"
        ),
    }
)
"""Rows of which a case is answered otherwise than the first list of faults asked for, and why."""
