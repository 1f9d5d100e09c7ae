"""Answers over TLS: what is not read is counted, bounded in time, and sent to its end."""

from __future__ import annotations

import pytest

from headrace import Limits
from headrace.http.connection import GRACE_S
from headrace.http.tls_transport import HIGH_WATER_BYTES, SLICE_BYTES, TlsTransport
from tests.unit.http.peers import SHUTDOWN_S, Peer, Peers, post

LIMITS = Limits(write_timeout_s=5.0, keep_alive_s=8.0)
LARGE = b"[" + b"1," * (1 << 20) + b"1]"
OUT_OF_SIGHT = HIGH_WATER_BYTES + SLICE_BYTES
"""What the transports below may hold without telling."""


def stalled(peers: Peers, headers: str = "") -> Peer:
    """A client that has not read its large answer."""
    peer = peers.connect(is_tls=True)
    peer.is_stalled = True
    peer.send(post(LARGE, headers))
    peers.run()
    assert peer.unread_bytes <= OUT_OF_SIGHT + SLICE_BYTES, "what is not read is not encrypted"
    return peer


def read_slowly(peers: Peers, peer: Peer) -> None:
    """Read all of the answer, half of it in each span that there is for that."""
    for _ in range(40):
        if peer.answers:
            return
        wanted = peer.connection.transport.get_write_buffer_size() // 2 + OUT_OF_SIGHT
        while wanted > 0:
            wanted -= 10_000
            peer.read(10_000)
        peers.loop.advance(4.0)
    raise AssertionError("it does not come to its end")


def test_all_of_it_is_counted_but_what_is_out_of_sight() -> None:
    with Peers(limits=LIMITS) as peers:
        transport = stalled(peers).connection.transport
        assert len(LARGE) - OUT_OF_SIGHT <= transport.get_write_buffer_size() < len(LARGE) + 1000


def test_who_reads_gets_all_of_it_and_goes_on() -> None:
    with Peers(limits=LIMITS) as peers:
        peer = stalled(peers)
        peer.is_stalled = False
        peer.read()
        peer.send(post(b"[1]"))
        peers.run()
        assert [answer.body for answer in peer.answers] == [LARGE, b"[1]"]
        assert peer.connection.transport.get_write_buffer_size() == 0


def test_who_never_reads_is_given_up_at_the_write_deadline() -> None:
    with Peers(limits=LIMITS) as peers:
        peer = stalled(peers)
        assert not peer.is_reading, "no more of its requests are taken"
        peers.loop.advance(4.9)
        assert not peer.is_closed
        peers.loop.advance(0.7)
        assert peer.is_closed
        assert peers.state.connections == set()


@pytest.mark.parametrize("headers", ["", "connection: close\r\n"])
def test_who_reads_slowly_gets_all_of_it(headers: str) -> None:
    """Beyond the time that an idle connection has, and that of the end over TLS."""
    with Peers(limits=LIMITS) as peers:
        peer = stalled(peers, headers)
        before = peers.clock()
        read_slowly(peers, peer)
        assert peers.clock() - before > 2 * SHUTDOWN_S
        assert peer.answers[0].body == LARGE
        peers.loop.advance(2 * SHUTDOWN_S)
        assert peer.is_closed and peer.unread_bytes == 0


def test_a_drain_waits_for_who_reads_slowly() -> None:
    with Peers(limits=LIMITS) as peers:
        peer = stalled(peers)
        peer.connection.shutdown()
        peers.loop.advance(2 * GRACE_S)
        assert not peer.is_closing()
        read_slowly(peers, peer)
        assert peer.answers[0].body == LARGE
        peers.loop.advance(SHUTDOWN_S)
        assert peer.is_closed


def test_answers_of_several_requests_keep_their_order() -> None:
    with Peers(limits=LIMITS) as peers:
        peer = stalled(peers)
        for n in range(10):
            peer.connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % n)
        peer.is_stalled = False
        peer.read()
        assert [answer.body for answer in peer.answers] == [LARGE, *(b"%d" % n for n in range(10))]


def test_a_client_that_ends_is_sent_what_was_written() -> None:
    """It may still read: the end of TLS is sent behind it."""
    with Peers(limits=LIMITS) as peers:
        peer = stalled(peers)
        assert isinstance(peer.connection.transport, TlsTransport)
        assert not peer.connection.transport.eof_received()
        peer.close()
        peer.is_stalled = False
        peer.read()
        assert peer.answers[0].body == LARGE
        peers.run()
        assert peer.is_closed


def test_what_comes_behind_the_close_is_not_parsed() -> None:
    with Peers(limits=LIMITS) as peers:
        peer = stalled(peers, "connection: close\r\n")
        assert peer.connection.transport.is_closing() and not peer.is_closing()
        peer.connection.transport.write(b"more")
        peer.send(post(b"[1]"))
        peer.is_stalled = False
        peer.read()
        peers.run()
        assert [answer.body for answer in peer.answers] == [LARGE]
        assert peer.is_closed
