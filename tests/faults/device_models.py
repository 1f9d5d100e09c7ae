"""Models that break for good while they run, as one does whose CUDA context is lost."""

from __future__ import annotations

from typing import Any, ClassVar

from headrace import Batching, Model

POISON = -1
HUGE = 1 << 42
BUSY = 1 << 20


class Breaks(Model):
    """Doubles numbers; after the poison nothing works any more, not even its example."""

    batching: ClassVar = Batching(max_batch_size=8, max_batch_delay_s=0.2)
    examples: ClassVar = [0]

    def load(self) -> None:
        self.is_broken = False

    def predict(self, batch: list[int]) -> list[int]:
        self.is_broken |= POISON in batch
        if self.is_broken:
            raise RuntimeError("the context is lost")
        return [2 * n for n in batch]


class OnDevice(Model):
    """Doubles numbers on a CUDA device.

    The poison indexes out of a table there, which loses the context; HUGE asks for more memory than
    any device has; BUSY holds a gigabyte meanwhile.
    """

    batching: ClassVar = Batching(max_batch_size=8, max_batch_delay_s=0.2)
    examples: ClassVar = [0]

    def load(self) -> None:
        import torch

        self.torch: Any = torch
        self.table = 2 * torch.arange(64, device="cuda")

    def predict(self, batch: list[int]) -> list[int]:
        torch = self.torch
        if HUGE in batch:
            torch.empty(HUGE, dtype=torch.uint8, device="cuda")
        if BUSY in batch:
            self.held = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")
        wanted = [64 if n == POISON else n % 64 for n in batch]
        found = self.table[torch.tensor(wanted, device="cuda")]
        return [int(n) for n in found.cpu()]
