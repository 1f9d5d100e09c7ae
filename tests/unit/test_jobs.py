"""The batching protocol's bytes: as they stand in the golden files, and however they arrive."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ProtocolError
from headrace.jobs import (
    ASK,
    ID_CHARS,
    LENGTH_BYTES,
    JobFrames,
    JobResults,
    read_jobs,
    read_results,
    write_jobs,
    write_results,
)

GOLDEN = Path(__file__).parent / "golden" / "jobs"
FIRST, SECOND, THIRD = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))
TOO_LONG = 2**31 - 1


def golden(name: str) -> bytes:
    """The bytes of a golden file: hexadecimal, comments after #."""
    return bytes.fromhex(re.sub(r"#.*", "", (GOLDEN / f"{name}.hex").read_text()))


def length(number: int) -> bytes:
    return number.to_bytes(LENGTH_BYTES, "big", signed=True)


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def message_of(framed: bytes) -> bytes:
    """The one message in these bytes."""
    (message,) = JobFrames().feed(framed)
    return message


BATCHES = {
    "batch_json": {FIRST: b'{"text":"hi"}', SECOND: b"{}"},
    "batch_msgpack": {FIRST: b"\x81\xa4text\xa2hi", SECOND: b"\x80"},
}
RESULTS = {
    "results_json": JobResults({FIRST: b'{"length":2}', SECOND: b'{"length":0}'}),
    "results_msgpack": JobResults({FIRST: b"\x81\xa6length\x02", SECOND: b"\x81\xa6length\x00"}),
    "results_errors": JobResults(
        {FIRST: b'{"length":2}', SECOND: b'["no text"]', THIRD: b'"the model failed"'},
        frozenset({SECOND, THIRD}),
        frozenset({THIRD}),
    ),
    "results_errors_msgpack": JobResults(
        {FIRST: b"\x81\xa6length\x02", SECOND: b"\x91\xa7no text"}, frozenset({SECOND})
    ),
}

job_ids = st.uuids().map(str)
batches = st.dictionaries(job_ids, st.binary(max_size=64), min_size=1, max_size=5)


