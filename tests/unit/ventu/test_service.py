"""The HTTP service, as a WSGI and as an ASGI application: they are one to a client."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import falcon
import httpx
import msgspec
import openapi_spec_validator
import pytest
from falcon import testing
from prometheus_client import CollectorRegistry, Counter
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator

from headrace import ItemError
from tests.unit.ventu.models import (
    DECODE,
    ENCODE,
    FAILED,
    MEDIA_TYPE,
    TOO_SHORT,
    Batched,
    Length,
    Single,
    Text,
)
from ventu import Ventu, create_app
from ventu.config import Config

HOME = {
    "health check": {"/health": "GET"},
    "metrics": {"/metrics": "GET"},
    "inference": {"/inference": "POST"},
    "API document": {"/apidoc/redoc": "GET", "/apidoc/swagger": "GET"},
}


class Request(NamedTuple):
    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    use_msgpack: bool = False

    @property
    def media_type(self) -> str:
        return self.headers["content-type"]

    @property
    def value(self) -> Any:
        """The decoded body, which must be in the service's format."""
        assert self.media_type == MEDIA_TYPE[self.use_msgpack]
        return DECODE[self.use_msgpack](self.body)


def ask_wsgi(model: Ventu, requests: Sequence[Request]) -> list[Response]:
    client = testing.TestClient(model.app)
    answers = []
    for method, path, body, headers in requests:
        result = client.simulate_request(method, path, body=body, headers=dict(headers))
        lower = {name.lower(): value for name, value in result.headers.items()}
        answers.append(Response(result.status_code, lower, result.content, model.use_msgpack))
    return answers


def ask_asgi(model: Ventu, requests: Sequence[Request]) -> list[Response]:
    """The requests arrive in one turn of the event loop."""
    app: Any = model.asgi_app

    async def ask() -> list[httpx.Response]:
        await app.startup()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            answers = await asyncio.gather(
                *(
                    client.request(method, path, content=body, headers=headers)
                    for method, path, body, headers in requests
                )
            )
        await app.shutdown()
        return answers

    return [
        Response(each.status_code, dict(each.headers), each.content, model.use_msgpack)
        for each in asyncio.run(ask())
    ]


Ask = Any
FACES = {"wsgi": ask_wsgi, "asgi": ask_asgi}


@pytest.fixture(params=FACES)
def ask(request: pytest.FixtureRequest) -> Ask:
    """Asks a model over one of its faces."""
    return FACES[request.param]


@pytest.fixture(params=[False, True], ids=["json", "msgpack"])
def use_msgpack(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[Single, Batched])
def model(request: pytest.FixtureRequest, use_msgpack: bool) -> Ventu:
    made: Ventu = request.param(Text, Length, use_msgpack)
    return made


def infer(model: Ventu, value: Any, **headers: str) -> Request:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    body = value if isinstance(value, bytes) else ENCODE[model.use_msgpack](value)
    return Request("POST", "/inference", body, named)


def get(path: str) -> Request:
    return Request("GET", path)


# The routes


def test_the_root_tells_the_routes(ask: Ask, model: Ventu) -> None:
    (answer,) = ask(model, [get("/")])
    assert answer.status == 200
    assert answer.value == HOME


def test_health(ask: Ask, model: Ventu) -> None:
    (answer,) = ask(model, [get("/health")])
    assert answer.status == 200
    assert answer.value == {"inference": "OK", "service": "OK"}


def test_health_without_an_example_is_ok(ask: Ask) -> None:
    class Bare(BaseModel):
        text: str

    (answer,) = ask(Single(Bare, Bare), [get("/health")])
    assert answer.value == {"inference": "OK", "service": "OK"}


