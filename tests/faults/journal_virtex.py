"""The model of `journal.py` behind virtex: a program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.faults.journal import MAX_BATCH_SIZE, call
from virtex import RequestHandler, http_server


class Stepped(RequestHandler):
    """Doubles numbers."""

    def process_request(self, data: list[Any]) -> list[Any]:
        return data

    def run_inference(self, model_input: list[Any]) -> Iterable[Any]:
        return call(model_input)

    def process_response(self, model_output_item: Any) -> Any:
        return model_output_item


app = http_server("stepped", Stepped(), max_batch_size=MAX_BATCH_SIZE, metrics_mode="off")
