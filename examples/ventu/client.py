"""Asks some questions at once, and prints the answers.

    python client.py --url http://localhost:8080/inference

Start the service first, as the first lines of app.py say; the batching service takes requests at
any path. That of `headrace serve` is http://localhost:8080/predict.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

QUESTIONS = (
    "I cannot log in any more.",
    "Where is my parcel?",
    "Can I pay by credit card?",
    "Do you deliver to Norway?",
    "When does the shop close?",
    "Will it rain tomorrow?",
    "",  # which the schema does not allow
)


def ask(url: str, text: str) -> tuple[int, Any]:
    """The status and the body of what one question is answered."""
    body = json.dumps({"text": text}).encode()
    request = Request(url, body, {"content-type": "application/json"})
    try:
        with urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


def main() -> None:
    """Ask all questions at the same time: a batch is what has come together."""
    parser = argparse.ArgumentParser(description="Ask what customers ask.")
    parser.add_argument("--url", default="http://localhost:8080/inference")
    url = parser.parse_args().url

    with ThreadPoolExecutor(len(QUESTIONS)) as threads:
        try:
            found = list(threads.map(partial(ask, url), QUESTIONS))
        except URLError as error:
            sys.exit(f"{url}: {error.reason}")
    for question, (status, answer) in zip(QUESTIONS, found, strict=True):
        print(f"{question:25}  {status}  {answer['answer'] if status == 200 else answer}")


if __name__ == "__main__":
    main()
