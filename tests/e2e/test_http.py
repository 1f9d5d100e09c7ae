"""What a server answers over real connections, to clients good and bad."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from headrace.http.sockets import has_unread
from tests.e2e.conftest import Served, eventually

DRIP_S = 0.1


def test_every_page_of_a_ready_server_answers(shared: Served) -> None:
    overview = shared.get("/").json()
    assert [model["name"] for model in overview["models"]] == ["scripted", "anything", "size"]
    assert "<html" in shared.get("/", headers={"accept": "text/html"}).text.lower()
    assert shared.get("/livez").text == "ok\n"
    replicas = [{"replica": 0, "state": "ready", "reason": ""}]
    model = {"ready": True, "reason": "", "replicas": replicas}
    assert shared.get("/readyz").json() == {
        "ready": True,
        "reason": "",
        "models": dict.fromkeys(("scripted", "anything", "size"), model),
    }
    health = shared.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert "headrace_http_requests_total" in shared.get("/metrics").text
    assert "/v1/models/size:predict" in shared.get("/openapi.json").json()["paths"]
    assert shared.get("/models/size").json()["reads"][0] == "application/octet-stream"
    for path in ("/docs", "/redoc"):
        page = shared.get(path)
        assert page.status_code == 200
        assert "/openapi.json" in page.text
        # The browser keeps the page from asking any other host, whatever its scripts try.
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        loaded = re.findall(
            r"""<(?:script|link|img)[^>]*(?:src|href)=["'](?:https?:)?//""", page.text
        )
        assert loaded == [], "they work with no internet"


def test_predictions_by_every_route(shared: Served) -> None:
    assert shared.predict(21).json() == 42
    assert shared.post("/models/scripted/predict", {"n": 4}).json() == 8
    batch = {"instances": [{"n": n} for n in range(1, 10)]}
    answer = shared.post("/v1/models/scripted:predict", batch)
    assert answer.json() == {"predictions": [2 * n for n in range(1, 10)]}
    raw = shared.request("POST", "/models/size/predict", content=b"\x00\xff")
    assert raw.json() == 2


def test_head_and_options_are_answered_sanely(shared: Served) -> None:
    head = shared.request("HEAD", "/readyz")
    assert (head.status_code, head.content) == (200, b"")
    assert shared.request("OPTIONS", "/readyz").headers["allow"] == "GET, HEAD"
    for method in ("HEAD", "OPTIONS"):
        refused = shared.request(method, "/predict")
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "route_not_found"),
        ("POST", "/v2/models/x", 404, "route_not_found"),
        ("POST", "/livez", 405, "method_not_allowed"),
        ("GET", "/models/nope", 404, "model_not_found"),
        ("POST", "/models/nope/predict", 404, "model_not_found"),
        ("POST", "/models/%0d%0aset-cookie:x/predict", 404, "route_not_found"),
        ("POST", "/models/%0d%0ax/predict", 404, "model_not_found"),
    ],
)
def test_what_is_not_there_is_told_in_our_form(
    shared: Served, method: str, path: str, status: int, code: str
) -> None:
    answer = shared.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"error", "code", "details"}
    assert "nope" not in answer.text and "set-cookie" not in answer.headers
    assert answer.headers["x-request-id"]


def test_a_request_id_comes_back_from_every_route_unless_it_could_do_harm(shared: Served) -> None:
    for path in ("/livez", "/nowhere", "/predict"):
        answer = shared.get(path, headers={"x-request-id": "abc-1"})
        assert answer.headers["x-request-id"] == "abc-1"
        with shared.wire() as wire:
            wire.send(f"GET {path} HTTP/1.1\r\nhost: x\r\nx-request-id: a%0d%0ab<>\r\n\r\n")
            assert "<" not in wire.answer().headers["x-request-id"]


def test_a_line_end_inside_a_request_id_is_no_request(shared: Served) -> None:
    with shared.wire() as wire:
        wire.send(b"GET /livez HTTP/1.1\r\nhost: x\r\nx-request-id: a\rset-cookie: b\r\n\r\n")
        assert wire.answer().status == 400
        assert wire.is_closed()


# Bodies


