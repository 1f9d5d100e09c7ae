"""Where batches run; one interface, and one suite of tests over all of them."""

from .base import Events, Executor, MakeReplica
from .inline import InlineExecutor
from .thread import ThreadExecutor

__all__ = ["Events", "Executor", "InlineExecutor", "MakeReplica", "ThreadExecutor"]
