"""Which digit is drawn here? 64 grey values in; the digit and its probability out.

    headrace serve examples/digits.py:Digits
    curl localhost:8000/predict --json '[0,0,5,13,9,1,0,0, 0,0,13,15,10,15,5,0,
        0,3,15,2,0,11,8,0, 0,4,12,0,0,8,8,0, 0,5,8,0,0,9,8,0,
        0,4,11,0,1,12,7,0, 0,2,14,5,10,12,0,0, 0,0,6,13,10,0,0,0]'

Trained in less than a second when the server starts, on scikit-learn's own 1797 digits. A forest
of 100 trees takes as long for 32 digits as for one: what batching is for.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier

from headrace import Batching, Model

Grey = Annotated[float, Meta(ge=0, le=16)]
Image = Annotated[list[Grey], Meta(min_length=64, max_length=64)]

# fmt: off
ZERO = (
    0, 0,  5, 13,  9,  1, 0, 0,
    0, 0, 13, 15, 10, 15, 5, 0,
    0, 3, 15,  2,  0, 11, 8, 0,
    0, 4, 12,  0,  0,  8, 8, 0,
    0, 5,  8,  0,  0,  9, 8, 0,
    0, 4, 11,  0,  1, 12, 7, 0,
    0, 2, 14,  5, 10, 12, 0, 0,
    0, 0,  6, 13, 10,  0, 0, 0,
)
# fmt: on


@dataclass
class Digit:
    """The likeliest digit, and how likely it is (0 to 1)."""

    digit: int
    probability: float


class Digits(Model):
    """Which digit is drawn here?

    Send 8 rows of 8 grey values as one list of 64 numbers, 0 (paper) to 16 (ink).
    """

    batching = Batching(max_batch_size=64)
    examples = (list(ZERO),)

    def load(self) -> None:
        """Plant the forest."""
        pixels, digits = load_digits(return_X_y=True)
        self.forest = ExtraTreesClassifier(random_state=0).fit(pixels, digits)

    def predict(self, batch: list[Image]) -> list[Digit]:
        """One walk through the forest for all images."""
        probabilities = self.forest.predict_proba(np.array(batch))
        return [Digit(int(row.argmax()), float(row.max())) for row in probabilities]
