"""One of our models on PyTriton: an item is a JSON text in a BYTES tensor of one element."""

# mypy: ignore-errors
from __future__ import annotations

import json

import numpy as np
from _order import BATCH, PORT, WAIT_MS, Pipeline
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def main() -> None:
    pipeline = Pipeline()

    @batch
    def infer(item):
        answers = pipeline.run([json.loads(text) for (text,) in item.tolist()])
        return {"answer": np.array([[json.dumps(answer).encode()] for answer in answers])}

    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=PORT,
        allow_grpc=False,
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="served",
            infer_func=infer,
            inputs=[Tensor(name="item", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="answer", dtype=bytes, shape=(1,))],
            config=ModelConfig(
                max_batch_size=BATCH,
                batcher=DynamicBatcher(max_queue_delay_microseconds=1000 * WAIT_MS),
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main()
