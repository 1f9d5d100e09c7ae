"""Where batches run; one interface, and one suite of tests over all of them."""

from .base import Events, Executor, Loss, MakeReplica, ReplicaStatus
from .inline import InlineExecutor
from .launcher import Launch
from .process import ProcessExecutor
from .pull import PullExecutor
from .remote import RemoteExecutor
from .thread import ThreadExecutor

__all__ = [
    "Events",
    "Executor",
    "InlineExecutor",
    "Launch",
    "Loss",
    "MakeReplica",
    "ProcessExecutor",
    "PullExecutor",
    "RemoteExecutor",
    "ReplicaStatus",
    "ThreadExecutor",
]
