"""How each side proves that it knows the secret, before the other parses anything from it."""

from __future__ import annotations

import hmac
import struct
from typing import Final, NamedTuple, Protocol

import msgspec

from ..config import Limits
from ..errors import ConfigError, ProtocolError
from .coding import HELLO, NONCE_BYTES, PROOF_BYTES, decode, encode
from .frames import VERSION, Frame, FrameLimits, Kind, aligned
from .messages import Challenge, Hello, Message, Setup, Welcome
from .rows import MAX_ROWS
from .states import FRONT, WORKER, Side

SEGMENTS: Final = 1
"""The capability of a worker that shares memory with its front."""

MAX_SETUP_BYTES: Final = 64 * 1024

# Before the other side is proven, a reader takes the one frame that is due and no more.
CHALLENGE_LIMITS: Final = FrameLimits(NONCE_BYTES, 0, (Kind.CHALLENGE,))
HELLO_LIMITS: Final = FrameLimits(HELLO.size, 0, (Kind.HELLO,))
WELCOME_LIMITS: Final = FrameLimits(PROOF_BYTES + MAX_SETUP_BYTES, 0, (Kind.WELCOME,))


class Step(NamedTuple):
    """What follows from a message of the handshake.

    Attributes:
        reply: What to answer.
        message: What the owner is told.
        limits: What the next frame may be.
    """

    reply: Message | None
    message: Message | None
    limits: FrameLimits


class Handshake(Protocol):
    """One side's part in the handshake."""

    @property
    def first_limits(self) -> FrameLimits:
        """What the other side's first frame may be."""
        ...

    def take(self, frame: Frame) -> Step:
        """Answer a frame; that it is due has been checked.

        Raises:
            ProtocolError: It is malformed, or its proof is wrong.
        """
        ...


class FrontHandshake:
    """The front's part: challenge, check the hello, welcome.

    Args:
        secret: What both sides know and others do not.
        nonce: The front's random bytes.
        setup: For the welcome.
        limits: What frames may be once the worker is proven.

    Raises:
        ConfigError: The setup cannot be sent.
    """

    first_limits = HELLO_LIMITS

    def __init__(self, secret: bytes, nonce: bytes, setup: Setup, limits: FrameLimits) -> None:
        self._secret = secret
        self._nonce = nonce
        self._setup = setup
        self._limits = limits
        try:
            encode(Welcome(bytes(PROOF_BYTES), setup), WELCOME_LIMITS)
        except ProtocolError as error:
            raise ConfigError(f"the setup cannot be sent to a worker: {error.message}") from error

    def take(self, frame: Frame) -> Step:
        """Check the hello; see `Handshake`."""
        hello = decode(frame)
        assert isinstance(hello, Hello)
        agreed = (self._secret, self._nonce, hello.nonce, hello.capabilities)
        _check(WORKER, proof(WORKER, *agreed), hello.proof)
        setup = self._setup
        if not hello.capabilities & SEGMENTS:
            setup = msgspec.structs.replace(setup, segment_bytes=0)
        return Step(Welcome(proof(FRONT, *agreed), setup), hello, self._limits)


class WorkerHandshake:
    """The worker's part: hello, then check the welcome.

    Args:
        secret: What both sides know and others do not.
        nonce: The worker's random bytes.
        limits: What frames may be once the front is proven; None for what its setup asks for.
        segment_bytes: Of each segment of memory that is shared with the front; 0 for none.
    """

    first_limits = CHALLENGE_LIMITS

    def __init__(
        self, secret: bytes, nonce: bytes, limits: FrameLimits | None, segment_bytes: int = 0
    ) -> None:
        self._capabilities = SEGMENTS if segment_bytes else 0
        self._segment_bytes = segment_bytes
        self._secret = secret
        self._nonce = nonce
        self._front_nonce = b""
        self._limits = limits

    def take(self, frame: Frame) -> Step:
        """Answer the challenge, or check the welcome; see `Handshake`."""
        if frame.kind == Kind.CHALLENGE:
            challenge = decode(frame)
            assert isinstance(challenge, Challenge)
            self._front_nonce = challenge.nonce
            hello = Hello(self._capabilities, self._nonce, self._proof_of(WORKER))
            return Step(hello, None, WELCOME_LIMITS)
        # The setup behind the proof is not looked at before the proof holds.
        _check(FRONT, self._proof_of(FRONT), bytes(frame.header[:PROOF_BYTES]))
        welcome = decode(frame)
        assert isinstance(welcome, Welcome)
        if welcome.setup.segment_bytes not in (0, self._segment_bytes):
            found, own = welcome.setup.segment_bytes, self._segment_bytes
            raise ProtocolError(f"expected segments of {own} bytes, got {found}", side="remote")
        return Step(None, welcome, self._limits or frame_limits(welcome.setup.limits))

    def _proof_of(self, side: Side) -> bytes:
        return proof(side, self._secret, self._front_nonce, self._nonce, self._capabilities)


def proof(side: Side, secret: bytes, front: bytes, worker: bytes, capabilities: int) -> bytes:
    """What a side sends to show that it knows the secret.

    Args:
        side: Whose proof it is; that of one side is of no use to the other.
        secret: The secret.
        front: The front's nonce.
        worker: The worker's nonce.
        capabilities: What the worker's hello says of itself.
    """
    nonces = worker + front if side == FRONT else front + worker
    agreed = struct.pack("<BI", VERSION, capabilities)
    return hmac.digest(secret, f"headrace {side} 1".encode() + agreed + nonces, "sha256")


def frame_limits(limits: Limits) -> FrameLimits:
    """What frames may be on a server with these limits: a batch's bodies, or one answer."""
    most = max(limits.max_queue_bytes, limits.max_body_bytes, limits.max_response_bytes)
    return FrameLimits(max_payload_bytes=aligned(most) + aligned(1) * MAX_ROWS)


def _check(side: Side, expected: bytes, found: bytes) -> None:
    if not hmac.compare_digest(expected, found):
        raise ProtocolError(f"the {side} has not proven that it knows the secret", side="remote")