@pytest.mark.parametrize("error", [AssertionError("another"), LookupError("gone")])
def test_health_of_a_model_that_fails_is_an_error(
    error: Exception, ask: Ask, use_msgpack: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Single):
        fails = False

        def preprocess(self, data: Any) -> Any:
            if self.fails:
                raise error
            return super().preprocess(data)

    model = Failing(Text, Length, use_msgpack)
    ask(model, [get("/health")])
    model.fails = True
    (answer,) = ask(model, [get("/health")])
    assert answer.status == 200
    assert answer.value == {"inference": "Error", "service": "OK"}
    assert "the health check failed" in caplog.text
    assert str(error) in caplog.text


def test_metrics(ask: Ask, model: Ventu) -> None:
    counter = Counter("own_metric", "The user's", registry=model.metric_registry)
    counter.inc(5)
    requests = [infer(model, {"text": text}) for text in ("one", "", "three", "")]
    ask(model, requests)
    (answer,) = ask(model, [get("/metrics")])
    assert answer.status == 200
    assert answer.media_type.startswith("text/plain; version=")
    text = answer.body.decode()
    assert "own_metric_total 5.0" in text
    assert "validation_error_counter_total 2.0" in text
    is_batched = isinstance(model, Batched) and ask is ask_asgi
    name = "batch_process_time" if is_batched else "single_process_time"
    for step in ("preprocess", "inference", "postprocess"):
        found = re.search(rf'{name}_count{{process="{step}"}} (\S+)', text)
        assert found is not None
        # One for the health check; then each request, or the batch of both.
        assert float(found[1]) == (2 if is_batched else 3)


def test_a_worker_is_counted_while_the_asgi_application_serves() -> None:
    model = Single(Text, Length)
    (answer,) = ask_asgi(model, [get("/metrics")])
    assert b'process_worker{protocol="http"} 1.0' in answer.body
    gauge = model.metric_registry.get_sample_value("process_worker", {"protocol": "http"})
    assert gauge == 0


def test_both_applications_of_one_model_count_together() -> None:
    model = Single(Text, Length)
    for ask in FACES.values():
        ask(model, [infer(model, {})])
    (answer,) = ask_wsgi(model, [get("/metrics")])
    assert b"validation_error_counter_total 2.0" in answer.body


@pytest.mark.parametrize("path", ["/apidoc/redoc", "/apidoc/swagger"])
def test_the_api_pages_ask_no_other_host(path: str, ask: Ask, model: Ventu) -> None:
    (answer,) = ask(model, [get(path)])
    assert answer.status == 200
    assert answer.media_type == "text/html; charset=utf-8"
    page = answer.body.decode()
    assert page.count("'/apidoc/openapi.json'") == 1
    assert "'/openapi.json'" not in page
    assert "logo-mini" not in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=.?https?:", page)
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")


@pytest.mark.parametrize("path", ["/other", "/inference/", "/apidoc", "/apidoc/scalar"])
def test_what_is_not_there(path: str, ask: Ask, model: Ventu) -> None:
    for answer in ask(model, [get(path), Request("POST", path, b"{}")]):
        assert answer.status == 404
        assert answer.value["title"] == "404 Not Found"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_inference_is_a_post(method: str, ask: Ask, model: Ventu) -> None:
    (answer,) = ask(model, [Request(method, "/inference")])
    assert answer.status == 405
    assert "POST" in answer.headers["allow"]
    assert answer.value["title"] == "405 Method Not Allowed"


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/apidoc/openapi.json"])
def test_pages_are_gets(path: str, ask: Ask, model: Ventu) -> None:
    (answer,) = ask(model, [Request("POST", path)])
    assert answer.status == 405
    assert answer.value["title"] == "405 Method Not Allowed"


# Inference


def test_an_answer_is_what_postprocess_returned(ask: Ask, model: Ventu) -> None:
    (answer,) = ask(model, [infer(model, {"text": "one"})])
    assert answer.status == 200
    assert answer.value == {"length": 3}


