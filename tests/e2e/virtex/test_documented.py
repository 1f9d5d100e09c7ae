"""The documented programs, as their users run them."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.e2e.conftest import Serve, Served, eventually, starter
from tests.e2e.virtex.served import PROGRAMS, Launch, free_port, samples, scrape
from virtex import HttpClient, HttpMessage
from virtex.serial import decode_numpy, decode_pil, encode_bytes, encode_numpy

pytestmark = pytest.mark.slow

GATEWAY = "prometheus-pushgateway"


def test_the_numpy_round_trip(launch: Launch) -> None:
    first = free_port()
    service = launch.gunicorn("round_trip", workers=2, env={"METRICS_PORT": str(first)})
    rng = np.random.default_rng(1)
    arrays = list(rng.standard_normal((20, 3, 4)))
    with HttpClient(service.address) as client:
        for bundle in (arrays, arrays[:1]):
            message = HttpMessage(data=bundle)
            message.encode(encode_numpy)
            assert message.validate()
            response = client.post(message)
            assert response.error is None or response.error == []
            response.decode(decode_numpy)
            assert len(response.data) == len(bundle)
            for array, answer in zip(bundle, response.data, strict=True):
                assert answer.dtype == np.float64
                np.testing.assert_array_equal(answer, np.cumsum(array, axis=0))
                answer += 1  # decoded arrays are one's own

        messages = [HttpMessage(data=[encode_numpy(array)]) for array in arrays]
        responses = client.post_bundle(service.address, messages)
        again = asyncio.run(client.post_bundle_async(service.address, messages))
        for array, *answers in zip(arrays, responses, again, strict=True):
            for answer in answers:
                np.testing.assert_array_equal(decode_numpy(answer.data[0]), np.cumsum(array, 0))

        odd = HttpMessage(data=[encode_numpy(arrays[0]), "bm90IGFuIGFycmF5"])
        response = client.post(service.address, odd)
        assert response.data == []
        assert response.error.startswith("sums caught exception: data[1]: ")
    eventually(lambda: scrape(first).get("pid") in service.workers(), "its metrics")


def test_the_flow_of_images(launch: Launch) -> None:
    service = launch.uvicorn("images")
    rng = np.random.default_rng(1)
    images = [
        Image.fromarray(rng.integers(0, 256, (height, 31, 3), dtype=np.uint8))
        for height in (1, 17, 64)
    ]
    files = [io.BytesIO() for _ in images]
    for image, file, kind in zip(images, files, ("png", "bmp", "tiff"), strict=True):
        image.save(file, kind)
    message = HttpMessage(data=[file.getvalue() for file in files])
    message.encode(encode_bytes)
    with HttpClient(service.address) as client:
        response = client.post(message)
    response.decode(decode_pil)
    for image, answer in zip(images, response.data, strict=True):
        assert (answer.mode, answer.size) == ("RGB", image.size)
        np.testing.assert_array_equal(np.asarray(answer), np.asarray(ImageOps.invert(image)))


@pytest.fixture(scope="module")
def gateway(short_folder: Path) -> Iterator[int]:
    """The port of a push gateway."""
    path = shutil.which(GATEWAY)
    if path is None:
        assert "CI" not in os.environ, f"{GATEWAY} is not installed"
        pytest.skip(f"{GATEWAY} is not installed")
    port = free_port()
    process = subprocess.Popen(
        [path, f"--web.listen-address=127.0.0.1:{port}"],
        cwd=short_folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: pushed(port) is not None, "the gateway")
        yield port
    finally:
        process.kill()
        process.wait()


def pushed(port: int) -> dict[str, str] | None:
    """What the gateway has of `service_x`, by each worker's instance; None if it is not there."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)
    except httpx.TransportError:
        return None
    groups: dict[str, str] = {}
    for line in answer.text.splitlines():
        instance = re.search(r'[{,]instance="([^"]+)"', line)
        if instance is not None and 'job="service_x"' in line and "server_instance" in line:
            groups[instance[1]] = groups.get(instance[1], "") + line + "\n"
    return groups


