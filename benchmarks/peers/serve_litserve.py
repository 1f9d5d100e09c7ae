"""One of our models on LitServe, which reads JSON only: bytes come in base64."""

# mypy: ignore-errors
from __future__ import annotations

import base64

import litserve
from _order import BATCH, PORT, TAKES_BYTES, TIMEOUT_S, WAIT_MS, Pipeline


class Served(litserve.LitAPI):
    """One worker, which decodes, predicts and encodes."""

    def setup(self, device):
        self.pipeline = Pipeline()

    def decode_request(self, request):
        item = base64.b64decode(request["content"]) if TAKES_BYTES else request
        return self.pipeline.model.preprocess(item)

    def batch(self, inputs):
        return inputs

    def predict(self, batch):
        return self.pipeline.model.predict(batch)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return self.pipeline.finish(output)


if __name__ == "__main__":
    api = Served(max_batch_size=BATCH, batch_timeout=WAIT_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=TIMEOUT_S)
    server.run(
        host="127.0.0.1",
        port=PORT,
        num_api_servers=1,
        log_level="error",
        generate_client_file=False,
        access_log=False,
    )
