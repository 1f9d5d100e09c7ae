"""Tells what was there once its application was made."""

from __future__ import annotations

import json
import os
import socket
import threading

from tests.e2e.models import folder
from tests.e2e.virtex.programs.scripted import handler
from virtex import http_server

port = int(os.environ["METRICS_PORT"])
app = http_server("preloaded", handler, metrics_port=port)
with socket.socket() as free:
    free.bind(("127.0.0.1", port))  # an error if the application had bound it
with (folder() / "imports").open("a") as imports:
    imports.write(json.dumps([os.getpid(), threading.active_count()]) + "\n")
