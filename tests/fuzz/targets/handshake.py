"""The handshake: nobody who lacks the secret gets past it, and nothing is taken from him before.

A front and a worker talk through somebody who sees all that they say, and who may change, cut,
repeat or swap it, or say something of his own. Each end is proven only if what it has taken is
what its peer has said to it, in this very talk; else it ends with a ProtocolError of the remote's.
Until it is proven, it reads no further than the one small frame that is due.

An input is the steps of the one between: a byte for what he does to the next bytes, and what that
needs.
"""

from __future__ import annotations

from headrace.errors import ProtocolError
from headrace.wire import Connection, Hello, Memory, State, Welcome
from headrace.wire.coding import HELLO
from headrace.wire.handshake import HELLO_LIMITS, WELCOME_LIMITS
from tests.unit.wire.driver import SECRET, joined

from ._values import Drawn

MEASURED = ("headrace.wire.handshake", "headrace.wire.states")
TOKENS = (b"hdrc\x01\x01", b"hdrc\x01\x02", b"hdrc\x01\x03")
PREFIX_BYTES = 24
NONCE_BYTES = PROOF_BYTES = 32
CHALLENGE_BYTES = PREFIX_BYTES + NONCE_BYTES
HELLO_BYTES = PREFIX_BYTES + HELLO.size  # padding follows, which nobody looks at
MAX_UNPROVEN_BYTES = PREFIX_BYTES + max(
    limits.max_header_bytes + 64 for limits in (HELLO_LIMITS, WELCOME_LIMITS)
)
STEPS = 6


class End:
    """One end, what it was told, and what its peer has said."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.taken = b""
        self.said = b""
        self.is_proven = False
        self.is_refused = False

    def say(self) -> bytes:
        """What it has to say now."""
        out = b"" if self.is_refused else joined(self.connection.take_outgoing())
        self.said += out
        return out

    def hear(self, data: bytes, most: int) -> None:
        """Take bytes, at most so many at once, until it is proven or refuses them."""
        while data and not self.is_refused and not self.is_proven:
            try:
                buffer = self.connection.get_buffer()
                assert 0 < len(buffer) <= MAX_UNPROVEN_BYTES
                size = min(len(buffer), len(data), most)
                buffer[:size] = data[:size]
                self.taken += data[:size]
                data = data[size:]
                for message in self.connection.received(size):
                    assert isinstance(message, (Hello, Welcome))
                    self.is_proven = True
            except ProtocolError as error:
                assert error.side == "remote"
                assert self.connection.state is State.CLOSED
                self.is_refused = True


def pair(number: int, shared: bool) -> tuple[End, End]:
    """Two ends that have not talked yet; of each talk the nonces are others."""
    memory = bytearray(2 * 4096)
    first, second = memoryview(memory)[:4096], memoryview(memory)[4096:]
    front = Connection(
        *("front", SECRET, bytes([number, 0]) * 16),
        memory=Memory(first, second) if shared else None,
    )
    worker = Connection(
        *("worker", SECRET, bytes([number, 1]) * 16),
        memory=Memory(second, first) if shared else None,
    )
    return End(front), End(worker)


def record(shared: bool) -> list[bytes]:
    """What was said in another talk: the one between may say it again."""
    front, worker = pair(1, shared)
    front.said = joined(front.connection.opening())
    worker.hear(front.said, 4096)
    front.hear(worker.say(), 4096)
    worker.hear(front.say(), 4096)
    assert front.is_proven and worker.is_proven
    return [front.said, worker.said]


_RECORDS = {shared: record(shared) for shared in (False, True)}


def check(data: bytes) -> None:
    drawn = Drawn(data)
    shared = drawn.number(2) == 1
    front, worker = pair(2, shared)
    waiting = {id(worker): joined(front.connection.opening()), id(front): b""}
    front.said = waiting[id(worker)]
    for step in range(STEPS):
        speaker, hearer = (front, worker) if step % 2 == 0 else (worker, front)
        sent, waiting[id(hearer)] = waiting[id(hearer)], b""
        heard = changed(drawn, sent, [*_RECORDS[shared], front.said, worker.said])
        hearer.hear(heard, drawn.number(200) + 1 if drawn.number(2) else 4096)
        waiting[id(speaker)] += hearer.say()
    if front.is_proven:
        assert front.taken[:HELLO_BYTES] == worker.said[:HELLO_BYTES] != b"", "another hello"
    if worker.is_proven:
        assert vouched(worker.taken) == vouched(front.said), "another welcome"


def vouched(said: bytes) -> tuple[bytes, bytes]:
    """What a front says that a proof covers: the challenge, and the proof itself.

    The setup behind it is not covered, as nothing is that is said later: who can change what passes
    between two ends that have proven themselves is kept out by TLS.
    """
    welcome = said[CHALLENGE_BYTES + PREFIX_BYTES :]
    return said[:CHALLENGE_BYTES], welcome[:PROOF_BYTES]


def changed(drawn: Drawn, sent: bytes, known: list[bytes]) -> bytes:
    kind = drawn.number(8)
    if kind < 3:
        return sent
    if kind == 3 and sent:
        at = int.from_bytes(drawn.piece(2), "little") % len(sent)
        return sent[:at] + bytes([sent[at] ^ (drawn.number(255) + 1)]) + sent[at + 1 :]
    if kind == 4:
        return sent[: drawn.number(256)]
    if kind == 5:
        return known[drawn.number(len(known))]
    if kind == 6:
        at = drawn.number(256)
        return sent[:at] + drawn.piece(80) + sent[at + drawn.number(80) :]
    return drawn.piece(200) + sent


def seeds() -> list[bytes]:
    steps = [b"\0\0\0", b"\3\2\x20\0\5\0", b"\3\2\x40\0\5\0", b"\4\x20\0", b"\5\0\0", b"\5\1\0"]
    steps += [b"\5\2\0", b"\5\3\0", b"\6\x10\4abcd\4\0", b"\7\x04abcd\0"]
    calm = steps[0]
    found = [bytes([shared]) + calm * STEPS for shared in range(2)]
    return found + [
        b"\0" + calm * place + step + calm * STEPS for place in range(3) for step in steps
    ]
