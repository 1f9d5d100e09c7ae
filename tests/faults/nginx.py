"""A real nginx in front of servers that come and go, and clients behind it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.conftest import Served, eventually

CONFIGURATION = """
{user}
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    log_format one '$status $upstream_addr $upstream_status';
    access_log {folder}/access.log one;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream replicas {{
        {servers}
        keepalive 64;
    }}
    server {{
        listen unix:{folder}/s backlog=1024;
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream off;
        }}
    }}
}}
"""
"""It keeps connections to the servers open, and tries no request a second time."""

ANSWER_S = 30.0
PREDICT_S = 0.05
"""What the model takes, so that those who ask without a pause leave the machine some time."""


class Nginx:
    """nginx, which asks servers in turn.

    Args:
        folder: For its files, with a short path.
        servers: Whom it asks.
    """

    def __init__(self, folder: Path, servers: Sequence[Served]) -> None:
        self.path = folder / "s"
        self._folder = folder
        self._set(servers)
        command = [_binary(), "-p", str(folder), "-c", str(folder / "conf"), "-g", "daemon off;"]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        eventually(self.path.exists, "nginx to listen")
        eventually((folder / "pid").exists, "nginx to run")

    def _set(self, servers: Sequence[Served]) -> None:
        lines = "\n".join(
            "server {}:{} max_fails=0;".format(*server.host_and_port) for server in servers
        )
        user = "user root;" if os.getuid() == 0 else ""
        text = CONFIGURATION.format(user=user, folder=self._folder, servers=lines)
        (self._folder / "conf").write_text(text)

    def use(self, servers: Sequence[Served]) -> None:
        """Ask these servers from now on; what is under way is finished."""
        self._set(servers)
        self._process.send_signal(signal.SIGHUP)

    def told(self) -> str:
        """What it has logged of trouble."""
        return (self._folder / "error.log").read_text()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10.0)


def _binary() -> str:
    path = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        if "CI" in os.environ:
            pytest.fail("expected nginx: apt-get install nginx")
        pytest.skip("nginx is not installed: apt-get install nginx")
    return path


class Traffic:
    """Clients behind nginx: some ask without a pause, others at a steady rate whatever happens.

    Each request has a connection of its own, as nginx closes those of its clients when it is told
    of other servers, whether or not a request is on its way.

    Attributes:
        right: Requests that were answered rightly.
        failed: The others, and what became of them.
    """

    def __init__(self, path: Path, *, closed: int, rate: float) -> None:
        self.right = 0
        self.failed: list[str] = []
        self._path = path
        self._closed = closed
        self._rate = rate
        self._n = 0
        self._is_over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join(2 * ANSWER_S)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        await asyncio.gather(self._steadily(), *(self._in_turn() for _ in range(self._closed)))

    async def _in_turn(self) -> None:
        while not self._is_over:
            await self._ask()

    async def _steadily(self) -> None:
        due = time.monotonic()
        async with asyncio.TaskGroup() as asking:
            while not self._is_over:
                asking.create_task(self._ask())
                due += 1 / self._rate
                await asyncio.sleep(due - time.monotonic())

    async def _ask(self) -> None:
        self._n += 1
        n = self._n
        body = json.dumps({"n": n, "s": PREDICT_S})
        head = "POST /predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(self._path)
                try:
                    writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
                    answer = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            self.failed.append(f"{n}: {error!r}")
            return
        first, _, rest = answer.partition(b"\r\n")
        if b" 200 " in first + b" " and rest.rpartition(b"\r\n\r\n")[2].strip() == b"%d" % (2 * n):
            self.right += 1
        else:
            self.failed.append(f"{n}: {answer[:200]!r}")