@pytest.mark.parametrize("returned", [{"length": 5, "more": [1]}, {"length": 5}, {"length": "5"}])
def test_nothing_is_added_to_it_and_nothing_left_out(
    returned: Any, ask: Ask, use_msgpack: bool
) -> None:
    class Fixed(Single):
        def health_check(self, batch: bool = False) -> None:
            return None

        def postprocess(self, data: int) -> Any:
            return returned

    model = Fixed(Text, Length, use_msgpack)
    (answer,) = ask(model, [infer(model, {"text": "one"})])
    assert (answer.status, answer.value) == (200, returned)


def test_an_answer_may_be_a_model(ask: Ask, use_msgpack: bool) -> None:
    class Aliased(BaseModel):
        model_config = ConfigDict(extra="allow")
        how_long: int = Field(alias="howLong")
        sent_as: int = Field(0, serialization_alias="sentAs")

    class AsModel(Single):
        def postprocess(self, data: int) -> Any:
            return Aliased(howLong=data, more=1)  # type: ignore[call-arg]  # an extra

    model = AsModel(Text, Aliased, use_msgpack)
    (answer,) = ask(model, [infer(model, {"text": "one"})])
    assert (answer.status, answer.value) == (200, {"howLong": 3, "sentAs": 0, "more": 1})


def test_an_answer_may_hold_arrays(ask: Ask, use_msgpack: bool) -> None:
    np = pytest.importorskip("numpy")

    class Vector(RootModel[list[float]]):
        pass

    class Embedding(Single):
        def postprocess(self, data: int) -> Any:
            return np.arange(data, dtype=np.float32)

    model = Embedding(Text, Vector, use_msgpack)
    (answer,) = ask(model, [infer(model, {"text": "one"})])
    assert (answer.status, answer.value) == (200, [0.0, 1.0, 2.0])


