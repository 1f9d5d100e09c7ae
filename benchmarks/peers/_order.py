"""What a peer is told to serve, through its environment; and the model, which is one of ours."""

# mypy: ignore-errors
from __future__ import annotations

import dataclasses
import importlib.util
import os

PORT = int(os.environ["BENCH_PORT"])
BATCH = int(os.environ["BENCH_BATCH"])
WORKERS = int(os.environ["BENCH_WORKERS"])
WAIT_MS = int(os.environ["BENCH_WAIT_MS"])
TIMEOUT_S = float(os.environ.get("BENCH_TIMEOUT_S", "60"))
TAKES_BYTES = os.environ["BENCH_TAKES"] == "bytes"
GIVES_BYTES = os.environ["BENCH_GIVES"] == "bytes"


class Pipeline:
    """The model of the order, loaded."""

    def __init__(self) -> None:
        path, _, name = os.environ["BENCH_TARGET"].rpartition(":")
        spec = importlib.util.spec_from_file_location("served", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.model = getattr(module, name)()
        self.model.load()

    def finish(self, output):
        """An output as what JSON can hold, or as bytes."""
        answer = self.model.postprocess(output)
        return dataclasses.asdict(answer) if dataclasses.is_dataclass(answer) else answer

    def run(self, items):
        """A batch through all of the model."""
        prepared = [self.model.preprocess(item) for item in items]
        return [self.finish(output) for output in self.model.predict(prepared)]
