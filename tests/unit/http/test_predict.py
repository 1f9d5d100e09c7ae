"""Predict requests from head to answer, over an exchange in memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec
import pytest

from headrace import ItemError, Limits, Model
from headrace.testing import Client, Response

JSON, MSGPACK = "application/json", "application/msgpack"


class Doubled(Model):
    examples: ClassVar = [1]

    def predict(self, batch: list[int]) -> list[int]:
        return [2 * n for n in batch]

    def postprocess(self, n: int) -> int:
        if n == 26:
            raise ItemError("unlucky", status=409, details=[{"n": n}])
        if n == 28:
            raise OSError("/secret/path")
        return n


class Size(Model):
    def predict(self, batch: list[bytes]) -> list[int]:
        return [len(body) for body in batch]


class Mirror(Model):
    response_media_type = "image/png"

    def predict(self, batch: list[bytes]) -> list[bytes]:
        return batch


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    limits = Limits(max_json_bytes=1000, max_body_bytes=2000, max_headers=20, max_head_bytes=4000)
    with Client({"doubled": Doubled, "size": Size, "mirror": Mirror}, limits=limits) as client:
        yield client


def post(client: Client, path: str, body: bytes, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.request("POST", path, body, named)


def code(response: Response) -> Any:
    """Status and code of an error."""
    return response.status, response.json()["code"]


def test_each_model_has_its_routes_and_the_first_the_short_one(client: Client) -> None:
    assert post(client, "/predict", b"21").json() == 42
    assert post(client, "/models/doubled/predict", b"21").json() == 42
    assert post(client, "/models/size/predict", b"12345").json() == 5
    answer = post(client, "/v1/models/doubled:predict", b'{"instances":[1,2]}')
    assert answer.json() == {"predictions": [2, 4]}


@pytest.mark.parametrize("path", ["/models/nope/predict", "/v1/models/nope:predict"])
def test_an_unknown_model_is_named_as_such_and_its_name_not_repeated(
    client: Client, path: str
) -> None:
    answer = post(client, path, b"1")
    assert code(answer) == (404, "model_not_found")
    assert b"nope" not in answer.body


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_told_which_one_is_right(client: Client, method: str) -> None:
    answer = client.request(method, "/predict")
    assert code(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("content_type", "accept", "expected"),
    [(JSON, None, JSON), (MSGPACK, None, MSGPACK), (MSGPACK, JSON, JSON), (JSON, MSGPACK, MSGPACK)],
)
def test_types_are_negotiated(
    client: Client, content_type: str, accept: str | None, expected: str
) -> None:
    encode = msgspec.json.encode if content_type == JSON else msgspec.msgpack.encode
    decode = msgspec.json.decode if expected == JSON else msgspec.msgpack.decode
    more = {} if accept is None else {"accept": accept}
    answer = post(client, "/predict", encode(21), content_type=content_type, **more)
    assert answer.headers["content-type"] == expected
    assert decode(answer.body) == 42


def test_a_bytes_models_answer_has_its_own_media_type(client: Client) -> None:
    answer = post(client, "/models/mirror/predict", b"\x89PNG", content_type="image/png")
    assert (answer.headers["content-type"], answer.body) == ("image/png", b"\x89PNG")
    as_json = post(client, "/models/mirror/predict", b"abc", accept=JSON)
    assert as_json.json() == "YWJj"


def test_curls_form_type_is_told_which_header_to_send(client: Client) -> None:
    answer = post(client, "/predict", b"{}", content_type="application/x-www-form-urlencoded")
    assert code(answer) == (415, "unsupported_media_type")
    assert "send the header 'Content-Type: application/json'" in answer.json()["error"]


def test_what_cannot_be_written_or_read_is_refused_by_its_head(client: Client) -> None:
    assert code(post(client, "/predict", b"1", accept="image/png")) == (406, "not_acceptable")
    utf_16 = "application/json; charset=utf-16"
    assert code(post(client, "/predict", b"1", content_type=utf_16))[0] == 415
    assert code(post(client, "/predict", b"1", content_type="application/x-pickle"))[0] == 415


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd, gzip"])
def test_compressed_bodies_are_refused_and_nothing_is_inflated(
    client: Client, encoding: str
) -> None:
    answer = post(client, "/predict", b"1", content_encoding=encoding)
    assert code(answer) == (415, "unsupported_media_type")
    assert "Content-Encoding" in answer.json()["error"]


def test_the_identity_encoding_is_none(client: Client) -> None:
    assert post(client, "/predict", b"1", content_encoding="identity").status == 200


@pytest.mark.parametrize(
    "text",
    ["0", "-1", "nan", "inf", "-inf", "soon", "", "1s", "0x5", "1,2", "1_0", "3\x1e", "3\xa0"],
)
def test_a_timeout_that_is_no_positive_number_is_refused(client: Client, text: str) -> None:
    answer = post(client, "/predict", b"1", x_request_timeout=text)
    assert code(answer) == (400, "invalid_header")
    assert "X-Request-Timeout" in answer.json()["error"]


@pytest.mark.parametrize("text", ["1", "0.5", "1e12", " 5 ", "5.", ".5", "+5", "5e-1"])
def test_a_timeout_that_is_one_is_taken_however_large(client: Client, text: str) -> None:
    assert post(client, "/predict", b"1", x_request_timeout=text).status == 200


def test_bodies_over_their_limit_are_too_large(client: Client) -> None:
    path = "/models/size/predict"
    assert post(client, "/predict", b"1" + b" " * 999).status == 200
    assert code(post(client, "/predict", b"1" + b" " * 1000)) == (413, "too_large")
    assert post(client, path, b"x" * 2000).json() == 2000
    assert code(post(client, path, b"x" * 2001)) == (413, "too_large")


def test_heads_over_their_limits_are_too_large(client: Client) -> None:
    many = {f"x-{n}": "1" for n in range(21)}
    assert code(client.request("POST", "/predict", b"1", many)) == (431, "head_too_large")
    assert code(post(client, "/predict", b"1", x_long="y" * 4000)) == (431, "head_too_large")


@pytest.mark.parametrize("given", ["abc-1", "A.b_c:d/e+f=g@h", "x" * 128])
def test_a_plain_request_id_comes_back(client: Client, given: str) -> None:
    assert post(client, "/predict", b"1", x_request_id=given).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\r\nset-cookie: b", "ä", "\x1b[31m"])
def test_any_other_request_id_is_replaced_by_a_new_one(client: Client, given: str) -> None:
    ids = {
        post(client, "/predict", b"1", x_request_id=given).headers["x-request-id"] for _ in range(3)
    }
    assert given not in ids and len(ids) == 3


def test_errors_of_the_model_hide_what_is_the_operators(client: Client) -> None:
    asked_for = post(client, "/predict", b"13")
    assert asked_for.status == 409
    assert asked_for.json() == {"error": "unlucky", "code": "item_error", "details": [{"n": 26}]}
    raised = post(client, "/predict", b"14")
    assert code(raised) == (500, "model_error")
    assert b"secret" not in raised.body and b"OSError" not in raised.body


@pytest.mark.parametrize(
    "prefer", ["handling=lenient", 'x; handling="lenient"', "Handling=Lenient"]
)
def test_who_prefers_lenience_gets_the_answers_with_gaps(client: Client, prefer: str) -> None:
    body = b'{"instances":[1,13,"x"]}'
    answer = post(client, "/v1/models/doubled:predict", body, prefer=prefer)
    assert answer.status == 200
    assert answer.json()["predictions"] == [2, None, None]
    assert {k: v["code"] for k, v in answer.json()["errors"].items()} == {
        "1": "item_error",
        "2": "invalid",
    }


@pytest.mark.parametrize("prefer", ["handling=strict", "return=minimal", "nothandling=lenient"])
def test_all_others_get_the_first_failure_and_each_in_the_details(
    client: Client, prefer: str
) -> None:
    body = b'{"instances":[1,13,"x"]}'
    answer = post(client, "/v1/models/doubled:predict", body, prefer=prefer)
    assert code(answer) == (409, "item_error")
    assert [detail["index"] for detail in answer.json()["details"]] == [1, 2]


def test_a_failed_request_leaves_one_record_with_its_id(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    post(client, "/predict", b"14", x_request_id="abc")
    [record] = [r for r in caplog.records if r.name == "headrace.requests"]
    fields = vars(record)
    assert record.levelno == logging.ERROR
    assert (fields["request_id"], fields["model"], fields["status"]) == ("abc", "doubled", 500)
    assert fields["code"] == "model_error" and "/secret/path" in fields["traceback"]


def test_a_flood_of_one_failure_leaves_a_few_records(caplog: pytest.LogCaptureFixture) -> None:
    with Client(Doubled) as client:
        for _ in range(50):
            post(client, "/predict", b"nonsense")
    assert 10 <= len([r for r in caplog.records if r.name == "headrace.requests"]) <= 20


def test_good_requests_leave_none(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    post(client, "/predict", b"1")
    assert caplog.records == []


def test_a_good_request_after_a_bad_one_is_right_a_thousand_times(client: Client) -> None:
    for n in range(500):
        bad, good = client.requests(
            [("POST", "/predict", b'{"n":', {}), ("POST", "/predict", str(n).encode(), {})]
        )
        assert code(bad) == (400, "malformed")
        assert good.status == (409 if n == 13 else 500 if n == 14 else 200)
        if good.status == 200:
            assert json.loads(good.body) == 2 * n


def test_a_path_that_is_no_predict_route_is_not_this_clients(client: Client) -> None:
    with pytest.raises(ValueError, match="predict route"):
        client.request("GET", "/livez")
