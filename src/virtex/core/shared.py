"""One port for the metrics of all workers of a service.

Each worker serves its own metrics on a port of the loopback interface and names it in a file of a
private folder. The worker that holds the folder's lock serves the shared port: it asks the others
when it is asked. When it ends, however it ends, the system hands the lock to another.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from .logging import LOGGER
from .metrics import LABEL
from .scrape import Exposition

LOOPBACK = "127.0.0.1"

FETCH_TIMEOUT_S = 1.0
"""A worker that says nothing for so long is left out of a scrape."""

SCRAPE_TIMEOUT_S = 2.0
"""A scrape waits no longer for all of them."""

MAX_EXPOSITION_BYTES = 16 << 20
"""No worker's metrics are larger."""

RETRY_S, MAX_RETRY_S = 0.01, 5.0
"""While somebody else listens on the port, the pause doubles from the one to the other."""


class Told(NamedTuple):
    """What a worker says of its metrics.

    Attributes:
        instance: The worker.
        text: Its metrics in Prometheus's text format.
    """

    instance: str
    text: str


class Folder:
    """A private folder where the workers of one service find each other.

    Made if need be, in the system's folder for temporary files.

    Args:
        name: The service.
        port: The port that its workers share.

    Raises:
        PermissionError: Somebody else has a folder of that name, or others may look into it.
    """

    def __init__(self, name: str, port: int) -> None:
        digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:12]
        self.path = Path(tempfile.gettempdir()) / f"virtex-metrics-{os.getuid()}-{port}-{digest}"
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        found = self.path.lstat()
        is_private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
        if not is_private or found.st_uid != os.getuid():
            raise PermissionError(
                f"metrics_shared: expected a folder of this user's with mode 0700, found"
                f" {stat.filemode(found.st_mode)} of user {found.st_uid}: {self.path}"
            )

    def open_turn(self) -> int:
        """The file whose lock says who serves the port, open."""
        return os.open(self.path / "turn", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    def join(self, instance: str, port: int) -> tuple[int, Path]:
        """Tell the others of a worker's own port, until its file is closed.

        Its lock, which ends with the process, says that the worker lives: numbers of processes
        come again. Nobody sees the file before it is locked.

        Returns:
            The open file, and its path.
        """
        number, path = tempfile.mkstemp(prefix=".", dir=self.path)
        fcntl.flock(number, fcntl.LOCK_EX)
        os.write(number, json.dumps({"instance": instance, "port": port}).encode())
        final = self.path / f"{os.getpid()}-{port}.json"
        os.rename(path, final)
        return number, final

    def others(self, own: Path) -> Iterator[tuple[str, int]]:
        """Instances and ports of all workers but one; the files of dead ones are removed."""
        for path in self.path.glob("[0-9]*.json"):
            try:
                # Where old temporary files are removed at times, these are not old.
                os.utime(path)
                if path == own or not _is_held(path):
                    continue
                told = json.loads(path.read_text())
                place = str(told["instance"]), int(told["port"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            yield place

    def keep(self) -> None:
        """Make the folder's lock look new to whatever removes old temporary files."""
        with contextlib.suppress(OSError):
            os.utime(self.path / "turn")


def _is_held(path: Path) -> bool:
    """Whether the worker of a file lives; if not, the file is removed."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        path.unlink(missing_ok=True)
        return False


class AllWorkers(Collector):
    """The metrics of a worker and of all its siblings; one that does not answer is left out.

    Args:
        own: The worker's own metrics.
        instance: The worker.
        folder: Where the siblings are found.
        file: The worker's own file there.
    """

    def __init__(self, own: CollectorRegistry, instance: str, folder: Folder, file: Path) -> None:
        self._own = own
        self._instance = instance
        self._folder = folder
        self._file = file

    def describe(self) -> Iterable[Metric]:
        """What this worker has: a scraper may ask for some names only."""
        return self._own.collect()

    def collect(self) -> Iterable[Metric]:
        self._folder.keep()
        told = fetch(self._folder.others(self._file))
        own = Told(self._instance, generate_latest(self._own).decode())
        return merged([own, *told])


def fetch(places: Iterable[tuple[str, int]]) -> list[Told]:
    """What the workers at these ports say, those that do within the time."""
    answers: list[Told] = []

    def ask(instance: str, port: int) -> None:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=FETCH_TIMEOUT_S)
        try:
            connection.request("GET", "/metrics")
            response = connection.getresponse()
            body = response.read(MAX_EXPOSITION_BYTES + 1)
            if response.status == 200 and len(body) <= MAX_EXPOSITION_BYTES:
                answers.append(Told(instance, body.decode()))
        except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
            LOGGER.debug("the metrics of %s are left out: %r", instance, error)
        finally:
            connection.close()

    ends = time.monotonic() + SCRAPE_TIMEOUT_S
    threads = [threading.Thread(target=ask, args=place, daemon=True) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))
    return list(answers)


def merged(told: Iterable[Told]) -> list[Metric]:
    """One family of each name, with the samples of all workers.

    A sample without the label `server_instance` gets it, so that no two workers have the same one.
    What cannot be read is left out, and so is a family whose kind is not that of the first one of
    its name, as may be while workers of an old version end.
    """
    families: dict[str, Metric] = {}
    for instance, text in told:
        try:
            parsed = list(text_string_to_metric_families(text))
        except ValueError as error:
            LOGGER.debug("the metrics of %s are left out: %r", instance, error)
            continue
        for metric in parsed:
            family = families.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type)
            )
            if family.type == metric.type:
                for sample in metric.samples:
                    labels = {LABEL: instance, **sample.labels}
                    family.add_sample(sample.name, labels, sample.value)
    return list(families.values())


class Shared:
    """An exporter that serves the metrics of all workers of a service on one port.

    Args:
        name: The service.
        registry: The worker's own metrics.
        instance: The worker.
        host: The address to listen on.
        port: The shared port.
    """

    def __init__(
        self, name: str, registry: CollectorRegistry, instance: str, host: str, port: int
    ) -> None:
        self._name = name
        self._registry = registry
        self._instance = instance
        self._host = host
        self._port = port
        self._stopping = threading.Event()
        self._changing = threading.Lock()
        self._close = contextlib.ExitStack()

    def start(self) -> None:
        """Serve this worker's metrics to its siblings, and everybody's when it is its turn.

        Raises:
            OSError: The folder cannot be made, or is not private.
        """
        folder = Folder(self._name, self._port)
        own = Exposition(self._registry, LOOPBACK, 0)
        self._close.callback(own.close)
        number, file = folder.join(self._instance, own.port)
        self._close.callback(os.close, number)
        self._close.callback(file.unlink, missing_ok=True)
        everybody = CollectorRegistry()
        everybody.register(AllWorkers(self._registry, self._instance, folder, file))
        threading.Thread(
            target=self._take_turn,
            args=(folder.open_turn(), everybody),
            name="virtex-metrics-turn",
            daemon=True,
        ).start()

    def stop(self) -> None:
        with self._changing:
            self._stopping.set()
        # Last comes the lock: when another gets it, the port is free.
        self._close.close()

    def _take_turn(self, turn: int, everybody: CollectorRegistry) -> None:
        # Nothing wakes a thread from here but the lock: after a stop it passes the lock on.
        fcntl.flock(turn, fcntl.LOCK_EX)
        retry_s = RETRY_S
        while not self._stopping.is_set():
            try:
                exposition = Exposition(everybody, self._host, self._port)
            except OSError as error:
                # The holder that died may be closing its files yet; or a stranger is there.
                if retry_s == MAX_RETRY_S:
                    LOGGER.warning(
                        "metrics_port: cannot listen on %s, port %d: %s",
                        self._host,
                        self._port,
                        error,
                    )
                self._stopping.wait(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)
                continue
            with self._changing:
                if not self._stopping.is_set():
                    self._close.callback(os.close, turn)
                    self._close.callback(exposition.close)
                    LOGGER.info("metrics of %s are served at %s", self._name, exposition)
                    return
            exposition.close()
        os.close(turn)
