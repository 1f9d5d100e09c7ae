"""The program behind scripts/demo, which makes the environment it runs in."""

import argparse
import gzip
import importlib.util
import io
import json
import signal
import sqlite3
import struct
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import wave
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
MODEL = "filetype"
TARGET = f"examples/{MODEL}.py:FileType"
ROUNDS = 5
"""How often each file is sent."""
SENDERS = 32
"""Who send them, at the same time."""

BATCHES = "headrace_batches_total"
BATCHED_ITEMS = "headrace_batch_items_sum"
REASONS = {
    "full": "as many waited as fit into a batch",
    "idle": "the model was free: nothing to wait for",
    "settled": "after a moment for the last batch's senders to return",
    "delay": "the longest wait that the model allows was over",
}
"""Why a batch left when it did, as the metric's label `reason` names it."""


class Sample(NamedTuple):
    """A file, and the label that is right for it."""

    name: str
    content: bytes
    label: str


class Server(NamedTuple):
    """A server that is ready."""

    process: subprocess.Popen[str]
    address: str


def main() -> int:
    """Run the demonstration; 0 if all went as it should."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Serve a model, and use it.")
    parser.add_argument("--keep", action="store_true", help="leave the server up until ^C")
    keep = parser.parse_args().keep
    console = Console()
    # As for ^C: what is running is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    console.print(f"Starting [bold]headrace serve {TARGET}[/]")
    with started() as server:
        samples = [*own_files(), *made_files(), *served_files(server.address)]
        began = time.perf_counter()
        with ThreadPoolExecutor(SENDERS) as senders:
            answers = list(senders.map(lambda s: ask(server.address, s), samples * ROUNDS))
        took_s = time.perf_counter() - began

        wrong = show_answers(console, samples, answers)
        console.print(
            f"{SENDERS} senders, {len(answers)} requests, {took_s:.2f} s:"
            f" {len(answers) - wrong} right answers, {wrong} wrong ones.\n"
        )
        batched = show_batches(console, server.address)
        console.print(f"The API's pages: {server.address}/docs")
        if keep:
            console.print("The server stays up; end it with ^C.")
            try:
                server.process.wait()
            except KeyboardInterrupt:
                server.process.wait()  # the terminal has sent it to the server, too
        else:
            console.print("(The server ends now; `scripts/demo --keep` leaves it up to look at.)")
    if server.process.returncode:
        console.print(f"The server ended with exit code {server.process.returncode}.")
    return 1 if wrong or batched != len(answers) or server.process.returncode else 0


@contextmanager
def started() -> Iterator[Server]:
    """The example's server on a free port, from when it is ready; stopped at the end."""
    headrace = Path(sys.executable).with_name("headrace")
    command = [str(headrace), "serve", TARGET, "--port=0", "--set=start_timeout_s=60"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first_line = process.stdout.readline()
            if "ready on " not in first_line:
                raise SystemExit(f"The server did not start, exit code {process.wait()}.")
            address = first_line.split()[-1]
            get(address, "/readyz")
            yield Server(process, address)
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()


def get(address: str, path: str) -> str:
    """The page at a path."""
    with urllib.request.urlopen(address + path, timeout=30) as response:
        text: str = response.read().decode()
        return text


def ask(address: str, sample: Sample) -> dict[str, Any]:
    """The model's answer about a file, or the server's error."""
    request = urllib.request.Request(
        f"{address}/models/{MODEL}/predict",
        data=sample.content,
        headers={"Content-Type": "application/octet-stream"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            body = response.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    except OSError as error:
        return {"error": str(error)}
    answer: dict[str, Any] = json.loads(body)
    return answer


def show_answers(console: Console, samples: list[Sample], answers: list[dict[str, Any]]) -> int:
    """Print a line a file; returns how many of all answers are wrong."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("file")
    table.add_column("bytes", justify="right")
    table.add_column("label")
    table.add_column("what it is", no_wrap=True, max_width=20)
    table.add_column("score")
    table.add_column("")
    wrong = 0
    for place, sample in enumerate(samples):
        answer = answers[place]
        labels = [other.get("label") for other in answers[place :: len(samples)]]
        misses = len(labels) - labels.count(sample.label)
        wrong += misses
        table.add_row(
            sample.name,
            f"{len(sample.content):,}",
            answer.get("label", ""),
            answer.get("description", answer.get("error", "")),
            f"{answer.get('score', 0):.3f}",
            f"[red]expected {sample.label}[/]" if misses else "[green]right[/]",
        )
    console.print(table)
    return wrong


def show_batches(console: Console, address: str) -> int:
    """Print what the batcher did; returns how many items it put into batches."""
    items, reasons = 0, {}
    for family in text_string_to_metric_families(get(address, "/metrics")):
        for metric in family.samples:
            if metric.labels.get("model") != MODEL:
                continue
            if metric.name == BATCHES:
                reasons[metric.labels["reason"]] = int(metric.value)
            elif metric.name == BATCHED_ITEMS:
                items = int(metric.value)
    batches = sum(reasons.values())
    console.print(
        f"The batcher made {batches} batches of them, {items / max(batches, 1):.1f} files in each"
        " on average:"
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("batches", justify="right")
    table.add_column("reason")
    table.add_column("why they left then")
    for reason, count in sorted(reasons.items(), key=lambda entry: -entry[1]):
        table.add_row(str(count), reason, REASONS.get(reason, ""))
    console.print(table)
    return items


def own_files() -> Iterator[Sample]:
    """Files of this repository."""
    for path, label in {
        "README.md": "markdown",
        "LICENSE": "txt",
        "pyproject.toml": "toml",
        "examples/filetype.py": "python",
        "scripts/demo": "shell",
    }.items():
        yield Sample(path, (ROOT / path).read_bytes(), label)


def made_files() -> Iterator[Sample]:
    """Files of other kinds: made here, and a compiled library."""
    text = (ROOT / "LICENSE").read_bytes()
    rows = [{"number": n, "square": n * n, "is_even": n % 2 == 0} for n in range(50)]
    table = ["number,square,is_even", *(f"{n},{n * n},{n % 2 == 0}" for n in range(50))]

    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("LICENSE", text)
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w") as tar:
        tar.add(ROOT / "LICENSE", "LICENSE")
    sound = io.BytesIO()
    with wave.open(sound, "wb") as recording:
        recording.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        recording.writeframes(struct.pack("<8000h", *(n % 80 * 200 for n in range(8000))))
    with sqlite3.connect(":memory:") as database:
        database.execute("create table numbers (number integer, square integer)")
        stored = database.serialize()
    database.close()

    yield Sample("rows.json", json.dumps(rows, indent=2).encode(), "json")
    yield Sample("rows.csv", "\n".join(table).encode(), "csv")
    yield Sample("rows.sqlite", stored, "sqlite")
    yield Sample("license.zip", zipped.getvalue(), "zip")
    yield Sample("license.tar", tarred.getvalue(), "tar")
    yield Sample("license.gz", gzip.compress(text), "gzip")
    yield Sample("rainbow.png", png(), "png")
    yield Sample("tone.wav", sound.getvalue(), "wav")
    yield Sample("nothing", b"", "empty")
    library = importlib.util.find_spec("msgspec._core")
    assert library is not None and library.origin is not None
    label = "macho" if sys.platform == "darwin" else "elf"
    yield Sample("msgspec/_core", Path(library.origin).read_bytes(), label)


def served_files(address: str) -> Iterator[Sample]:
    """What the server itself gives out."""
    yield Sample("/docs", get(address, "/docs").encode(), "html")
    yield Sample("/openapi.json", get(address, "/openapi.json").encode(), "json")


def png(side: int = 64) -> bytes:
    """A square image of many colours."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    rows = (
        b"\0" + b"".join(bytes((4 * x, 4 * y, 255 - 2 * (x + y))) for x in range(side))
        for y in range(side)
    )
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(rows))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
