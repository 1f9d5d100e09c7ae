"""Doubles numbers, or does what an element says; its calls stand in the folder's journal."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from typing import Any

from tests.e2e.models import folder, wait_for
from virtex import RequestHandler, http_server


class Scripted(RequestHandler):
    def process_request(self, data: list[Any]) -> list[Any]:
        with (folder() / "calls").open("a") as calls:
            calls.write(json.dumps(data) + "\n")
        for element in data:
            if element == "wait":
                wait_for("go")
            elif element == "hang":
                time.sleep(3600)
            elif element == "die":
                os._exit(7)
            elif element == "raise":
                raise ValueError("it said so")
        return data

    def run_inference(self, model_input: list[Any]) -> Iterable[Any]:
        if "raise later" in model_input:
            raise RuntimeError("in the model")
        return (element * 2 for element in model_input)

    def process_response(self, model_output_item: Any) -> Any:
        if model_output_item == 2 * "bad answer":
            raise KeyError("in the answer")
        if model_output_item == 2 * "nan":
            return float("nan")
        if model_output_item == 2 * "numpy":
            import numpy as np  # only here: it would slow each start

            return np.float32(1.0)
        return object() if model_output_item == 2 * "object" else model_output_item


handler = Scripted()
options = json.loads(os.environ.get("OPTIONS", "{}"))
app = http_server("service x", handler, **{"metrics_mode": "off", **options})
