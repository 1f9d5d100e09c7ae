"""The echo that `messages.py` serves, once for each setting of its metrics."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from virtex import RequestHandler, http_server


class Echo(RequestHandler):
    """Gives back what it gets."""

    def process_request(self, data: list[Any]) -> list[Any]:
        return data

    def run_inference(self, model_input: list[Any]) -> Iterable[Any]:
        return model_input

    def process_response(self, model_output_item: Any) -> Any:
        return model_output_item


app = http_server(
    "echo",
    Echo(),
    metrics_mode=os.environ.get("METRICS_MODE", "off"),
    metrics_port=int(os.environ.get("METRICS_PORT", "9090")),
)
