"""Asks what some sentences mean, and prints for each the one that is most like it.

    python client.py --url http://127.0.0.1:8081

Start the server first, as its own first lines say.
"""

import argparse
import sys

import numpy as np

from virtex import HttpClient, HttpMessage
from virtex.serial import decode_numpy

SENTENCES = (
    "The cat sat on the mat.",
    "Interest rates are going up.",
    "Take an umbrella with you.",
    "A kitten was resting on the rug.",
    "It is going to rain all day.",
    "Borrowing money has become expensive.",
)


def main() -> None:
    """Send all sentences in one message, and compare the vectors that come back."""
    parser = argparse.ArgumentParser(description="Find out which sentences are alike.")
    parser.add_argument("--url", default="http://127.0.0.1:8081")
    url = parser.parse_args().url

    with HttpClient(url) as client:
        answer = client.post(HttpMessage(data=list(SENTENCES)))
    if answer.error:
        sys.exit(answer.error)
    answer.decode(decode_numpy)
    vectors = np.stack(answer.data)
    # Of vectors of length 1 the dot product is the similarity: 1 for the same meaning, about 0
    # for none in common.
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)  # a sentence is no match for itself
    for sentence, row in zip(SENTENCES, similarity, strict=True):
        print(f"{sentence:37}  is most like ({row.max():.2f})  {SENTENCES[row.argmax()]}")


if __name__ == "__main__":
    main()
