"""The echo on mosec, which runs in an environment of its own."""

# mypy: ignore-errors
from __future__ import annotations

import os

from mosec import Server, Worker


class Echo(Worker):
    """Gives each body back, as bytes: neither side's JSON is what is measured."""

    def deserialize(self, data):
        return data

    def serialize(self, data):
        return data

    def forward(self, data):
        return data


if __name__ == "__main__":
    server = Server()
    size, workers = int(os.environ["BATCH"]), int(os.environ["WORKERS"])
    wait_ms = int(os.environ["WAIT_MS"])
    server.append_worker(Echo, num=workers, max_batch_size=size, max_wait_time=wait_ms)
    server.run()
