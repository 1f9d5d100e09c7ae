"""One of our models on mosec: JSON by mosec's own default, or bytes as they are."""

# mypy: ignore-errors
from __future__ import annotations

from _order import BATCH, GIVES_BYTES, TAKES_BYTES, WAIT_MS, WORKERS, Pipeline
from mosec import Server, Worker


class Served(Worker):
    """One worker, which is all of the pipeline."""

    def __init__(self):
        super().__init__()
        self.pipeline = Pipeline()

    def deserialize(self, data):
        return data if TAKES_BYTES else super().deserialize(data)

    def serialize(self, data):
        return data if GIVES_BYTES else super().serialize(data)

    def forward(self, data):
        return self.pipeline.run(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Served, num=WORKERS, max_batch_size=BATCH, max_wait_time=WAIT_MS)
    server.run()