def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_not(shared: Served) -> None:
    fits = b'{"n":1' + b" " * (1000 - 7) + b"}"
    for body, status in ((fits, 200), (fits + b" ", 413)):
        answer = shared.request("POST", "/predict", content=body)
        assert answer.status_code == status
    answer = shared.request("POST", "/models/size/predict", content=b"x" * 200_000)
    assert answer.json() == 200_000
    over = shared.request("POST", "/models/size/predict", content=b"x" * 200_001)
    assert (over.status_code, over.json()["code"]) == (413, "too_large")


def test_a_body_over_the_limit_is_refused_before_it_is_sent(shared: Served) -> None:
    with shared.wire() as wire:
        wire.send("POST /predict HTTP/1.1\r\nhost: x\r\n")
        wire.send("content-length: 1001\r\nexpect: 100-continue\r\n\r\n")
        answer = wire.answer()
        assert (answer.status, answer.code) == (413, "too_large")
        assert wire.is_closed()


def test_a_body_that_fits_is_asked_for(shared: Served) -> None:
    with shared.wire() as wire:
        wire.send("POST /predict HTTP/1.1\r\nhost: x\r\n")
        wire.send("content-length: 7\r\nexpect: 100-continue\r\n\r\n")
        assert wire.answer().status == 100
        wire.send('{"n":5}')
        assert wire.answer().json() == 10


