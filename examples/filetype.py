"""What kind of file is this? Any bytes in; the label, media type and score of the content out.

Run it, and ask it about any file:

    headrace serve examples/filetype.py:FileType
    curl localhost:8000/predict --data-binary @README.md -H 'Content-Type: application/octet-stream'

The network comes inside the `magika` package (Google, Apache-2.0), and the answers are those of its
`Magika().identify_bytes`: here for many callers at once.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import magika
import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from headrace import Batching, Model

PACKAGE = Path(magika.__file__).parent
NETWORK = PACKAGE / "models" / "standard_v3_3"

# What this network was trained on: the first and the last 1024 bytes, without the white space
# around them, looked for in at most 4096 bytes.
BLOCK, PART, PADDING = 4096, 1024, 256
FEWEST_BYTES = 8

Features = NDArray[np.int32]  # [2048]: a byte, or PADDING
Scores = NDArray[np.float32]  # [214]: one for each label


@dataclass(frozen=True)
class Content:
    """What the bytes are, and how sure that is (0 to 1)."""

    label: str
    description: str
    mime_type: str
    group: str
    score: float


class FileType(Model):
    """What kind of file is this?

    Send any bytes: source code, text, images, archives, documents, programs. More than 200 kinds
    are known; `txt` and `unknown` are the answers where the network is not sure.
    """

    name = "filetype"
    batching = Batching(max_batch_size=16)
    examples = (b"def double(x: int) -> int:\n    return 2 * x\n", b"")
    # onnxruntime adds up in another order when a batch holds one file; short files feel it.
    tolerance = 0.01

    def load(self) -> None:
        """Open the network, and read what its labels mean."""
        options = SessionOptions()
        # A thread that spins while it has no work takes the server's share of the processor.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = InferenceSession(NETWORK / "model.onnx", options)
        self.config = json.loads((NETWORK / "config.min.json").read_text())
        self.kinds = json.loads((PACKAGE / "config" / "content_types_kb.min.json").read_text())

    def preprocess(self, content: bytes) -> Features | Content:
        """The network's input, or at once the answer where there is too little to ask about."""
        if not content:
            return self._content("empty", 1.0)
        head = content[:BLOCK].lstrip()[:PART]
        tail = content[-BLOCK:].rstrip()[-PART:]
        if len(head) < FEWEST_BYTES:
            return self._content("txt" if is_utf8(content[:BLOCK]) else "unknown", 1.0)
        features = np.full(2 * PART, PADDING, np.int32)
        features[: len(head)] = np.frombuffer(head, np.uint8)
        features[2 * PART - len(tail) :] = np.frombuffer(tail, np.uint8)
        return features

    def predict(self, batch: list[Features | Content]) -> list[Scores | Content]:
        """One run of the network for all that need it."""
        asked = [item for item in batch if isinstance(item, np.ndarray)]
        scores = iter(self.session.run(None, {"bytes": np.stack(asked)})[0] if asked else ())
        return [next(scores) if isinstance(item, np.ndarray) else item for item in batch]

    def postprocess(self, found: Scores | Content) -> Content:
        """The likeliest label, unless its score is below what that label needs."""
        if isinstance(found, Content):
            return found
        best = int(found.argmax())
        score = float(found[best])
        guess = self.config["target_labels_space"][best]
        label = self.config["overwrite_map"].get(guess, guess)
        needed = self.config["thresholds"].get(guess, self.config["medium_confidence_threshold"])
        if score < needed:
            label = "txt" if self.kinds[label]["is_text"] else "unknown"
        return self._content(label, score)

    def _content(self, label: str, score: float) -> Content:
        kind = self.kinds[label]
        return Content(
            label=label,
            description=kind["description"] or label,
            mime_type=kind["mime_type"]
            or ("text/plain" if kind["is_text"] else "application/octet-stream"),
            group=kind["group"] or "unknown",
            score=score,
        )


def is_utf8(content: bytes) -> bool:
    """Whether the bytes are text."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
