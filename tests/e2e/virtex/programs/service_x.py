"""The documented server, with its metrics where the environment says."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtex import RequestHandler, http_server


class Doubles(RequestHandler):
    def process_request(self, data: list[float]) -> NDArray[np.float64]:
        return np.array(data)

    def run_inference(self, model_input: NDArray[np.float64]) -> NDArray[np.float64]:
        return model_input * 2

    def process_response(self, model_output_item: Any) -> float:
        return float(model_output_item)


def told() -> dict[str, Any]:
    if os.environ["SPELLING"] == "prom":
        return {
            "prom_host": "http://127.0.0.1",
            "prom_port": int(os.environ["METRICS_PORT"]),
            "prom_mode": os.environ["METRICS_MODE"],
            "prom_push_interval": 0.01,
        }
    return {
        "metrics_host": os.environ.get("METRICS_HOST", "127.0.0.1"),
        "metrics_port": int(os.environ["METRICS_PORT"]),
        "metrics_mode": os.environ["METRICS_MODE"],
        "metrics_interval": 0.01,
    }


app = http_server(
    name="service_x", handler=Doubles(), max_batch_size=512, max_time_on_queue=0.005, **told()
)
