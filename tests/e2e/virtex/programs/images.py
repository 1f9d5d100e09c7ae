"""The documented flow of images: files come as they are, images go back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageOps

from virtex import RequestHandler, http_server
from virtex.serial import decode_pil_from_bytes, encode_pil


class Negatives(RequestHandler):
    def process_request(self, data: list[str]) -> list[Image.Image]:
        return [decode_pil_from_bytes(element) for element in data]

    def run_inference(self, model_input: list[Image.Image]) -> Iterator[Image.Image]:
        for image in model_input:
            yield ImageOps.invert(image)

    def process_response(self, model_output_item: Any) -> str:
        return encode_pil(model_output_item)


app = http_server("negatives", Negatives(), metrics_mode="off")
