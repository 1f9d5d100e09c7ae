"""The documented round trip of numpy arrays."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtex import RequestHandler, http_server
from virtex.serial import decode_numpy, encode_numpy


class Sums(RequestHandler):
    def process_request(self, data: list[str]) -> NDArray[Any]:
        return np.stack([decode_numpy(element) for element in data])

    def run_inference(self, model_input: NDArray[Any]) -> NDArray[Any]:
        return np.cumsum(model_input, axis=1)

    def process_response(self, model_output_item: NDArray[Any]) -> str:
        return encode_numpy(model_output_item)


app = http_server("sums", Sums(), metrics_port=int(os.environ["METRICS_PORT"]))
