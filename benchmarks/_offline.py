"""python _offline.py TARGET FILE MEDIA_TYPE SECONDS: a model with full batches back to back.

It runs the whole pipeline (decode, preprocess, predict, postprocess, encode) of the file's bodies,
in one process that does nothing else, and prints the rate and the first answers as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from _bodies import read_bodies

from headrace.call import Outcome, Payload, Value
from headrace.config import Limits
from headrace.replica import Replica
from headrace.targets import load_target, models_of


def main(target: str, file: str, media_type: str, seconds: float) -> None:
    model = models_of(load_target(target), where=target)[0]()
    replica = Replica(model, Limits())
    replica.load()
    payloads = [
        Payload(body=body, input_type=media_type, output_type="application/json")
        for body in read_bodies(Path(file))
    ]
    size = replica.card.batching.max_batch_size

    def run(at: int) -> dict[int, Outcome]:
        batch = [(place, payloads[(at + place) % len(payloads)]) for place in range(size)]
        outcomes: list[tuple[int, Outcome]] = []
        isolation = replica.run(batch, outcomes.append)
        assert isolation is None
        return dict(outcomes)

    outcomes = run(0)
    first = [outcomes[place] for place in range(3)]
    done, begin = 0, time.monotonic()
    while (now := time.monotonic()) < begin + seconds:
        run(done)
        done += size
    answers = [value.body.decode() for value in first if isinstance(value, Value)]
    rate = done / (now - begin) if done else 0.0
    print(json.dumps({"per_second": rate, "answers": answers, "max_batch_size": size}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
