"""One of our models on Ray Serve, with its own batching."""

# mypy: ignore-errors
# Not `from __future__ import annotations`: Ray reads the annotations.

import ray
from _order import BATCH, PORT, WAIT_MS, Pipeline
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=1024)
class Served:
    """One replica."""

    def __init__(self):
        self.pipeline = Pipeline()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_MS / 1000)
    async def predict(self, items):
        return self.pipeline.run(items)

    async def __call__(self, request: Request):
        return await self.predict(await request.json())


if __name__ == "__main__":
    ray.init(include_dashboard=False, configure_logging=False, num_cpus=4)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Served.bind(), blocking=True, logging_config={"enable_access_log": False})
