"""Links between hosts that go down and come up again, between real network namespaces."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.workers.sockets import CONNECT_TIMEOUT_S, DEAD_AFTER_S, LAST_RETRY_S
from tests.e2e.conftest import Served, eventually
from tests.e2e.network import Host, Network, NoNetwork
from tests.e2e.remote import House, Load, has_said, journal, listens_at, wait_for_workers

pytestmark = pytest.mark.slow

MARGIN_S = 2.0
"""How late an answer may be on a busy machine."""
BACK_WITHIN_S = DEAD_AFTER_S + CONNECT_TIMEOUT_S + LAST_RETRY_S + 2 * MARGIN_S
"""From a link's return to the worker's: each end may have to notice first that it was away."""


@pytest.fixture
def house() -> Iterator[House]:
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        house = House(Path(folder))
        yield house
        house.stop()


@pytest.fixture
def network() -> Iterator[Network]:
    try:
        network = Network()
    except NoNetwork as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    try:
        yield network
    finally:
        network.remove()


def start_front(house: House, network: Network) -> Served:
    uds = house.folder / "s"
    return house.front(listen="0.0.0.0:0", uds=uds, before=network.before, workers__insecure="true")


def start_worker(house: House, front: Served, host: Host) -> Served:
    port = listens_at(front).rpartition(":")[2]
    return house.worker("Double", f"{host.front}:{port}", "--insecure", before=host.before)


@pytest.mark.parametrize("down_s", [3.0, DEAD_AFTER_S + 4.0])
def test_while_the_link_is_down_each_request_ends_by_its_deadline_and_after_it_all_is_well(
    house: House, network: Network, down_s: float
) -> None:
    front, host = start_front(house, network), network.host()
    worker = start_worker(house, front, host)
    front.wait_ready()
    with Load(front, clients=4, timeout_s=1.0) as load:
        load.wait_for_more(20)
        host.take_down()
        time.sleep(down_s)
        answered = load.statuses[200]
        host.take_up()
        eventually(lambda: load.statuses[200] > answered, "requests to be served", BACK_WITHIN_S)
        load.wait_for_more(50)
    assert set(load.statuses) <= {200, 503, 504} and load.statuses[504] and not load.wrong
    assert load.slowest_s < 1.0 + MARGIN_S
    assert front.metric("headrace_http_requests_total") >= load.count
    assert journal(worker).count("load") == 1, "the model stays loaded"


def test_what_a_worker_had_whose_link_goes_down_is_run_by_another(
    house: House, network: Network
) -> None:
    front, hosts = start_front(house, network), [network.host(), network.host()]
    for host in hosts:
        start_worker(house, front, host)
    front.wait_ready()
    wait_for_workers(front, 2)
    with Load(front, clients=16, timeout_s=60.0) as load:
        load.wait_for_more(50)
        hosts[0].take_down()
        eventually(lambda: has_said(front, "a worker was lost"), "the loss", BACK_WITHIN_S)
        load.wait_for_more(50)
        hosts[0].take_up()
        eventually(lambda: front.get("/readyz").text.count('"ready","') == 2, "both", BACK_WITHIN_S)
        load.wait_for_more(50)
    assert set(load.statuses) == {200} and not load.wrong
    assert load.slowest_s < DEAD_AFTER_S + 2 * MARGIN_S
