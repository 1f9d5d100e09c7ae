"""Which way up is a line of text? Its image in; the probabilities of upright and upside down out.

    pip install "headrace[examples]"
    gunicorn server:app --worker-class virtex.VirtexWorker --workers 2 --bind 127.0.0.1:8081

Each worker is a process with a network of its own, and shares nothing with the others. The same
handler under headrace's own server, with its batching, probes and API pages:

    headrace serve server.py:handler --max-batch-size 16

The network is the direction classifier of PaddleOCR (Apache-2.0), a file of the package
`rapidocr-onnxruntime`, which has no release for Python 3.13 yet.
"""

from importlib.metadata import distribution

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions
from PIL import Image

from virtex import RequestHandler, http_server
from virtex.serial import decode_pil, encode_numpy

NETWORK = "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
HEIGHT, WIDTH = 48, 192
MAX_BATCH_SIZE = 16  # no request is read while a batch runs

Pixels = NDArray[np.float32]  # [images, 3, 48, 192]: blue, green and red, -1 to 1
Probabilities = NDArray[np.float32]  # [images, 2]: of upright, of upside down


class Orientation(RequestHandler):
    """Images by `encode_pil` in; two probabilities each, for `decode_numpy`, out."""

    def __init__(self) -> None:
        options = SessionOptions()
        # One thread: it is the worker processes that use the processors.
        options.intra_op_num_threads = 1
        network = distribution("rapidocr-onnxruntime").locate_file(NETWORK)
        self.session = InferenceSession(str(network), options)

    def process_request(self, data: list[str]) -> Pixels:
        """The images as the network's input."""
        return np.stack([pixels_of(decode_pil(text)) for text in data])

    def run_inference(self, model_input: Pixels) -> Probabilities:
        """One run of the network for all images."""
        (probabilities,) = self.session.run(None, {"x": model_input})
        return probabilities

    def process_response(self, model_output_item: NDArray[np.float32]) -> str:
        """One image's probabilities as text."""
        return encode_numpy(model_output_item)


def pixels_of(image: Image.Image) -> NDArray[np.float32]:
    """An image 48 pixels high and at most 192 wide; zeros are to the right of a narrow one."""
    width = min(WIDTH, max(1, round(HEIGHT * image.width / image.height)))
    rgb = np.asarray(image.convert("RGB").resize((width, HEIGHT)), np.float32)
    pixels = np.zeros((3, HEIGHT, WIDTH), np.float32)
    pixels[:, :, :width] = rgb[:, :, ::-1].transpose(2, 0, 1) / 127.5 - 1
    return pixels


handler = Orientation()
app = http_server("orientation", handler, max_batch_size=MAX_BATCH_SIZE)