def test_metrics_are_pushed_and_deleted_at_the_end(launch: Launch, gateway: int) -> None:
    env = {"SPELLING": "prom", "METRICS_MODE": "push", "METRICS_PORT": str(gateway)}
    service = launch.gunicorn("service_x", workers=2, env=env)
    for n in range(20):
        assert service.ask(n, n).json()["data"] == [2 * n] * 2

    def total(name: str) -> float:
        return sum(samples(text).get(name, 0.0) for text in (pushed(gateway) or {}).values())

    eventually(lambda: (total("requests_total"), total("queries_total")) == (20, 40), "the sums")
    assert len(pushed(gateway) or {}) == 2, "a group for each worker"
    assert total("server_latency_milliseconds_count") == 20
    service.terminate()
    assert service.exit_code() == 0
    eventually(lambda: pushed(gateway) == {}, "the groups to be deleted")


def test_a_gateway_that_is_not_there_slows_nothing(launch: Launch) -> None:
    env = {"SPELLING": "metrics", "METRICS_MODE": "push", "METRICS_PORT": str(free_port())}
    service = launch.gunicorn("service_x", env=env)
    for n in range(50):
        assert service.ask(n).json()["data"] == [2 * n]
    service.terminate()
    assert service.exit_code() == 0


# Beside the documented server, the same handler behind `headrace serve`.


@pytest.fixture
def serve_handler(short_folder: Path) -> Iterator[Callable[[str, str], Served]]:
    """Serves `server:<name>` with an executor."""
    servers: list[Served] = []
    serve: Serve = starter(short_folder, servers, PROGRAMS / "scripted.py")

    def start(name: str, executor: str) -> Served:
        return serve(name, executor=executor)

    yield start
    for server in servers:
        server.stop()


@pytest.mark.parametrize(
    ("name", "executor"),
    [("handler", "process"), ("Scripted", "thread"), ("app", "inline")],
)
def test_headrace_serves_a_handler(
    serve_handler: Callable[[str, str], Served], name: str, executor: str
) -> None:
    server = serve_handler(name, executor)
    (model,) = server.get("/").json()["models"]
    for path in ("/", f"/models/{model['name']}/messages"):
        answer = server.post(path, {"data": [1, "a"]})
        assert (answer.status_code, answer.json()) == (200, {"data": [2, "aa"], "error": None})
        assert server.request("POST", path, content="{}").json() == {"data": [], "error": None}
        for bad in ("", "[]", '{"data": 1}'):
            refused = server.request("POST", path, content=bad)
            assert (refused.status_code, refused.json()["data"]) == (400, [])
            assert refused.json()["error"]
        failed = server.post(path, {"data": [1, "raise"]})
        assert (failed.status_code, failed.json()["data"]) == (500, [])
        said = failed.json()["error"]
        assert re.fullmatch(r".+ caught exception: data\[1\]: ValueError: it said so", said)
    assert server.metric("headrace_items_total", model=model["name"], code="ok") == 6


def test_a_handler_that_ends_its_worker_fails_its_own_message_only(launch: Launch) -> None:
    service = launch.headrace("scripted", "--executor", "process")
    wires = service.open_wires(16)
    blocked = service.block()
    elements: list[Any] = ["die" if n == 7 else n for n in range(16)]
    for wire, element in zip(wires, elements, strict=True):
        wire.post("/", json.dumps({"data": [element]}))
    service.set("go")
    assert blocked.answer().status == 200
    for wire, element in zip(wires, elements, strict=True):
        answer = wire.answer()
        if element == "die":
            assert (answer.status, answer.json()["data"]) == (500, [])
            assert "caught exception" in answer.json()["error"]
        else:
            assert (answer.status, answer.json()["data"]) == (200, [2 * element])
    eventually(lambda: service.ask(5).status_code == 200, "it to be ready again")
    assert service.ask(5).json()["data"] == [10]


def test_a_module_is_found_where_one_is(launch: Launch) -> None:
    service = launch.headrace("reloaded")
    assert service.ask(1, 2).json() == {"data": [2, 4], "error": None}
    service.terminate()
    assert service.exit_code() == 0
