"""One of our models on MLServer: an item is a JSON text in a BYTES tensor."""

# mypy: ignore-errors
from __future__ import annotations

import json

from _order import Pipeline
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceResponse


class Served(MLModel):
    """Gets the texts of a batch as one tensor."""

    async def load(self) -> bool:
        self.pipeline = Pipeline()
        return True

    async def predict(self, payload):
        items = [json.loads(text) for text in StringCodec.decode_input(payload.inputs[0])]
        answers = [json.dumps(answer) for answer in self.pipeline.run(items)]
        output = StringCodec.encode_output("answer", answers)
        return InferenceResponse(model_name=self.name, outputs=[output])
