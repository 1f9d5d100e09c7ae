"""A program: floods a server with requests, or with clients that vanish, and prints what it got.

    python flood.py ask HOST PORT COUNT SEED
    python flood.py vanish HOST PORT COUNT SEED

It imports nothing but the standard library, so that several of them start soon.
"""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import sys
import time
from collections import Counter

AT_ONCE = 16
"""Requests that are sent before the first of them is answered."""
ANSWER_S = 60.0
GOOD = (b'{"n":1}', b"[1,2,3]", b'"text"', b"null")
BAD = (b"{", b'{"n":', b"", b"\xff", b"NaN", b"[" * 70 + b"]" * 70)
_HEAD = re.compile(rb"HTTP/1\.1 (\d+) [^\r]*\r\n(?:[^\r]+\r\n)*?content-length: (\d+)\r\n", re.I)


def request(body: bytes) -> bytes:
    return b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def ask(address: tuple[str, int], count: int, seed: int) -> Counter[str]:
    """As many good requests as bad ones, many at once on one connection; the answers' statuses.

    Each is answered with its own body or refused, or it counts as "wrong".
    """
    draw, told = random.Random(seed), Counter[str]()
    with socket.create_connection(address, ANSWER_S) as sock:
        for done in range(0, count, AT_ONCE):
            size = min(AT_ONCE, count - done)
            bodies = [draw.choice(GOOD if (done + n) % 2 else BAD) for n in range(size)]
            sock.sendall(b"".join(map(request, bodies)))
            for body, (status, answer) in zip(bodies, answers(sock, size), strict=True):
                is_right = answer == body if body in GOOD else status == 400
                told[str(status) if is_right else "wrong"] += 1
    return told


def answers(sock: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Of all that is sent before them, and nothing behind them."""
    found: list[tuple[int, bytes]] = []
    data = b""
    while len(found) < count:
        end = data.find(b"\r\n\r\n") + 4
        head = _HEAD.match(data) if end >= 4 else None
        if head is not None and len(data) >= (whole := end + int(head[2])):
            found.append((int(head[1]), data[end:whole]))
            data = data[whole:]
        elif more := sock.recv(1 << 16):
            data += more
        else:
            raise ConnectionError("closed")
    return found


def vanish(address: tuple[str, int], count: int, seed: int) -> Counter[str]:
    """Clients that go at a random place of a request, in a random way."""
    draw, told = random.Random(seed), Counter[str]()
    for _ in range(count):
        data = request(draw.choice((*GOOD, *BAD))) * draw.choice((1, 1, 3))
        with socket.create_connection(address, ANSWER_S) as sock:
            sock.sendall(data[: draw.choice((0, 1, 20, len(data) // 2, len(data), len(data)))])
            stays = draw.random()
            if stays > 0.9:
                time.sleep(draw.choice((0.0, 0.001, 0.005)))
            if draw.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        told["gone"] += 1
    return told


def main() -> None:
    how, host, port, count, seed = sys.argv[1:]
    do = {"ask": ask, "vanish": vanish}[how]
    sys.stdout.write(json.dumps(do((host, int(port)), int(count), int(seed))) + "\n")


if __name__ == "__main__":
    main()
