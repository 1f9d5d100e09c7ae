"""Dynamic batching as pure rules: told what happens, it says what to do."""

from .batcher import Action, Answer, Batcher, Cancel, Overrun, Run
from .item import Batch, Cut, Item, State
from .policy import Rules
from .sizing import key_and_cost

__all__ = [
    "Action",
    "Answer",
    "Batch",
    "Batcher",
    "Cancel",
    "Cut",
    "Item",
    "Overrun",
    "Rules",
    "Run",
    "State",
    "key_and_cost",
]
