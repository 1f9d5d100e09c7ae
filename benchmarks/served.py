"""Real models over HTTP against the same models called offline with full batches, in one run.

    python benchmarks/served.py                     # filetype and embedding, 32 connections
    python benchmarks/served.py --model embedding --seconds 10

Offline is the model's whole pipeline (decode, preprocess, predict, postprocess, encode) in one
process with nothing else to do; rounds of both alternate, and the ratio is of their medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

from _serving import ROOT, closed_loop, post, serving

from headrace.call import Payload
from headrace.config import Limits
from headrace.replica import Replica
from headrace.targets import load_target, models_of

TARGETS = {
    "filetype": "examples/filetype.py:FileType",
    "embedding": "examples/embedding.py:Embedding",
}


def real_files() -> list[Payload]:
    """Files of the standard library and of this interpreter, up to 64 KiB of each."""
    places = [Path(sysconfig.get_path("stdlib")), Path(sys.prefix)]
    files = [
        file
        for place in places
        for file in sorted(place.glob("*"))
        if file.is_file() and file.stat().st_size > 0
    ]
    media_type = "application/octet-stream"
    return [
        Payload(body=f.read_bytes()[:65536], input_type=media_type, output_type="application/json")
        for f in files
    ]


def real_sentences() -> list[Payload]:
    """First sentences of the docstrings and comments of the standard library's modules."""
    import ast

    import msgspec

    texts = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                first = (ast.get_docstring(node) or "").partition("\n\n")[0]
                if len(first) > 10:
                    texts.append(" ".join(first.split()))
    json = "application/json"
    return [
        Payload(body=msgspec.json.encode(text), input_type=json, output_type=json)
        for text in texts[:4000]
    ]


def offline(replica: Replica, payloads: Sequence[Payload], seconds: float) -> float:
    """Answers a second, with full batches back to back."""
    size = replica.card.batching.max_batch_size
    done = at = 0
    begin = time.monotonic()
    while (now := time.monotonic()) < begin + seconds:
        batch = [(i, payloads[(at + i) % len(payloads)]) for i in range(size)]
        isolation = replica.run(batch, lambda answer: None)
        assert isolation is None
        at += size
        done += size
    return done / (now - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=TARGETS, action="append")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="a round")
    arguments = parser.parse_args()
    for name in arguments.model or TARGETS:
        target = TARGETS[name]
        payloads = real_files() if name == "filetype" else real_sentences()
        path, file_name = target.rsplit("/", 1)
        model = models_of(load_target(f"{ROOT / path}/{file_name}"), where=target)[0]()
        replica = Replica(model, Limits())
        replica.load()
        requests = [post(f"/models/{name}/predict", p.body, p.input_type) for p in payloads]
        alone, served = [], []
        with serving(target, "--executor", "thread", "--log-level", "error") as server:
            for _ in range(arguments.rounds):
                alone.append(offline(replica, payloads, arguments.seconds))
                served.append(
                    closed_loop(
                        server.port,
                        requests,
                        connections=arguments.connections,
                        seconds=arguments.seconds,
                    )
                )
        ratio = statistics.median(served) / statistics.median(alone)
        figures = ", ".join(
            f"{what} {statistics.median(rates):.0f}/s ({min(rates):.0f} to {max(rates):.0f})"
            for what, rates in (("offline", alone), ("served", served))
        )
        print(f"{name}: {figures}, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