def test_a_chunked_body_is_put_together(shared: Served) -> None:
    with shared.wire() as wire:
        wire.send("POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for part in '{"n":5}':
            wire.send(f"1\r\n{part}\r\n")
        wire.send("0\r\n\r\n")
        assert wire.answer().json() == 10


def test_a_chunked_body_without_end_is_refused_at_the_limit(shared: Served) -> None:
    with shared.wire() as wire:
        wire.send("POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        wire.send(b"".join(b"64\r\n" + b" " * 100 + b"\r\n" for _ in range(11)))
        answer = wire.answer()
        assert (answer.status, answer.code) == (413, "too_large")
        assert wire.is_closed()


@pytest.mark.parametrize("levels", [65, 490])
def test_a_body_that_nests_too_deep_is_refused(shared: Served, levels: int) -> None:
    body = b"[" * levels + b"]" * levels
    answer = shared.request("POST", "/models/anything/predict", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "too_deep")
    assert shared.post("/models/anything/predict", [[1]]).json() == [[1]]


def test_64_levels_are_taken(shared: Served) -> None:
    body = b"[" * 64 + b"]" * 64
    answer = shared.request("POST", "/models/anything/predict", content=body)
    assert (answer.status_code, answer.content) == (200, body)


def test_every_cut_of_a_good_body_is_malformed_and_the_next_one_good(shared: Served) -> None:
    good = json.dumps({"n": 3, "do": "", "s": 0}).encode()
    for size in range(len(good)):
        answer = shared.request("POST", "/predict", content=good[:size])
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    assert shared.request("POST", "/predict", content=good).json() == 6


def test_curls_form_type_is_told_which_header_to_send(shared: Served) -> None:
    answer = shared.request("POST", "/predict", data={"n": "1"})
    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["error"]


def test_a_missing_type_is_the_endpoints_default(shared: Served) -> None:
    with shared.wire() as wire:
        wire.post("/predict", '{"n":4}')
        answer = wire.answer()
        assert (answer.json(), answer.headers["content-type"]) == (8, "application/json")


def test_a_slow_body_is_answered_and_closed_at_its_deadline(shared: Served) -> None:
    with shared.wire() as wire:
        wire.send("POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")
        began = time.monotonic()
        while not has_unread(wire.socket.fileno()) and time.monotonic() - began < 5.0:
            time.sleep(DRIP_S)  # each of them is no reason to wait for longer
            wire.send(" ")
        answer = wire.answer()
        assert (answer.status, answer.code) == (408, "slow_client")
        assert 0.4 < time.monotonic() - began < 5.0
        assert wire.is_closed()


# Heads


def test_a_slow_head_is_answered_and_closed_at_its_deadline(shared: Served) -> None:
    with shared.wire() as wire:
        wire.send("POST /predict HTTP/1.1\r\nhost: x\r\n")
        answer = wire.answer()
        assert (answer.status, answer.code) == (408, "slow_client")
        assert wire.is_closed()


def test_a_connection_that_says_nothing_is_closed(shared: Served) -> None:
    with shared.wire() as wire:
        assert wire.is_closed()


def test_a_second_head_that_does_not_come_is_answered_too(shared: Served) -> None:
    with shared.wire() as wire:
        wire.post("/predict", '{"n":1}')
        wire.send("POST /pred")
        assert wire.answer().json() == 2
        assert wire.answer().status == 408
        assert wire.is_closed()


def test_an_idle_connection_lives_longer_than_a_head_may_take(shared: Served) -> None:
    with shared.wire() as wire:
        wire.post("/predict", '{"n":1}')
        assert wire.answer().json() == 2
        time.sleep(0.8)
        wire.post("/predict", '{"n":2}')
        assert wire.answer().json() == 4


@pytest.mark.parametrize(
    "headers",
    [
        "x-long: " + "y" * 33_000 + "\r\n",
        "".join(f"x-{n}: 1\r\n" for n in range(101)),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/livez"])
def test_a_head_over_its_limits_is_refused(shared: Served, headers: str, path: str) -> None:
    with shared.wire() as wire:
        wire.post(path, '{"n":1}', headers)
        answer = wire.answer()
        assert (answer.status, answer.code) == (431, "head_too_large")
        assert wire.is_closed()


def test_a_head_without_end_is_cut_off(shared: Served) -> None:
    with shared.wire() as wire:
        wire.send("GET /livez HTTP/1.1\r\nhost: x\r\nx-endless: ")
        sent = 0
        try:
            while sent < 32 * 2**20:
                wire.send(b"y" * 65536)
                sent += 65536
        except OSError:
            pass
        assert sent < 16 * 2**20, "it is not read to its end, but the system takes some"


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "1e999"])
def test_a_timeout_that_is_none_is_refused(shared: Served, text: str) -> None:
    answer = shared.post("/predict", {"n": 1}, x_request_timeout=text)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_header")


def test_a_timeout_beyond_the_servers_is_cut_to_it(shared: Served) -> None:
    assert shared.post("/predict", {"n": 1}, x_request_timeout="1e12").json() == 2


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 100,
        b"hello\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: x\r\n name: folded\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: x\r\nx : 1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: x\r\n: 1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: x\r\nx: a\x00b\r\n\r\n",
        *(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: " + length + b'\r\n\r\n{"n":1}'
            for length in (b"+5", b"-1", b"0x5", b"18446744073709551616", b"7, 7", b"", b"seven")
        ),
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\ncontent-length: 8\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"f" * 17
        + b"\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_closed_and_nothing_reaches_a_model(
    shared: Served, data: bytes
) -> None:
    before = shared.ran()
    with shared.wire() as wire:
        wire.send(data)
        try:
            answer = wire.answer()
        except ConnectionError:
            pass
        else:
            assert (answer.status, answer.code) == (400, "bad_request")
            assert wire.is_closed()
    assert shared.ran() == before


def test_a_head_split_at_every_byte_is_answered_as_if_whole(shared: Served) -> None:
    request = b'POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\n\r\n{"n":6}'
    with shared.wire() as wire:
        for place in range(1, len(request), 3):
            wire.send(request[:place])
            time.sleep(0.001)
            wire.send(request[place:])
            assert wire.answer().json() == 12


# Connections


def test_a_connection_carries_good_and_bad_requests_one_after_another(shared: Served) -> None:
    with shared.wire() as wire:
        for n in range(200):
            wire.post("/predict", "{" if n % 2 else json.dumps({"n": n}))
            answer = wire.answer()
            assert (answer.code == "malformed") if n % 2 else (answer.json() == 2 * n)


def test_requests_sent_at_once_are_answered_in_order(shared: Served) -> None:
    with shared.wire() as wire:
        for n in range(200):
            path = "/livez" if n % 3 else "/predict"
            body = json.dumps({"n": n})
            wire.send(
                f"{'GET' if n % 3 else 'POST'} {path} HTTP/1.1\r\nhost: x\r\n"
                f"x-request-id: {n}\r\ncontent-length: {len(body)}\r\n\r\n{body}"
            )
        for n in range(200):
            answer = wire.answer()
            assert answer.headers["x-request-id"] == str(n)
            assert answer.body == (b"ok\n" if n % 3 else str(2 * n).encode())


def test_a_bad_request_behind_good_ones_ends_the_connection_after_their_answers(
    shared: Served,
) -> None:
    before = shared.ran()
    with shared.wire() as wire:
        good = 'POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n{"n":%d}'
        wire.send((good % 11) + (good % 12) + "NONSENSE\r\n\r\n" + (good % 13))
        assert [wire.answer().json(), wire.answer().json()] == [22, 24]
        try:
            assert wire.answer().status == 400
        except ConnectionError:
            pass
    assert shared.ran()[len(before) :].count(13) == 0, "what follows is not executed"


def test_a_request_that_asks_for_it_is_the_last(shared: Served) -> None:
    with shared.wire() as wire:
        wire.post("/predict", '{"n":1}', "connection: close\r\n")
        answer = wire.answer()
        assert (answer.json(), answer.headers["connection"]) == (2, "close")
        assert wire.is_closed()


def test_a_client_of_http_1_0_is_answered_and_closed(shared: Served) -> None:
    with shared.wire() as wire:
        wire.send('POST /predict HTTP/1.0\r\ncontent-length: 7\r\n\r\n{"n":1}')
        assert wire.answer().json() == 2
        assert wire.is_closed()


# Faults of items


def test_a_lenient_caller_gets_answers_with_gaps(shared: Served) -> None:
    body = {"instances": [{"n": 1}, {"n": 2, "do": "refuse"}, {}, {"n": 4}]}
    strict = shared.post("/v1/models/scripted:predict", body)
    assert (strict.status_code, strict.json()["code"]) == (422, "item_error")
    assert [detail["index"] for detail in strict.json()["details"]] == [1, 2]
    lenient = shared.post("/v1/models/scripted:predict", body, prefer="handling=lenient")
    assert lenient.status_code == 200
    assert lenient.json()["predictions"] == [2, None, None, 8]
    assert set(lenient.json()["errors"]) == {"1", "2"}


def test_a_failed_request_leaves_one_json_record_with_its_id_and_the_traceback(
    shared: Served,
) -> None:
    name = f"failing-{time.monotonic_ns()}"
    answer = shared.post("/predict", {"n": 1, "do": "raise"}, x_request_id=name)
    assert (answer.status_code, answer.json()["code"]) == (500, "model_error")
    assert "secret" not in answer.text

    def own() -> list[dict[str, object]]:
        return [record for record in shared.records() if record.get("request_id") == name]

    [record] = eventually(own, "a record")
    assert (record["status"], record["code"], record["model"]) == (500, "model_error", "scripted")
    assert "a secret of the operator" in str(record["traceback"])


def test_many_clients_at_once_each_get_their_own_answer(shared: Served) -> None:
    def ask(worker: int) -> bool:
        with httpx.Client(timeout=20, trust_env=False) as client:
            url = shared.address + "/predict"
            kinds = {0: "{", 1: '{"n":"x"}', 2: '{"n":7,"do":"refuse"}'}
            for n in range(worker * 1000, worker * 1000 + 40):
                answer = client.post(url, content=kinds.get(n % 10, json.dumps({"n": n})))
                expected = {0: 400, 1: 422, 2: 422}.get(n % 10, 200)
                assert answer.status_code == expected
                assert expected != 200 or answer.json() == 2 * n
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(1, 17)))


def test_the_metrics_agree_with_what_was_sent(shared: Served) -> None:
    def counted() -> list[float]:
        requests = "headrace_http_requests_total"
        gauges = ("http_requests_in_flight", "queue_items", "queue_bytes", "running_items")
        return [
            shared.metric(requests, route="/predict", status="200"),
            shared.metric(requests, route="/predict", status="400"),
            shared.metric("headrace_items_total", model="scripted", code="ok"),
            shared.metric("headrace_items_total", model="scripted", code="malformed"),
            *(shared.metric(f"headrace_{name}") for name in gauges),
        ]

    before = counted()
    for n in range(10):
        shared.predict(n)
        shared.request("POST", "/predict", content=b"{")
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [10.0] * 4 + [
        0.0
    ] * 4
    assert before[4:] == [0.0] * 4
