"""Workers behind `headrace batching`: a program with a socket's path.

python _jobs.py PATH bytes     # gives each body back
python _jobs.py PATH ventu     # ventu.protocol.BatchProtocol: JSON, validated on both ways
"""

from __future__ import annotations

import socket
import sys


def echo_bytes(path: str) -> None:
    """The least that a worker in Python can do."""
    from headrace.jobs import ASK, JobFrames, JobResults, read_jobs, write_results

    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(ASK)
        frames = JobFrames()
        while data := sock.recv(1 << 18):
            for message in frames.feed(data):
                sock.sendall(write_results(JobResults(read_jobs(message))))


def echo_ventu(path: str) -> None:
    """What a model of ventu's does with its bodies."""
    from pydantic import BaseModel

    from ventu.protocol import BatchProtocol

    class Item(BaseModel):
        id: int
        text: str
        values: list[float]

    def infer(batch: list[Item]) -> list[dict[str, object]]:
        return [item.model_dump() for item in batch]

    BatchProtocol(infer, Item, Item, False).run(path)


if __name__ == "__main__":
    {"bytes": echo_bytes, "ventu": echo_ventu}[sys.argv[2]](sys.argv[1])
