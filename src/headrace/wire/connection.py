"""One end of a connection between a server and a worker, without I/O."""

from __future__ import annotations

from typing import NoReturn

import msgspec

from ..errors import ConfigError, ProtocolError
from .coding import KIND_OF, NO_LIMITS, NONCE_BYTES, decode, encode, encode_parts
from .frames import Chunk, Frame, FrameLimits, FrameReader, Kind
from .handshake import SEGMENTS, FrontHandshake, Handshake, WorkerHandshake, frame_limits
from .ledger import BOOKED, Ledger
from .messages import Cancel, Challenge, End, Hello, Message, Parts, Run, Setup, Welcome
from .segments import Memory, Outbox, Segments
from .states import AFTER, FRONT, WORKER, Side, State

_GREETINGS = (Challenge, Hello, Welcome)
_LAST_GREETING = int(Kind.WELCOME)  # an enum's members are slow to compare


class Connection:
    """One end: bytes in, messages out, and the other way round.

    The owner writes what `opening` returns, reads into `get_buffer`, tells `received` how much,
    and writes what `take_outgoing` and `send` return.

    Args:
        side: Which end this is.
        secret: What both ends know and others do not.
        nonce: 32 random bytes, never used before.
        limits: Of frames, once the other side is proven; None for what the server's limits ask
            for.
        setup: On the front, what the worker needs to know.
        memory: What this end shares with the other, if it does: large bodies stand there then.

    Attributes:
        sent_bytes: Bytes handed out to be written.
        received_bytes: Bytes taken.

    Raises:
        ConfigError: There is no secret, the nonce is not of 32 bytes, or the setup cannot be
            sent.
    """

    def __init__(
        self,
        side: Side,
        secret: bytes,
        nonce: bytes,
        limits: FrameLimits | None = None,
        setup: Setup | None = None,
        memory: Memory | None = None,
    ) -> None:
        if not secret:
            raise ConfigError("secret: expected a secret for the worker protocol, got nothing")
        if len(nonce) != NONCE_BYTES:
            raise ConfigError(f"nonce: expected {NONCE_BYTES} bytes, got {len(nonce)}")
        self._side: Side = side
        self._other: Side = WORKER if side == FRONT else FRONT
        self.state = State.OPENED
        self.sent_bytes = 0
        self.received_bytes = 0
        self._nonce = nonce
        self._memory = memory
        self._segments: Segments | None = None
        segment_bytes = 0 if memory is None else len(memory.outgoing)
        self._handshake: Handshake
        if side == FRONT:
            setup = msgspec.structs.replace(setup or Setup(), segment_bytes=segment_bytes)
            limits = limits or frame_limits(setup.limits)
            self._handshake = FrontHandshake(secret, nonce, setup, limits)
        else:
            self._handshake = WorkerHandshake(secret, nonce, limits, segment_bytes)
        self._limits = NO_LIMITS
        self._reader = FrameReader(self._handshake.first_limits)
        self._ledger = Ledger()
        self._outgoing: list[Chunk] = []
        self._error: ProtocolError | None = None

    @property
    def state(self) -> State:
        """How far the connection is."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        # Looked up here, and not for each message: the hash of a state is computed in Python.
        self._may_send = AFTER[state, self._side]
        self._may_receive = AFTER[state, self._other]

    def opening(self) -> list[Chunk]:
        """What to write at once: the front's challenge."""
        return self._say(Challenge(self._nonce)) if self._side == FRONT else []

    def get_buffer(self) -> memoryview:
        """Where the next bytes go; never empty.

        Raises:
            ProtocolError: Again what `received` raised.
        """
        self._refuse_after_error()
        return self._reader.get_buffer()

    def received(self, size: int) -> list[Message]:
        """The messages that are complete now that `size` bytes came into the buffer.

        They hold copies, no views. Those of the handshake are answered through `take_outgoing`;
        of them the front is told the `Hello` and the worker the `Welcome`, once proven.

        Raises:
            ProtocolError: The other side broke the protocol. The connection is closed for good,
                and each further call raises the same.
        """
        self._refuse_after_error()
        self.received_bytes += size
        messages = []
        try:
            for frame in self._reader.frames(size):
                message = self._take(frame)
                if message is not None:
                    messages.append(message)
        except ProtocolError as error:
            self._error = error
            self.state = State.CLOSED
            self._outgoing.clear()
            raise
        return messages

    def take_outgoing(self) -> list[Chunk]:
        """What the handshake wants written, once."""
        chunks, self._outgoing = self._outgoing, []
        return chunks

    def send(self, message: Message) -> list[Chunk]:
        """The chunks of a message, for one gathered write.

        Parts are spread over as many frames as the limits ask for, and a value that no frame can
        hold becomes a failure.

        Raises:
            ProtocolError: The message may not be sent now, or cannot be written; nothing has
                changed then. Or the other side broke the protocol before.
        """
        self._refuse_after_error()
        if isinstance(message, _GREETINGS):
            raise ProtocolError("the handshake is not the owner's to send", side="local")
        return self._say(message)

    def _say(self, message: Message) -> list[Chunk]:
        kind = KIND_OF[type(message)]
        after = self._may_send.get(kind) or self._refuse(self._side, kind)
        if kind in BOOKED and self._segments is not None:
            chunks = self._say_shared(message, self._segments)
        else:
            message, chunks = self._encode(message, None)
            if kind in BOOKED:
                self._ledger.book(message, "local")
        if after is not self._state:
            self.state = after
        self.sent_bytes += sum(map(len, chunks))
        return chunks

    def _encode(self, message: Message, outbox: Outbox | None) -> tuple[Message, list[Chunk]]:
        if isinstance(message, Parts):
            return encode_parts(message, self._limits, outbox)
        return message, encode(message, self._limits, outbox)

    def _say_shared(self, message: Message, segments: Segments) -> list[Chunk]:
        """What is of a batch, with its large bodies in the segment."""
        if isinstance(message, Run):
            message = Run(message.batch, message.items, message.left_s, segments.inbox.taken)
        try:
            message, chunks = self._encode(message, segments.outbox)
            self._ledger.book(message, "local")
        except ProtocolError:
            segments.outbox.drop()
            raise
        if isinstance(message, Run):
            segments.outbox.keep(message.batch)
        else:
            segments.sent()
        return chunks

    def _take_shared(self, message: Message, segments: Segments) -> None:
        """What a message says of the segments."""
        if isinstance(message, Run):
            segments.was_taken(message.taken)
        elif isinstance(message, Parts) and message.end is End.ENDED:
            segments.outbox.free(message.batch)

    def _take(self, frame: Frame) -> Message | None:
        """What the owner is to know of a frame."""
        kind = frame.kind
        after = self._may_receive.get(kind) or self._refuse(self._other, kind)
        if kind <= _LAST_GREETING:
            return self._greet(frame, after)
        segments = self._segments
        message = decode(frame, None if segments is None else segments.inbox)
        if kind in BOOKED:
            self._ledger.book(message, "remote")
            if segments is not None:
                self._take_shared(message, segments)
        if after is not self._state:
            self.state = after
        if type(message) is Cancel and message.batch not in self._ledger:
            return None
        return message

    def _greet(self, frame: Frame, after: State) -> Message | None:
        step = self._handshake.take(frame)
        self.state = after
        if step.reply is not None:
            self._outgoing += self._say(step.reply)
        if step.message is not None:
            self._limits = step.limits
            self._agree(step.message)
        self._reader.limits = step.limits
        return step.message

    def _agree(self, message: Message) -> None:
        """Use the memory if both sides have it."""
        if isinstance(message, Hello):
            is_shared = message.capabilities & SEGMENTS
        else:
            is_shared = isinstance(message, Welcome) and message.setup.segment_bytes
        if self._memory is not None and is_shared:
            self._segments = Segments(self._memory)

    def _refuse(self, sender: Side, kind: int) -> NoReturn:
        name, state = Kind(kind).name.lower(), self.state.value
        raise ProtocolError(
            f"the {sender} may not send {name} to a connection that is {state}",
            side="local" if sender == self._side else "remote",
        )

    def _refuse_after_error(self) -> None:
        if self._error is not None:
            raise self._error
