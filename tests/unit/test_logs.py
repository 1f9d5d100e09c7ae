"""Log records: one line each, whatever is in them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from pathlib import Path
from typing import Any, BinaryIO, TypeVarTuple

import pytest

from headrace.logs import JsonFormatter, RateLimit, TextFormatter, configure, lost_records

NASTY = 'a\r\n{"level":"fake"}\x1b[31mred\x00\u2028\x9b1m\U000e0001'


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def record(message: str = "it failed", **extra: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "name": "x", "levelname": "WARNING"})
    vars(made).update(extra)
    return made


def test_a_json_record_has_its_time_level_logger_message_and_extras() -> None:
    fields = json.loads(JsonFormatter().format(record(model="m", status=500)))
    assert fields.pop("time").endswith("+00:00")
    assert fields == {
        "level": "warning",
        "logger": "x",
        "message": "it failed",
        "model": "m",
        "status": 500,
    }


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_line_ends_and_escape_codes_in_values_stay_within_one_line(
    formatter: logging.Formatter,
) -> None:
    line = formatter.format(record(NASTY, request_id=NASTY))
    assert line.isprintable()
    if isinstance(formatter, JsonFormatter):
        assert json.loads(line)["message"] == NASTY


@pytest.mark.parametrize(
    "value", ["\ud800 lone", {(1, 2): 3}, Unprintable(), {"deep": Unprintable()}, 2**70, {1, 2}]
)
def test_a_value_that_json_cannot_have_does_not_lose_the_record(value: Any) -> None:
    fields = json.loads(JsonFormatter().format(record(odd=value, status=500)))
    assert (fields["message"], fields["status"]) == ("it failed", 500)
    assert "odd" in fields


def test_a_line_of_a_traceback_looks_like_no_record() -> None:
    text = TextFormatter().format(record(traceback=f"ValueError: {NASTY}"))
    first, *below = text.splitlines()
    assert below and all(line.startswith("    ") and line.isprintable() for line in below)
    assert first.isprintable()


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_traceback_comes_with_its_record(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        made = record(exc_info=(type(error), error, error.__traceback__))
    text = formatter.format(made)
    assert "ValueError: why" in text
    assert isinstance(formatter, TextFormatter) or len(text.splitlines()) == 1


def test_a_models_traceback_stands_below_its_line_of_text() -> None:
    lines = TextFormatter().format(record(traceback="Traceback\n  why", code="x")).splitlines()
    assert lines[0].endswith("it failed code=x") and lines[1:] == ["    Traceback", "      why"]


def test_a_second_lets_ten_records_of_a_reason_through_and_counts_the_others() -> None:
    limit = RateLimit(per_second=10)
    assert [limit.admit(5.0 + n / 100, "a") for n in range(25)] == [0] * 10 + [None] * 15
    assert limit.admit(5.5, "b") == 0, "each reason has its own"
    assert limit.admit(6.0, "a") == 15
    assert limit.admit(6.1, "a") == 0
    assert limit.admit(9.0, "a") == 0


_Ts = TypeVarTuple("_Ts")


class Hasty(asyncio.SelectorEventLoop):
    """A loop whose timers take a thousandth of their time."""

    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return super().call_later(delay / 1000, callback, *args, context=context)


class Told(logging.Handler):
    """The records of a logger, and who waits for the next."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self.counts: list[tuple[str, int]] = []
        self.heard = asyncio.Event()
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.counts.append((vars(record)["code"], vars(record)["held_back"]))
        self.heard.set()


@pytest.fixture
def quiet() -> logging.Logger:
    """A logger of its own."""
    return logging.Logger("quiet")