@st.composite
def results(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> JobResults:
    found = draw(st.dictionaries(job_ids, bodies, min_size=1, max_size=5))
    errors = draw(st.frozensets(st.sampled_from(sorted(found))))
    failed = draw(st.frozensets(st.sampled_from(sorted(errors)))) if errors else frozenset[str]()
    return JobResults(found, errors, failed)


def test_every_golden_file_is_compared() -> None:
    assert {path.stem for path in GOLDEN.glob("*.hex")} == {"ask", *BATCHES, *RESULTS}


def test_a_worker_asks_in_four_zero_bytes() -> None:
    assert golden("ask") == ASK == length(0)


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_is_the_golden_bytes(name: str) -> None:
    assert write_jobs(BATCHES[name]).hex(" ") == golden(name).hex(" ")
    read = read_jobs(message_of(golden(name)))
    assert list(read.items()) == list(BATCHES[name].items())


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_the_golden_bytes(name: str) -> None:
    expected = RESULTS[name]
    written = write_results(expected, as_text="msgpack" not in name)
    assert written.hex(" ") == golden(name).hex(" ")
    assert read_results(message_of(golden(name)), expected.bodies) == expected


@given(batches)
def test_a_batch_comes_back_as_it_was(jobs: dict[str, bytes]) -> None:
    read = read_jobs(message_of(write_jobs(jobs)))
    assert list(read.items()) == list(jobs.items())


@given(results(st.binary(max_size=64)))
def test_results_come_back_as_they_were(written: JobResults) -> None:
    assert read_results(message_of(write_results(written)), written.bodies) == written


@given(results(st.text(max_size=16).map(str.encode)))
def test_results_that_are_text_come_back_as_they_were(written: JobResults) -> None:
    framed = write_results(written, as_text=True)
    assert read_results(message_of(framed), written.bodies) == written
    assert all(isinstance(value, str) for value in msgspec.msgpack.decode(framed[4:]).values())


def test_text_that_is_no_utf8_cannot_be_written_as_text() -> None:
    with pytest.raises(UnicodeDecodeError):
        write_results(JobResults({FIRST: b"\xff"}), as_text=True)


@pytest.mark.parametrize("name", ["ask", *BATCHES, *RESULTS])
def test_a_message_may_be_split_at_every_byte(name: str) -> None:
    data = golden(name)
    whole = data[LENGTH_BYTES:]
    for at in range(1, len(data)):
        frames = JobFrames()
        assert frames.feed(data[:at]) == []
        assert not frames.is_between
        assert frames.feed(data[at:]) == [whole]
        assert frames.is_between


@given(st.lists(st.binary(max_size=12), max_size=6), st.data())
def test_messages_come_out_whole_and_in_order_however_they_arrive(
    messages: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(length(len(message)) + message for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    frames, found = JobFrames(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += frames.feed(stream[begin:end])
    assert found == messages
    assert frames.is_between


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=4), st.data())
def test_a_reader_that_takes_no_more_than_is_missing_gets_one_message_at_a_time(
    messages: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(length(len(message)) + message for message in messages)
    at = 0
    for message in messages:
        frames, found = JobFrames(), list[bytes]()
        while not found:
            assert frames.missing_bytes > 0
            some = data.draw(st.integers(1, frames.missing_bytes))
            found = frames.feed(stream[at : at + some])
            at += some
        assert found == [message]
        assert frames.missing_bytes == LENGTH_BYTES
    assert at == len(stream)


@pytest.mark.parametrize("number", [-1, -(2**31), 11, TOO_LONG])
def test_a_length_out_of_bounds_is_refused_before_its_message_comes(number: int) -> None:
    frames = JobFrames(max_bytes=10)
    with pytest.raises(ProtocolError, match=rf"a length of 0 to 10, got {number}") as raised:
        frames.feed(length(number))
    assert raised.value.side == "remote"
    with pytest.raises(ProtocolError):
        frames.feed(b"more")


def test_what_was_whole_before_a_bad_length_is_given_first() -> None:
    frames = JobFrames(max_bytes=10)
    assert frames.feed(length(1) + b"a" + length(0) + length(-1)) == [b"a", b""]
    with pytest.raises(ProtocolError, match="got -1"):
        frames.feed(b"")


def test_a_length_up_to_the_bound_is_taken() -> None:
    assert JobFrames(max_bytes=10).feed(length(10) + bytes(10)) == [bytes(10)]
    assert JobFrames(max_bytes=10).feed(length(0)) == [b""]
    assert JobFrames().feed(length(256 * 1024 * 1024)) == []
    with pytest.raises(ProtocolError):
        JobFrames().feed(length(TOO_LONG))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "got: Input data was truncated"),
        (packed({}), "at least one job"),
        (packed([FIRST]), "Expected `object`, got `array`"),
        (packed({1: b""}), "Expected `str`, got `int`"),
        (packed({FIRST: "text"}), "Expected `bytes`, got `str`"),
        (packed({FIRST[:-1]: b""}), f"ids of {ID_CHARS} characters, got one of 35"),
        (packed({FIRST + "0": b""}), f"ids of {ID_CHARS} characters, got one of 37"),
        (packed({FIRST: b""}) + b"\x00", "trailing characters"),
        (b"\x81\xa1\xff\xc4\x00", "can't decode byte 0xff"),
    ],
)
def test_what_is_no_batch_is_refused(message: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(reason)) as raised:
        read_jobs(message)
    assert raised.value.side == "remote"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "got: Input data was truncated"),
        (b"\x81\xa1\xff\xc4\x00", "can't decode byte 0xff"),
        (b"\x91" * 100_000, "maximum recursion depth"),
        (packed([FIRST]), "a msgpack map of results, got list"),
        (packed({}), "1 too few, 0 unknown"),
        (packed({SECOND: b""}), "1 too few, 1 unknown"),
        (packed({FIRST: b"", SECOND: b""}), "0 too few, 1 unknown"),
        (packed({FIRST: 1}), "results of str or bin, got int"),
        (packed({FIRST: b"", "error_ids": 1}), "error_ids: expected a text of job ids, got int"),
        (packed({FIRST: b"", "error_ids": FIRST[:-1]}), "error_ids: expected a text of job ids"),
        (packed({FIRST: b"", "error_ids": SECOND}), "error_ids of the batch"),
        (packed({FIRST: b"", "failed_ids": [FIRST]}), "failed_ids: expected a text of job ids"),
        (packed({FIRST: b"", "failed_ids": FIRST}), "failed_ids among them"),
    ],
)
def test_what_are_no_results_of_the_batch_is_refused(message: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(reason)) as raised:
        read_results(message, [FIRST])
    assert raised.value.side == "remote"


def test_results_may_be_text_or_bytes() -> None:
    message = packed({FIRST: "{}", SECOND: b"\xff"})
    assert read_results(message, [FIRST, SECOND]).bodies == {FIRST: b"{}", SECOND: b"\xff"}


def test_an_empty_list_of_errors_is_none() -> None:
    assert read_results(packed({FIRST: b"", "error_ids": ""}), [FIRST]).errors == frozenset()


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats()
leaves = scalars | st.text(max_size=40) | st.binary(max_size=40)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([FIRST, "error_ids", "failed_ids"]) | st.text(max_size=4), inner
        )
    ),
    max_leaves=8,
)


@given(st.binary(max_size=64) | values.map(packed), st.integers(0, 64))
def test_junk_is_a_broken_protocol_and_nothing_else(junk: bytes, cut: int) -> None:
    for data in (junk, junk[:cut]):
        for read in (read_jobs, lambda message: read_results(message, [FIRST])):
            try:
                read(data)
            except ProtocolError:
                continue


@given(st.lists(st.binary(max_size=16), max_size=5))
def test_junk_is_cut_or_refused(pieces: list[bytes]) -> None:
    frames = JobFrames(max_bytes=64)
    try:
        for piece in pieces:
            for message in frames.feed(piece):
                assert len(message) <= 64
    except ProtocolError:
        pass
