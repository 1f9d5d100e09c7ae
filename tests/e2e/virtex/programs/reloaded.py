"""A program that is changed while it is served."""

from __future__ import annotations

from typing import Any

from virtex import RequestHandler, http_server

FACTOR = 2


class Times(RequestHandler):
    def process_request(self, data: list[int]) -> list[int]:
        return data

    def run_inference(self, model_input: list[int]) -> list[int]:
        return [FACTOR * number for number in model_input]

    def process_response(self, model_output_item: Any) -> Any:
        return model_output_item


app = http_server("times", Times(), metrics_mode="off")
