"""What a served handler answers to messages, good and bad."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.virtex.served import Service


def test_any_path_and_content_type_answers_as_many_elements_in_order(scripted: Service) -> None:
    for path in ("/", "/predict", "/a/b?c=d"):
        answer = scripted.request(
            "POST", path, content=b'{"data": [3, 1, "x"]}', headers={"content-type": "text/plain"}
        )
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {"data": [6, 2, "xx"], "error": None}


@pytest.mark.parametrize("body", ["{}", '{"data": null}', '{"data": [], "error": null, "id": 7}'])
def test_a_message_without_data_is_an_empty_one(scripted: Service, body: str) -> None:
    answer = scripted.request("POST", "/", content=body)
    assert (answer.status_code, answer.json()) == (200, {"data": [], "error": None})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "JSON"),
        ('{"data": [1, 2', "JSON"),
        ('{"data": [NaN]}', "JSON"),
        (b"\xff\xfe", "JSON"),
        ("[1, 2]", "expected an object"),
        ("null", "expected an object"),
        ('{"data": {"0": 1}}', "$.data: expected an array"),
        ('{"data": "12"}', "$.data: expected an array"),
    ],
)
def test_what_is_no_message_is_400(scripted: Service, body: Any, said: str) -> None:
    answer = scripted.request("POST", "/", content=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["data"] == []
    assert said in answer.json()["error"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_is_no_post_is_400(scripted: Service, method: str) -> None:
    answer = scripted.request(method, "/")
    assert (answer.status_code, answer.json()["data"]) == (400, [])
    assert "POST" in answer.json()["error"]


@pytest.mark.parametrize(
    ("element", "said"),
    [
        ("raise", "data[1]: ValueError: it said so"),
        ("raise later", "data[1]: RuntimeError: in the model"),
        ("bad answer", "data[1]: KeyError: 'in the answer'"),
        ("nan", "got nan"),
        ("numpy", "float32"),
        ("object", "object"),
        (None, "data[1]: TypeError: unsupported operand"),
    ],
)
def test_what_a_handler_raises_is_a_500_with_its_text(
    scripted: Service, element: Any, said: str
) -> None:
    answer = scripted.ask(1, element, 2)
    assert (answer.status_code, answer.json()["data"]) == (500, [])
    assert answer.json()["error"].startswith("service x caught exception: ")
    assert said in answer.json()["error"]
    assert scripted.ask(4).json() == {"data": [8], "error": None}, "the server lives on"


def test_a_body_over_the_limit_is_413_before_it_was_sent(scripted: Service) -> None:
    with scripted.wire() as wire:
        wire.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000000\r\n\r\n")
        answer = wire.answer()
        assert answer.status == 413
        assert answer.json()["data"] == []
        assert "100000" in answer.json()["error"]


def test_a_body_in_chunks_is_held_to_the_same_limit(scripted: Service) -> None:
    def message(size: int) -> Any:
        yield b'{"data": ["'
        for _ in range(size // 1000):
            yield b"x" * 1000
        yield b'"]}'

    answer = scripted.request("POST", "/", content=message(90_000))
    assert answer.json()["data"] == ["x" * 180_000]
    answer = scripted.request("POST", "/", content=message(200_000))
    assert answer.status_code == 413


def test_a_websocket_is_refused(scripted: Service) -> None:
    with scripted.wire() as wire:
        wire.send(
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert wire.answer().status in (400, 403)
    assert scripted.ask(4).status_code == 200


def test_what_is_not_utf8_or_very_deep_is_refused(scripted: Service) -> None:
    deep = '{"data": [' + "[" * 5000 + "]" * 5000 + "]}"
    answer = scripted.request("POST", "/", content=deep)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_pipelined_messages_are_answered_in_order(scripted: Service) -> None:
    with scripted.wire() as wire:
        for number in range(5):
            wire.post("/", json.dumps({"data": [number]}))
        assert [wire.answer().json()["data"] for _ in range(5)] == [[2 * n] for n in range(5)]
