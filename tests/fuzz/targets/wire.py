"""Fuzzes both ends of the worker protocol, guided by coverage.

    python tests/fuzz/wire.py --seconds 60
    python tests/fuzz/wire.py --input FILE    # again what was found

Needs atheris. An input is one byte for the end, its state and the form of the rest, one for the
size of reads, and what comes over the wire: as it is, or made one frame whose lengths are right,
so that the search also gets past the prefix. It must be met with a ProtocolError at worst, and
with the same however it is cut. What breaks this is written to the current folder, and the exit
code is not 0.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STATES = ("unproven", "challenged", "proven", "ready", "shared")
FRAMED = 16
MAX_INPUT_BYTES = 2048
MAX_RSS_MIB = 512


def main(arguments: Sequence[str]) -> None:
    """Fuzz for some seconds; does not return."""
    # What is held against the limit is the most that the process has had, and that begins with
    # what its parent had when it was forked: pytest's, at the end of a long run.
    inherited_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--input", type=Path)
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["headrace.wire"], enable_loader_override=False):
        importlib.import_module("headrace.wire")
    target = _target()
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(_seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        flags = [
            f"-max_total_time={options.seconds}",
            f"-max_len={MAX_INPUT_BYTES}",
            f"-rss_limit_mb={MAX_RSS_MIB + inherited_mib}",
            "-timeout=10",
            "-print_final_stats=1",
        ]
        place = str(options.input) if options.input else corpus
        atheris.Setup([sys.argv[0], *flags, place], target)
        atheris.Fuzz()


def _framed(data: bytes) -> bytes:
    """A frame from a byte for its kind, two for the length of its header, header and payload."""
    from headrace.wire import encode_frame

    size = int.from_bytes(data[1:3], "little")
    return b"".join(encode_frame(data[0], data[3 : 3 + size], [data[3 + size :]]))


def _target() -> Callable[[bytes], None]:
    """What is run with each input."""
    from headrace.errors import ProtocolError
    from tests.unit.wire.test_arbitrary import LIMITS, Ends

    def outcome(data: bytes, state: str, side: int, size: int) -> str | None:
        """All messages that the bytes are, or None if they are refused."""
        ends = Ends(state)
        end = (ends.front, ends.worker)[side]
        found = []
        try:
            while data:
                buffer = end.get_buffer()
                assert 0 < len(buffer) <= LIMITS.max_frame_bytes
                taken = min(len(buffer), len(data), size)
                buffer[:taken] = data[:taken]
                data = data[taken:]
                found += end.received(taken)
        except ProtocolError as error:
            assert error.side == "remote"
            return None
        return repr(found)

    def target(data: bytes) -> None:
        if len(data) < 3:
            return
        state, side, size = STATES[data[0] % 8 % 5], data[0] // 8 % 2, data[1] or 1
        stream = _framed(data[2:]) if data[0] & FRAMED else data[2:]
        whole = outcome(stream, state, side, 2 * MAX_INPUT_BYTES)
        assert whole == outcome(stream, state, side, size)

    return target


def _seeds() -> list[bytes]:
    """Every message, alone and behind others, for each end and state, and in both forms."""
    from headrace.wire import encode
    from tests.unit.wire import driver

    opening, child = driver.joined(driver.front().opening()), driver.worker()
    driver.feed(child, opening)
    frames = [
        driver.joined(child.take_outgoing()),
        *map(driver.joined, map(encode, driver.EXAMPLES)),
        *_shared(),
    ]
    streams = [*frames, b"".join(frames[5:7]), frames[8] + frames[9], b"".join(frames[9:])]
    loose = [
        bytes([frame.kind]) + len(frame.header).to_bytes(2, "little") + frame.header + frame.payload
        for frame in map(driver.frame, driver.EXAMPLES)
    ]
    heads = range(FRAMED)
    plain = [bytes([head, 64]) + stream for head in heads for stream in streams]
    return plain + [bytes([head | FRAMED, 64]) + each for head in heads for each in loose]


def _shared() -> list[bytes]:
    """A batch and its answer whose large bodies are in memory."""
    from headrace.call import Payload, Value
    from headrace.wire import End, Parts, Run
    from tests.unit.wire import driver
    from tests.unit.wire.test_arbitrary import LIMITS, SEGMENT_BYTES

    pair = driver.ready_pair(LIMITS, SEGMENT_BYTES)
    body = bytes(SEGMENT_BYTES // 2 + 1)
    items = ((0, Payload(body=body, input_type="a/b", output_type="a/b")),)
    run = driver.joined(pair.front.send(Run(8, items)))
    driver.feed(pair.worker, run)
    answer = pair.worker.send(Parts(8, ((0, Value(body, "a/b")),), End.ENDED))
    return [run, driver.joined(answer)]


if __name__ == "__main__":
    main(sys.argv[1:])