BROKEN: dict[str, Any] = {
    "a wrong type": {"length": "many"},
    "a field missing": {"unit": "x"},
    "no object": 5,
    "nothing": None,
    "a request": Text(text="one"),
    "made without a check": Length.model_construct(length="many"),
    "NaN": {"length": 1, "unit": float("nan")},
    "an object": {"length": object()},
    "too large for JSON and msgpack": {"length": 2**70},
    "bytes of no text": {"length": b"\xff"},
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_response_that_breaks_its_schema_is_logged_and_not_sent(
    case: str, ask: Ask, use_msgpack: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Single):
        def health_check(self, batch: bool = False) -> None:
            return None

        def postprocess(self, data: int) -> Any:
            return BROKEN[case]

    model = Broken(Text, Length, use_msgpack)
    (answer,) = ask(model, [infer(model, {"text": "one"})])
    if case == "too large for JSON and msgpack" and not use_msgpack:
        assert answer.status == 200  # JSON knows no bounds
        return
    assert answer.status == 500
    assert answer.value == FAILED
    records = [each for each in caplog.records if each.name.startswith("ventu")]
    assert len(records) == 1
    assert records[0].levelno == logging.ERROR
    assert "a response was not sent" in records[0].getMessage()


def test_a_model_changed_to_break_its_schema_is_not_sent(ask: Ask) -> None:
    class Changed(Single):
        def health_check(self, batch: bool = False) -> None:
            return None

        def postprocess(self, data: int) -> Any:
            response = Length(length=data)
            response.length = "many"  # type: ignore[assignment]  # it goes unnoticed
            return response

    model = Changed(Text, Length)
    (answer,) = ask(model, [infer(model, {"text": "one"})])
    assert (answer.status, answer.value) == (500, FAILED)


@pytest.mark.parametrize(
    ("value", "faults"),
    [
        ({"text": ""}, TOO_SHORT),
        ({}, [{"loc": ["text"], "msg": "Field required", "type": "missing"}]),
        ({"text": 1}, [{"loc": ["text"], "msg": "Input should be a valid string"}]),
        ([], [{"loc": []}]),
        (None, [{"loc": []}]),
    ],
)
def test_a_bad_request_is_told_pydantics_errors(
    value: Any, faults: list[dict[str, Any]], ask: Ask, model: Ventu
) -> None:
    (answer,) = ask(model, [infer(model, value)])
    assert answer.status == 422
    found = answer.value
    assert [set(each) for each in found] == [{"loc", "msg", "type"}] * len(faults)
    for each, fault in zip(found, faults, strict=True):
        assert fault.items() <= each.items()


class Odd(BaseModel):
    number: float = Field(0, lt=5)
    word: str = ""
    many: list[int] = []

    @field_validator("word")
    @classmethod
    def check(cls, word: str) -> str:
        if word == "odd":
            raise ValueError("an odd one")
        if word == "bug":
            raise LookupError("in the validator")
        return word


def test_errors_can_be_written_whatever_they_hold(ask: Ask, use_msgpack: bool) -> None:
    model = Single(Odd, Odd, use_msgpack)
    answers = ask(
        model,
        [
            infer(model, {"number": 1e308 * 10} if use_msgpack else b'{"number": Infinity}'),
            infer(model, {"word": "odd"}),
            infer(model, {"many": ["x"] * 1001}),
        ],
    )
    assert [each.status for each in answers] == [422] * 3
    assert answers[1].value[0]["msg"] == "Value error, an odd one"
    assert answers[2].value == [
        {"loc": [], "msg": "1001 faults, too many to name", "type": "too_many_faults"}
    ]


def test_a_validator_that_fails_is_a_failure(ask: Ask, use_msgpack: bool) -> None:
    model = Single(Odd, Odd, use_msgpack)
    (answer,) = ask(model, [infer(model, {"word": "bug"})])
    assert (answer.status, answer.value) == (500, FAILED)


MALFORMED = {
    False: [b"", b"{", b"\xff", b"[" * 100_000, b'"\xff"', b"{} x", b"\xef\xbb\xbf{}"],
    True: [b"", b"\xc1", b"\xa1\xff", b"\x91" * 10_000, b"\x81\x81\x01\x01\x02", b"\x80\x80"],
}


def test_a_malformed_body_is_a_bad_request(ask: Ask, model: Ventu) -> None:
    bodies = MALFORMED[model.use_msgpack]
    name = "msgpack" if model.use_msgpack else "JSON"
    for answer in ask(model, [infer(model, body) for body in bodies]):
        assert answer.status == 400
        assert answer.value["title"] == "400 Bad Request"
        assert answer.value["description"].startswith(f"Invalid {name}: ")


@pytest.mark.parametrize("content_type", [None, "own", "own; charset=utf-8", "OWN"])
def test_the_content_type_is_the_services_own(
    content_type: str | None, ask: Ask, model: Ventu
) -> None:
    own = MEDIA_TYPE[model.use_msgpack]
    headers = {}
    if content_type is not None:
        spelled = own.upper() if content_type == "OWN" else content_type.replace("own", own)
        headers = {"content_type": spelled}
    (answer,) = ask(model, [infer(model, {"text": "one"}, **headers)])
    assert (answer.status, answer.value) == (200, {"length": 3})


def test_another_content_type_is_refused(ask: Ask, model: Ventu) -> None:
    others = ["text/plain", "application/x-www-form-urlencoded", MEDIA_TYPE[not model.use_msgpack]]
    for other in others:
        (answer,) = ask(model, [infer(model, {"text": "one"}, content_type=other)])
        assert answer.status == 415
        own = MEDIA_TYPE[model.use_msgpack]
        assert answer.value == {
            "title": "415 Unsupported Media Type",
            "description": f"expected the content type {own}, got {other!r}",
        }


@pytest.mark.parametrize("text", ["raise", "raise in preprocess"])
def test_a_model_that_raises_says_nothing_of_it_to_the_caller(
    text: str, ask: Ask, model: Ventu, caplog: pytest.LogCaptureFixture
) -> None:
    (answer,) = ask(model, [infer(model, {"text": text})])
    assert (answer.status, answer.value) == (500, FAILED)
    assert "no such word" in caplog.text


def test_a_model_may_say_what_is_wrong(ask: Ask, use_msgpack: bool) -> None:
    class Speaking(Single):
        def inference(self, data: str) -> int:
            if data == "item":
                raise ItemError("too \ud800rude", status=451)
            if data == "odd":
                raise ItemError("x", status=460)
            if data == "falcon":
                raise falcon.HTTPConflict(description="twice")
            return super().inference(data)

    model = Speaking(Text, Length, use_msgpack)
    answers = ask(model, [infer(model, {"text": text}) for text in ("item", "odd", "falcon")])
    assert [(each.status, each.value) for each in answers] == [
        (451, {"title": "451 Unavailable For Legal Reasons", "description": "too \\ud800rude"}),
        (460, {"title": "460 Error", "description": "x"}),
        (409, {"title": "409 Conflict", "description": "twice"}),
    ]


def test_a_body_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Single(Text, Length)
    found = model.app._router.find("/inference")
    assert found is not None
    monkeypatch.setattr(found[0], "_max_bytes", 20)
    (fits, over) = ask_wsgi(
        model, [infer(model, {"text": "a" * 8}), infer(model, {"text": "a" * 12})]
    )
    assert fits.status == 200
    assert over.status == 413
    assert over.value["description"] == "expected a body of at most 20 bytes, got more"


# What only one of the two does


@pytest.mark.parametrize("cls", [Single, Batched])
def test_one_invalid_and_one_that_raises_among_32(cls: type[Single], use_msgpack: bool) -> None:
    texts = [f"{number:03}" for number in range(32)]
    texts[7], texts[21] = "", "raise"
    model = cls(Text, Length, use_msgpack)
    answers = ask_asgi(model, [infer(model, {"text": text}) for text in texts])
    assert [(number, each.status) for number, each in enumerate(answers) if each.status != 200] == [
        (7, 422),
        (21, 500),
    ]
    assert answers.pop(21).value == FAILED
    assert answers.pop(7).value == TOO_SHORT
    assert [each.value for each in answers] == [{"length": 3}] * 30
    if isinstance(model, Batched):
        health, batch, *_ = model.batches
        assert health == ["hello"]
        assert len(batch) == 31


def test_a_model_without_batch_inference_runs_one_by_one() -> None:
    model = Single(Text, Length)
    answers = ask_asgi(model, [infer(model, {"text": "one"})] * 8)
    assert [each.value for each in answers] == [{"length": 3}] * 8
    count = model.metric_registry.get_sample_value
    assert count("single_process_time_count", {"process": "inference"}) == 9
    assert count("batch_process_time_count", {"process": "inference"}) is None


def test_results_that_are_not_one_each_fail_all_and_are_run_once() -> None:
    model = Batched(Text, Length)
    answers = ask_asgi(model, [infer(model, {"text": text}) for text in ("too many", "one")])
    assert [(each.status, each.value) for each in answers] == [(500, FAILED)] * 2
    assert model.batches[1:] == [["too many", "one"]]


def test_a_batch_of_a_model_that_is_not_idempotent_fails_whole() -> None:
    class Once(Batched):
        idempotent = False

    model = Once(Text, Length)
    answers = ask_asgi(model, [infer(model, {"text": text}) for text in ("raise", "one", "")])
    assert [each.status for each in answers] == [500, 500, 422]
    assert model.batches[1:] == [["raise", "one"]]


def test_batches_have_the_size_that_the_class_says() -> None:
    class Pairs(Batched):
        batching = Batched.batching.__class__(max_batch_size=2)

    model = Pairs(Text, Length)
    ask_asgi(model, [infer(model, {"text": "one"})] * 6)
    assert max(map(len, model.batches)) == 2


# create_app, as it is published


def test_create_app_with_a_function() -> None:
    registry = CollectorRegistry()
    app = create_app(
        lambda data: {"length": len(data.text)},
        registry,
        lambda: True,
        Text,
        Length,
        False,
        Config(name="Lengths", version="7"),
    )
    client = testing.TestClient(app)
    assert client.simulate_post("/inference", json={"text": "one"}).json == {"length": 3}
    assert client.simulate_post("/inference", json={}).status_code == 422
    assert client.simulate_get("/health").json == {"inference": "OK", "service": "OK"}
    assert registry.get_sample_value("validation_error_counter_total") == 1
    document = client.simulate_get("/apidoc/openapi.json").json
    assert document["info"] == {"title": "Lengths", "version": "7"}


# The OpenAPI document


class Inner(BaseModel):
    numbers: list[float]


class Outer(BaseModel):
    """All that is known of it."""

    inner: Inner
    other: Inner | None = None
    model_config = ConfigDict(json_schema_extra={"example": {"inner": {"numbers": [1]}}})


def test_the_document_is_of_the_schemas(ask: Ask, use_msgpack: bool) -> None:
    class Echo(Ventu):
        pass

    model = Echo(Outer, Inner, use_msgpack, name="Numbers", version="3")
    (answer,) = ask(model, [get("/apidoc/openapi.json")])
    assert answer.media_type == "application/json"
    document = msgspec.json.decode(answer.body)
    openapi_spec_validator.validate(document)
    assert document["info"] == {"title": "Numbers", "version": "3"}
    assert set(document["paths"]) == {"/inference", "/health", "/metrics"}
    post = document["paths"]["/inference"]["post"]
    media_type = MEDIA_TYPE[use_msgpack]
    assert post["requestBody"]["content"] == {
        media_type: {"schema": {"$ref": "#/components/schemas/Outer"}}
    }
    assert post["responses"]["200"]["content"] == {
        media_type: {"schema": {"$ref": "#/components/schemas/Inner"}}
    }
    assert set(post["responses"]) == {"200", "400", "415", "422", "500"}
    schemas = document["components"]["schemas"]
    assert schemas["Outer"]["example"] == {"inner": {"numbers": [1]}}
    assert schemas["Outer"]["description"] == "All that is known of it."
    assert schemas["Inner"]["required"] == ["numbers"]


@pytest.mark.filterwarnings("ignore:Valid config keys have changed:UserWarning")
@pytest.mark.filterwarnings("ignore:Support for class-based")
def test_examples_in_the_style_of_pydantic_1_are_in_the_document(ask: Ask) -> None:
    class Old(BaseModel):
        text: str

        class Config:
            schema_extra = {"example": {"text": "hi"}, "batch_size": 2}  # noqa: RUF012

    (answer,) = ask(Ventu(Old, Old), [get("/apidoc/openapi.json")])
    document = msgspec.json.decode(answer.body)
    openapi_spec_validator.validate(document)
    assert document["components"]["schemas"]["Old"]["example"] == {"text": "hi"}


@pytest.mark.parametrize("use_msgpack", [False, True])
def test_an_inference_must_bring_an_api_key_where_there_are_any(
    tmp_path: Path, use_msgpack: bool
) -> None:
    file = tmp_path / "keys"
    file.touch(mode=0o600)
    file.write_text("alice:correct-horse-battery")
    model = Single(Text, Length, use_msgpack, keys_file=str(file))
    plain = infer(model, {"text": "abc"})
    key = {"authorization": "Bearer correct-horse-battery"}
    known = plain._replace(headers={**plain.headers, **key})
    unknown, answered = ask_asgi(model, [plain, known])
    assert (unknown.status, answered.status) == (401, 200)
    assert "API key" in str(unknown.value)
    assert "Bearer" in unknown.headers["www-authenticate"]
    with pytest.raises(ValueError, match="serve `asgi_app`"):
        _ = model.app
