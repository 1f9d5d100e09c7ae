"""The programs in examples/virtex run in a folder of their own, and print what is right."""

from __future__ import annotations

import re
import sys
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .copies import Copy, found_in
from .pages import ROOT, TIMEOUT_S

pytestmark = [pytest.mark.examples, pytest.mark.slow]

FOLDER = ROOT / "examples" / "virtex"
PROGRAMS = {"server", "client", "load_test", "test_handler"}
ADDRESS = "127.0.0.1:8081"
"""What the programs say; a free port is taken in its place."""

EXAMPLES = [
    pytest.param(
        "image",
        marks=pytest.mark.skipif(
            sys.version_info >= (3, 13), reason="rapidocr-onnxruntime is not for this Python"
        ),
    ),
    "text",
]

_SURE = r"\(probability (?:1\.000|0\.9\d+)\)"
ANSWERS = {
    "image": [
        rf"{re.escape(text)} +turned by +{degrees}°  is {found} +{_SURE}"
        for text in ("Water to the wheel", "Hello headrace", "Which way up?")
        for degrees, found in ((0, "upright"), (180, "upside down"))
    ],
    "text": [
        rf"{re.escape(sentence)} +is most like \(0\.[4-9]\d\)  {re.escape(other)}"
        for sentence, other in (
            ("The cat sat on the mat.", "A kitten was resting on the rug."),
            ("Interest rates are going up.", "Borrowing money has become expensive."),
            ("Take an umbrella with you.", "It is going to rain all day."),
            ("A kitten was resting on the rug.", "The cat sat on the mat."),
            ("It is going to rain all day.", "Take an umbrella with you."),
            ("Borrowing money has become expensive.", "Interest rates are going up."),
        )
    ],
}
"""What each line that the client prints must be."""

LEAKS = {
    "image": ("decode_pil(text)", "(KEPT.append(i := decode_pil(text)), i)[1]"),
    "text": (
        "ids, mask = model_input",
        "ids, mask = model_input\n        KEPT.append(model_input)",
    ),
}

"""A line of each server, and one in its place that keeps what each call makes."""


@pytest.fixture(scope="module", params=EXAMPLES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(FOLDER / request.param, tmp_path_factory.mktemp(request.param) / "copy")


def test_every_example_is_here() -> None:
    folders = [path for path in FOLDER.iterdir() if any(path.glob("*.py"))]
    assert {path.name for path in folders} == set(ANSWERS)
    for path in folders:
        assert {file.stem for file in path.glob("*.py")} == PROGRAMS


def test_client_and_load_test_under_gunicorn(folder: Copy) -> None:
    command, _ = folder.commands("server")
    assert ADDRESS in command
    command = command.replace(ADDRESS, "127.0.0.1:0")
    with folder.running(command, r"Listening at: (http://\S+)\s") as (found, log):
        address = found[1]
        assert_answers(folder, address)

        (load_test,) = folder.commands("load_test")
        code, printed = folder.run(at(load_test, address), "--rate", "20", "--count", "40")
        assert code == 0, printed
        sent, answered, p50, p99, errors = printed.splitlines()
        assert re.fullmatch(r"sent      40 at \d+\.\d/s", sent)
        assert re.fullmatch(r"answered  \d+\.\d/s", answered)
        median_ms, slowest_ms = milliseconds(p50, "p50"), milliseconds(p99, "p99")
        assert 0 < median_ms <= slowest_ms
        assert errors == "errors    0"

        # The elements that the workers have counted are those that were sent.
        told = found_in(log, r"metrics of \w+ are served at (http://\S+)\s", count=2)
        pages = [match[1] for match in told]
        assert len(set(pages)) == 2
        assert sum(map(queries, pages)) == len(ANSWERS[folder.name]) + 40


def test_the_client_against_headrace(folder: Copy) -> None:
    _, command = folder.commands("server")
    assert command.startswith("headrace serve server.py:handler")
    with folder.running(f"{command} --port 0", r"is ready on (http://\S+)\s") as (found, _):
        address = found[1]
        assert_answers(folder, address)


def test_the_client_without_a_server(folder: Copy) -> None:
    (client,) = folder.commands("client")
    # Nobody listens on port 1.
    code, printed = folder.run(at(client, "http://127.0.0.1:1"))
    assert (code, printed) == (1, "127.0.0.1:1: connection refused\n")


def test_the_unit_tests_pass(folder: Copy) -> None:
    (command,) = folder.commands("test_handler")
    code, printed = folder.run(command, "-p", "no:cacheprovider")
    assert code == 0 and "4 passed" in printed, printed


def test_the_unit_tests_find_a_leak(folder: Copy, tmp_path: Path) -> None:
    leaking = Copy(FOLDER / folder.name, tmp_path / "copy")
    server = tmp_path / "copy" / "server.py"
    text, (line, keeping) = server.read_text(), LEAKS[folder.name]
    assert text.count(line) == 1
    server.write_text(text.replace(line, keeping).replace("\nMAX_BATCH", "\nKEPT = []\nMAX_BATCH"))
    (command,) = leaking.commands("test_handler")
    code, printed = leaking.run(command, "-p", "no:cacheprovider", "-k", "memory or one")
    assert code == 1 and "1 failed, 1 passed" in printed, printed


def assert_answers(folder: Copy, address: str) -> None:
    """The client prints what is right."""
    (client,) = folder.commands("client")
    code, printed = folder.run(at(client, address))
    assert code == 0, printed
    for line, expected in zip(printed.splitlines(), ANSWERS[folder.name], strict=True):
        assert re.fullmatch(expected, line), printed


def at(command: str, address: str) -> str:
    """A command with another address."""
    assert f"http://{ADDRESS}" in command
    return command.replace(f"http://{ADDRESS}", address)


def milliseconds(line: str, name: str) -> float:
    found = re.fullmatch(rf"{name}       (\d+\.\d) ms", line)
    assert found, line
    return float(found[1])


def queries(url: str) -> float:
    """The data elements that a worker has answered, by its metrics."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        families = text_string_to_metric_families(response.read().decode())
        (sample,) = (s for f in families for s in f.samples if s.name == "queries_total")
    return sample.value