def test_what_no_record_follows_is_told_by_one_of_its_own(quiet: logging.Logger) -> None:
    async def flood() -> None:
        told = Told(quiet)
        limit = RateLimit(per_second=2, logger=quiet)
        assert [limit.admit(5.0, "a") for _ in range(5)] == [0, 0, None, None, None]
        assert [limit.admit(5.0, "b") for _ in range(2)] == [0, 0]
        await told.heard.wait()
        assert told.counts == [("a", 3)]
        assert limit.admit(6.0, "a") == 0, "told once"

    with asyncio.Runner(loop_factory=Hasty) as runner:
        runner.run(flood())


def test_what_a_record_follows_is_told_by_it_and_what_it_holds_back_later(
    quiet: logging.Logger,
) -> None:
    async def flood() -> None:
        told = Told(quiet)
        limit = RateLimit(per_second=1, logger=quiet)
        assert [limit.admit(5.0, "a") for _ in range(3)] == [0, None, None]
        assert [limit.admit(6.5, "a") for _ in range(2)] == [2, None]
        await told.heard.wait()
        assert told.counts == [("a", 1)]

    with asyncio.Runner(loop_factory=Hasty) as runner:
        runner.run(flood())


def test_a_flush_tells_of_all_that_is_held_back_once(quiet: logging.Logger) -> None:
    told = Told(quiet)
    limit = RateLimit(per_second=1, logger=quiet)
    for reason in "aab":
        limit.admit(5.0, reason)
    limit.flush()
    limit.flush()
    assert told.counts == [("a", 1)]


def test_without_a_place_to_tell_nothing_is_told() -> None:
    async def flood() -> None:
        limit = RateLimit(per_second=1)
        assert [limit.admit(5.0, "a") for _ in range(2)] == [0, None]
        limit.flush()
        assert limit.admit(6.0, "a") == 1

    asyncio.run(flood())


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back after the test."""
    logger = logging.getLogger()
    handlers, level, raising = logger.handlers[:], logger.level, logging.raiseExceptions
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logging.raiseExceptions = raising


@pytest.mark.parametrize(("form", "is_json"), [("json", True), ("auto", True), ("text", False)])
def test_records_go_to_standard_error_in_the_form_asked_for(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], form: str, is_json: bool
) -> None:
    configure("warning", form)
    logging.getLogger("headrace.x").info("too fine")
    logging.getLogger("headrace.x").warning("seen")
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    assert line.startswith("{") == is_json
    assert "seen" in line


@contextmanager
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[BinaryIO]:
    """Standard error is a pipe; its other end."""
    kept = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    try:
        with open(reading, "rb", buffering=0) as reader, open(2, "w", closefd=False) as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            yield reader
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_a_log_that_nobody_reads_loses_records_and_says_so_when_it_is_read(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unread(monkeypatch) as reader:
        configure("info", "json")
        while not lost_records():
            logging.getLogger("headrace.x").warning("x" * 1000)
        logging.getLogger("headrace.x").warning("y" * 1000)
        assert lost_records() == 2
        reader.read(1 << 16)
        logging.getLogger("headrace.x").warning("seen")
        logging.getLogger("headrace.x").warning("the last")
        lines = [json.loads(line) for line in reader.read(1 << 16).splitlines()]
        logging.getLogger().handlers[0].close()
        root.handlers.clear()
    told = [(line["message"], line.get("lost")) for line in lines]
    lost = ("records were lost: nobody has read the log", 2)
    assert told == [lost, ("seen", None), ("the last", None)]


def test_a_stream_in_its_place_is_not_known_by_a_number_that_may_become_anothers(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with open(tmp_path / "log", "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        configure("info", "json")
        number = stream.fileno()
    reading, writing = os.pipe()
    assert number in (reading, writing)
    logging.getLogger("headrace.x").warning("lost")
    os.close(writing)
    with open(reading, "rb") as reader:
        assert reader.read() == b""


def test_a_program_without_standard_error_logs_nowhere(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    configure("info", "auto")
    logging.getLogger("headrace.x").warning("to the descriptor")
    assert "to the descriptor" in capfd.readouterr().err
