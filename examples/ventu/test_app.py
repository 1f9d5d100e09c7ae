"""Tests the service without a server.

    python -m pytest test_app.py

It needs pytest, and this folder as the working directory.
"""

import pytest
from app import ANSWERS, Question, create_app, model
from client import QUESTIONS
from falcon.testing import TestClient


@pytest.fixture
def client() -> TestClient:
    """Asks the application, with no server between."""
    return TestClient(create_app())


def test_the_examples_are_answered_as_they_say() -> None:
    """Alone, and in a batch."""
    assert model.health_check() is True
    assert model.health_check(batch=True) is True


def test_a_known_question_has_its_answer(client: TestClient) -> None:
    """A text is like nothing as much as itself."""
    for question, answer in ANSWERS.items():
        response = client.simulate_post("/inference", json={"text": question})
        assert (response.status_code, response.json) == (
            200,
            {"question": question, "answer": answer},
        )


def test_what_breaks_the_schema_is_named(client: TestClient) -> None:
    """The caller is told where and what, by pydantic."""
    response = client.simulate_post("/inference", json={"text": 1})
    assert response.status_code == 422
    (fault,) = response.json
    assert (fault["loc"], fault["type"]) == (["text"], "string_type")


def test_a_question_is_answered_alike_in_a_batch() -> None:
    """Least of all may it matter how long the texts beside it are."""
    texts = [model.preprocess(Question(text=3 * text)) for text in QUESTIONS if text]
    for text, together in zip(texts, model.batch_inference(texts), strict=True):
        assert model.inference(text) == pytest.approx(together, abs=1e-5)


def test_health(client: TestClient) -> None:
    """What a probe asks."""
    response = client.simulate_get("/health")
    assert response.json == {"inference": "OK", "service": "OK"}
