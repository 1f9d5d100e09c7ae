"""Alarms: the platform's best, and the loop's own timers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

import pytest
import uvloop

from headrace.loadtest.alarm import Alarm, LoopTimer, TimerFile, alarm

Making = Callable[[asyncio.AbstractEventLoop, Callable[[], object]], Alarm]
MAKINGS: list[Making] = [LoopTimer]
if sys.platform == "linux":
    MAKINGS.append(TimerFile)


@pytest.fixture(params=MAKINGS, ids=lambda making: making.__name__)
def making(request: pytest.FixtureRequest) -> Making:
    found: Making = request.param
    return found


def test_it_rings_once_and_not_before_its_instant(making: Making) -> None:
    async def main() -> None:
        loop, rang = asyncio.get_running_loop(), []
        ringing = asyncio.Event()

        def ring() -> None:
            rang.append(time.monotonic())
            ringing.set()

        bell = making(loop, ring)
        due = time.monotonic() + 0.02
        bell.set(due)
        await asyncio.wait_for(ringing.wait(), 10)
        await asyncio.sleep(0.02)
        assert len(rang) == 1
        # uvloop counts whole milliseconds from the instant at which its pass began.
        assert rang[0] >= due - 0.003
        ringing.clear()
        bell.set(0.0)  # long past
        await asyncio.wait_for(ringing.wait(), 10)
        bell.close()

    uvloop.run(main())


def test_the_last_instant_set_counts_and_a_closed_one_never_rings(making: Making) -> None:
    async def main() -> None:
        loop, rang = asyncio.get_running_loop(), []
        bell = making(loop, lambda: rang.append(True))
        bell.set(time.monotonic() + 0.001)
        bell.set(time.monotonic() + 3600)
        await asyncio.sleep(0.02)
        assert rang == []
        bell.set(time.monotonic() + 0.001)
        bell.close()
        bell.close()
        await asyncio.sleep(0.02)
        assert rang == []

    uvloop.run(main())


def test_an_alarm_set_anew_by_its_callback_rings_again(making: Making) -> None:
    async def main() -> None:
        loop, rang = asyncio.get_running_loop(), []
        done = asyncio.Event()

        def ring() -> None:
            rang.append(True)
            if len(rang) == 5:
                done.set()
            else:
                bell.set(time.monotonic() + 0.001)

        bell = making(loop, ring)
        bell.set(time.monotonic())
        await asyncio.wait_for(done.wait(), 10)
        bell.close()
        assert len(rang) == 5

    uvloop.run(main())


def test_the_platforms_best_is_taken() -> None:
    async def main() -> None:
        bell = alarm(asyncio.get_running_loop(), lambda: None)
        assert isinstance(bell, MAKINGS[-1])  # type: ignore[arg-type]
        bell.close()

    uvloop.run(main())
